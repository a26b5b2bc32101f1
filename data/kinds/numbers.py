"""Small arithmetic, order and notation: pairs of numbers (`17, 42`) and single numbers (`613`)."""
import random

from data.kinds import task


class Pair(tuple):
    """Two different numbers that the LLM reads as `17, 42`."""

    def __str__(self) -> str:
        return f"{self[0]}, {self[1]}"


def pairs(n: int) -> list[Pair]:
    rng, made = random.Random(0), {}
    while len(made) < n:
        made[Pair(rng.sample(range(1, 100), 2))] = None
    return list(made)


def singles(n: int) -> list[int]:
    """All numbers of two digits and some of three, `n` in total, shuffled."""
    rng = random.Random(0)
    numbers = list(range(10, 100)) + rng.sample(range(100, 1000), n - 90)
    rng.shuffle(numbers)
    return numbers


PAIRS = pairs(600)
SINGLES = singles(520)

SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ROMAN_HUNDREDS = ["", *"C CC CCC CD D DC DCC DCCC CM".split()]
ROMAN_TENS = ["", *"X XX XXX XL L LX LXX LXXX XC".split()]
ROMAN_ONES = ["", *"I II III IV V VI VII VIII IX".split()]


def in_words(n: int) -> str:
    """613 → six hundred thirteen"""
    if n < 20:
        return SMALL[n]
    if n < 100:
        tens = TENS[n // 10 - 2]
        return f"{tens}-{SMALL[n % 10]}" if n % 10 else tens
    hundreds = f"{SMALL[n // 100]} hundred"
    return f"{hundreds} {in_words(n % 100)}" if n % 100 else hundreds


# Pairs: which number × how it is written.

@task(PAIRS)
def first(pair):
    return str(pair[0])


@task(PAIRS)
def second(pair):
    return str(pair[1])


@task(PAIRS)
def larger(pair):
    return str(max(pair))


@task(PAIRS)
def smaller(pair):
    return str(min(pair))


@task(PAIRS)
def first_in_words(pair):
    return in_words(pair[0])


@task(PAIRS)
def second_in_words(pair):
    return in_words(pair[1])


@task(PAIRS)
def larger_in_words(pair):
    return in_words(max(pair))


@task(PAIRS)
def smaller_in_words(pair):
    return in_words(min(pair))


@task(PAIRS)
def first_plus_one(pair):
    return str(pair[0] + 1)


@task(PAIRS)
def second_plus_ten(pair):
    return str(pair[1] + 10)


# Pairs: both numbers together.

@task(PAIRS)
def total(pair):
    return str(sum(pair))


@task(PAIRS)
def difference(pair):
    return str(max(pair) - min(pair))


@task(PAIRS)
def sum_equation(pair):
    return f"{pair[0]} + {pair[1]} = {sum(pair)}"


@task(PAIRS)
def comparison_sign(pair):
    return f"{pair[0]} {'<' if pair[0] < pair[1] else '>'} {pair[1]}"


@task(PAIRS)
def ascending(pair):
    return f"{min(pair)} and {max(pair)}"


@task(PAIRS)
def descending(pair):
    return f"{max(pair)} and {min(pair)}"


@task(PAIRS)
def swapped(pair):
    return f"{pair[1]}, {pair[0]}"


# Singles: neighbours and notation.

@task(SINGLES)
def next_number(n):
    return str(n + 1)


@task(SINGLES)
def previous_number(n):
    return str(n - 1)


@task(SINGLES)
def plus_ten(n):
    return str(n + 10)


@task(SINGLES)
def spelled_out(n):
    words = in_words(n)
    return [words, words.replace("hundred ", "hundred and ")] if "hundred " in words else words


@task(SINGLES)
def roman(n):
    return ROMAN_HUNDREDS[n // 100] + ROMAN_TENS[n // 10 % 10] + ROMAN_ONES[n % 10]


@task(SINGLES)
def ordinal(n):
    if n // 10 % 10 == 1:
        return f"{n}th"
    return str(n) + {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")


@task(SINGLES)
def dollars(n):
    return f"${n}"


@task(SINGLES)
def percent(n):
    return f"{n}%"


# Singles: digits.

@task(SINGLES)
def first_digit(n):
    return str(n)[0]


@task(SINGLES)
def last_digit(n):
    return str(n)[-1]


@task(SINGLES)
def spaced_digits(n):
    return " ".join(str(n))


@task(SINGLES)
def reversed_digits(n):
    return str(n)[::-1] if n % 10 else None    # 40 would begin with a zero


@task(SINGLES)
def even_or_odd(n):
    return "odd" if n % 2 else "even"
