"""Two details of a sentence at once, strung together in one of many ways (more in details.py)."""
from kinds import JOINS, grid, two_of
from kinds.details import PARTS
from lexicon import EVENTS

COUPLES = two_of(PARTS, (
    ("who", "place"), ("who", "things"), ("who", "day"), ("day", "place"), ("things", "day"),
    ("things", "place"), ("who", "verb")))

grid("couples", EVENTS, COUPLES, """
    who_place: commas slashes hyphens arrows
    who_things: commas slashes hyphens arrows
    who_day: slashes hyphens arrows and
    day_place: commas slashes hyphens arrows
    things_day: commas slashes arrows and
    things_place: commas slashes hyphens and
    who_verb: commas slashes hyphens arrows
""", JOINS)
