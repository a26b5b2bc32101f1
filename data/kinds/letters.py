"""Spelling and look of a single word: which letters (position, how many), in which case, and
what is put around, between or after them."""
from data.kinds import task
from data.lexicon import WORDS

COUNTS = "zero one two three four five six seven eight nine ten eleven".split()


@task(WORDS)
def first_letter(word):
    return word[0]


@task(WORDS)
def second_letter(word):
    return word[1]


@task(WORDS)
def third_letter(word):
    return word[2]


@task(WORDS)
def last_letter(word):
    return word[-1]


@task(WORDS)
def second_to_last_letter(word):
    return word[-2]


@task(WORDS)
def first_two_letters(word):
    return word[:2]


@task(WORDS)
def first_three_letters(word):
    return word[:3]


@task(WORDS)
def last_two_letters(word):
    return word[-2:]


@task(WORDS)
def last_three_letters(word):
    return word[-3:]


@task(WORDS)
def first_and_last_letter(word):
    return word[0] + word[-1]


@task(WORDS)
def first_letter_upper(word):
    return word[0].upper()


@task(WORDS)
def last_letter_upper(word):
    return word[-1].upper()


@task(WORDS)
def upper(word):
    return word.upper()


@task(WORDS)
def capitalized(word):
    return word.capitalize()


@task(WORDS)
def capital_last_letter(word):
    return word[:-1] + word[-1].upper()


@task(WORDS)
def without_first_letter(word):
    return word[1:]


@task(WORDS)
def without_last_letter(word):
    return word[:-1]


@task(WORDS)
def twice_spaced(word):
    return f"{word} {word}"


@task(WORDS)
def twice_hyphenated(word):
    return f"{word}-{word}"


@task(WORDS)
def quoted(word):
    return f'"{word}"'


@task(WORDS)
def round_brackets(word):
    return f"({word})"


@task(WORDS)
def square_brackets(word):
    return f"[{word}]"


@task(WORDS)
def exclamation_mark(word):
    return f"{word}!"


@task(WORDS)
def question_mark(word):
    return f"{word}?"


@task(WORDS)
def letter_count(word):
    return str(len(word))


@task(WORDS)
def letter_count_in_words(word):
    return COUNTS[len(word)]


@task(WORDS)
def spelled_hyphens(word):
    return "-".join(word)


@task(WORDS)
def spelled_upper_spaces(word):
    return " ".join(word.upper())
