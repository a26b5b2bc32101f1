"""The word of a list that belongs to a category, in one of many forms (more in choices.py)."""
from kinds import grid
from kinds.choices import POOL, find
from lexicon import LISTED

grid("members", POOL, {c: lambda words, c=c: find(words, c) for c in LISTED}, """
    animal: quoted round exclaimed bold
    fruit: upper quoted exclaimed initial
    color: quoted round bold exclaimed
    clothing: quoted round bold upper
    job: upper round bold initial
    vehicle: upper exclaimed initial round
    tool: upper quoted exclaimed initial
    instrument: upper round initial quoted
""")
