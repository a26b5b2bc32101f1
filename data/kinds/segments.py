"""Several words of a list of five, strung together in one of many ways (some are in lists.py)."""
from kinds import JOINS, grid
from lexicon import LISTS

PARTS = {"first_two": slice(0, 2), "last_two": slice(3, 5), "first_three": slice(0, 3),
         "middle_three": slice(1, 4), "last_three": slice(2, 5), "all_but_first": slice(1, 5),
         "all_but_last": slice(0, 4), "whole": slice(0, 5)}

grid("segments", LISTS, {name: lambda w, s=s: w[s] for name, s in PARTS.items()}, """
    first_two: semicolons hyphens plus spaces
    last_two: and slashes semicolons plus
    first_three: and semicolons hyphens plus
    middle_three: commas slashes and
    last_three: slashes and semicolons hyphens
    all_but_first: slashes semicolons hyphens
    all_but_last: slashes semicolons plus
    whole: slashes semicolons hyphens plus spaces
""", JOINS)
