"""Questions to and edits of one sentence: parts of an event (who, what, where, when) in several
forms, and the whole sentence negated, asked, moved to another tense or person, shortened."""
from data.kinds import task
from data.lexicon import DAYS, EVENTS, WOMEN

DIGITS = dict(two="2", three="3", four="4", five="5", six="6", seven="7", eight="8", nine="9",
              ten="10", twelve="12")
SINGULARS = dict(boxes="box", brushes="brush")          # the others only drop the s
PRESENTS = dict(wash="washes", carry="carries")         # the others only add an s


def day_shifted(e, by):
    return DAYS[(DAYS.index(e.day) + by) % 7]


def noun_of_place(e):
    return e.place.split()[-1]


# Parts of the sentence

@task(EVENTS)
def who(e):
    return e.who


@task(EVENTS)
def who_upper(e):
    return e.who.upper()


@task(EVENTS)
def where(e):
    return e.place


@task(EVENTS)
def place_noun(e):
    return noun_of_place(e)


@task(EVENTS)
def day(e):
    return e.day


@task(EVENTS)
def day_upper(e):
    return e.day.upper()


@task(EVENTS)
def day_short(e):
    return e.day[:3]


@task(EVENTS)
def day_before(e):
    return day_shifted(e, -1)


@task(EVENTS)
def day_after(e):
    return day_shifted(e, 1)


@task(EVENTS)
def number_word(e):
    return e.number


@task(EVENTS)
def number_digits(e):
    return DIGITS[e.number]


@task(EVENTS)
def things(e):
    return e.things


@task(EVENTS)
def thing_singular(e):
    return SINGULARS.get(e.things, e.things[:-1])


@task(EVENTS)
def number_and_things(e):
    return f"{e.number} {e.things}"


@task(EVENTS)
def verb(e):
    return e.past


@task(EVENTS)
def verb_base(e):
    return e.verb


@task(EVENTS)
def who_and_day(e):
    return f"{e.who}, {e.day}"


@task(EVENTS)
def place_and_day(e):
    return f"{noun_of_place(e)}, {e.day}"


# The whole sentence, edited

@task(EVENTS)
def negation(e):
    return f"{e.who} did not {e.verb} {e.number} {e.things} {e.place} on {e.day}."


@task(EVENTS)
def yes_no_question(e):
    return f"Did {e.who} {e.verb} {e.number} {e.things} {e.place} on {e.day}?"


@task(EVENTS)
def who_question(e):
    return f"Who {e.past} {e.number} {e.things} {e.place} on {e.day}?"


@task(EVENTS)
def where_question(e):
    return f"Where did {e.who} {e.verb} {e.number} {e.things} on {e.day}?"


@task(EVENTS)
def when_question(e):
    return f"When did {e.who} {e.verb} {e.number} {e.things} {e.place}?"


@task(EVENTS)
def future(e):
    return f"{e.who} will {e.verb} {e.number} {e.things} {e.place} on {e.day}."


@task(EVENTS)
def present(e):
    verb_now = PRESENTS.get(e.verb, e.verb + "s")
    return f"{e.who} {verb_now} {e.number} {e.things} {e.place} on {e.day}."


@task(EVENTS)
def passive(e):
    number = e.number.capitalize()
    return f"{number} {e.things} were {e.participle} by {e.who} {e.place} on {e.day}."


@task(EVENTS)
def first_person(e):
    return f"I {e.past} {e.number} {e.things} {e.place} on {e.day}."


@task(EVENTS)
def he_or_she(e):
    pronoun = "She" if e.who in WOMEN else "He"
    return f"{pronoun} {e.past} {e.number} {e.things} {e.place} on {e.day}."


@task(EVENTS)
def without_day(e):
    return f"{e.who} {e.past} {e.number} {e.things} {e.place}."


@task(EVENTS)
def without_place(e):
    return f"{e.who} {e.past} {e.number} {e.things} on {e.day}."


@task(EVENTS)
def without_place_and_day(e):
    return f"{e.who} {e.past} {e.number} {e.things}."


@task(EVENTS)
def day_first(e):
    return f"On {e.day}, {e.who} {e.past} {e.number} {e.things} {e.place}."
