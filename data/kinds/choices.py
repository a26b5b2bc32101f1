"""Choosing from a list of five words by what they mean, where they stand or how they sort.

Most tasks ask for the word of one category, and vary how it is written or what is told about it.
"""
from data.kinds import task
from data.lexicon import CATEGORY, LISTS

TWO_MEANINGS = {"orange", "peach", "plum", "lime", "salmon", "kiwi"}     # also colors, a bird
POOL = [words for words in LISTS if not TWO_MEANINGS & set(words)]
ORDINALS = "first second third fourth fifth".split()


def find(words, category):
    """The list's word of this category (there is at most one), or None."""
    return next((w for w in words if CATEGORY[w] == category), None)


def neighbor(words, category, step):
    """The word `step` places to the right of the one of this category, or None."""
    if not find(words, category):
        return None
    place = words.index(find(words, category)) + step
    return words[place] if 0 <= place < len(words) else None


def without(words, category):
    """The list without its word of this category, or None if it has no such word."""
    found = find(words, category)
    return ", ".join(w for w in words if w != found) if found else None


def with_article(noun):
    return noun and ("an " if noun[0] in "aeiou" else "a ") + noun


# The word of one category.

@task(POOL)
def animal(words):
    return find(words, "animal")


@task(POOL)
def fruit(words):
    return find(words, "fruit")


@task(POOL)
def color(words):
    return find(words, "color")


@task(POOL)
def clothing(words):
    return find(words, "clothing")


@task(POOL)
def job(words):
    return find(words, "job")


@task(POOL)
def vehicle(words):
    return find(words, "vehicle")


@task(POOL)
def instrument(words):
    return find(words, "instrument")


@task(POOL)
def tool(words):
    return find(words, "tool")


# The same, written differently.

@task(POOL)
def animal_upper(words):
    found = find(words, "animal")
    return found and found.upper()


@task(POOL)
def color_upper(words):
    found = find(words, "color")
    return found and found.upper()


@task(POOL)
def vehicle_quoted(words):
    found = find(words, "vehicle")
    return found and f'"{found}"'


@task(POOL)
def job_quoted(words):
    found = find(words, "job")
    return found and f'"{found}"'


@task(POOL)
def animal_article(words):
    return with_article(find(words, "animal"))


@task(POOL)
def vehicle_article(words):
    return with_article(find(words, "vehicle"))


@task(POOL)
def animal_initial(words):
    found = find(words, "animal")
    return found and found[0]


@task(POOL)
def color_initial(words):
    found = find(words, "color")
    return found and found[0]


# Where it stands, and what stands beside it.

@task(POOL)
def after_animal(words):
    return neighbor(words, "animal", 1)


@task(POOL)
def after_color(words):
    return neighbor(words, "color", 1)


@task(POOL)
def before_color(words):
    return neighbor(words, "color", -1)


@task(POOL)
def animal_position(words):
    found = find(words, "animal")
    return found and str(words.index(found) + 1)


@task(POOL)
def color_ordinal(words):
    found = find(words, "color")
    return found and ORDINALS[words.index(found)]


# Two words, or all but one.

@task(POOL)
def animal_and_fruit(words):
    first, second = find(words, "animal"), find(words, "fruit")
    return f"{first} and {second}" if first and second else None


@task(POOL)
def color_fruit(words):
    first, second = find(words, "color"), find(words, "fruit")
    return f"{first} {second}" if first and second else None


@task(POOL)
def without_animal(words):
    return without(words, "animal")


@task(POOL)
def without_color(words):
    return without(words, "color")


# By order and length.

@task(POOL)
def sorted_list(words):
    return ", ".join(sorted(words))


@task(POOL)
def alphabetical_first(words):
    return min(words)


@task(POOL)
def alphabetical_last(words):
    return max(words)


@task(POOL)
def alphabetical_first_upper(words):
    return min(words).upper()


@task(POOL)
def longest(words):
    by_length = sorted(words, key=len)
    return by_length[-1] if len(by_length[-1]) > len(by_length[-2]) else None


@task(POOL)
def shortest(words):
    by_length = sorted(words, key=len)
    return by_length[0] if len(by_length[0]) < len(by_length[1]) else None


# The category of one word.

@task(POOL)
def first_category(words):
    return CATEGORY[words[0]]


@task(POOL)
def last_category(words):
    return CATEGORY[words[-1]]
