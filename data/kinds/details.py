"""One detail of a sentence, in one of many forms (the plain answers are in sentences.py)."""
from kinds import grid
from kinds.sentences import noun_of_place
from lexicon import EVENTS

PARTS = {"who": lambda e: e.who, "things": lambda e: e.things, "place": noun_of_place,
         "day": lambda e: e.day, "number": lambda e: e.number, "verb": lambda e: e.past}

grid("details", EVENTS, PARTS, """
    who: quoted round exclaimed bold initial
    things: upper quoted round exclaimed bold capitalised
    place: upper quoted round exclaimed bold
    day: quoted round exclaimed bold initial
    number: upper quoted round exclaimed
    verb: upper quoted round bold exclaimed
""")
