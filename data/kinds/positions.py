"""The word at one place of a list of five, in one of many forms (more in lists.py)."""
from kinds import grid
from lexicon import LISTS

PLACES = "first second middle fourth last".split()

grid("positions", LISTS, {p: lambda words, i=i: words[i] for i, p in enumerate(PLACES)}, """
    first: round bold exclaimed sentence
    second: round bold exclaimed sentence quoted capitalised initial
    middle: round bold exclaimed sentence quoted capitalised initial
    fourth: round bold exclaimed sentence quoted upper initial
    last: round bold exclaimed sentence capitalised
""")
