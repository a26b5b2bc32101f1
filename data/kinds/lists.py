"""Five words in a list: which of them is wanted, and in which form it is written. Every task reads
the same lists, so that position and form can only be learned from the description.
"""
from data.kinds import task
from data.lexicon import LISTS


# One item as it stands.

@task(LISTS)
def first(items):
    return items[0]


@task(LISTS)
def second(items):
    return items[1]


@task(LISTS)
def middle(items):
    return items[2]


@task(LISTS)
def fourth(items):
    return items[3]


@task(LISTS)
def last(items):
    return items[4]


# One item in another form.

@task(LISTS)
def first_upper(items):
    return items[0].upper()


@task(LISTS)
def second_upper(items):
    return items[1].upper()


@task(LISTS)
def middle_upper(items):
    return items[2].upper()


@task(LISTS)
def last_upper(items):
    return items[4].upper()


@task(LISTS)
def first_capitalised(items):
    return items[0].capitalize()


@task(LISTS)
def fourth_capitalised(items):
    return items[3].capitalize()


@task(LISTS)
def first_quoted(items):
    return f'"{items[0]}"'


@task(LISTS)
def last_quoted(items):
    return f'"{items[4]}"'


@task(LISTS)
def middle_bracketed(items):
    return f"[{items[2]}]"


@task(LISTS)
def fourth_bracketed(items):
    return f"[{items[3]}]"


@task(LISTS)
def last_twice(items):
    return f"{items[4]} {items[4]}"


# Initials.

@task(LISTS)
def first_initial(items):
    return items[0][0]


@task(LISTS)
def last_initial(items):
    return items[4][0]


@task(LISTS)
def all_initials(items):
    return "".join(word[0] for word in items)


# Two or three items.

@task(LISTS)
def first_two(items):
    return ", ".join(items[:2])


@task(LISTS)
def last_two(items):
    return ", ".join(items[3:])


@task(LISTS)
def first_and_last(items):
    return f"{items[0]}, {items[4]}"


@task(LISTS)
def last_then_first(items):
    return f"{items[4]}, {items[0]}"


@task(LISTS)
def second_and_fourth(items):
    return f"{items[1]}, {items[3]}"


@task(LISTS)
def first_two_with_and(items):
    return " and ".join(items[:2])


@task(LISTS)
def first_three_slashes(items):
    return "/".join(items[:3])


# Nearly the whole list.

@task(LISTS)
def all_but_first(items):
    return ", ".join(items[1:])


@task(LISTS)
def all_but_last(items):
    return ", ".join(items[:4])


@task(LISTS)
def without_middle(items):
    return ", ".join(items[:2] + items[3:])


@task(LISTS)
def reversed_order(items):
    return ", ".join(reversed(items))
