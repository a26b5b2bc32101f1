"""Words of a list by their neighbor, their length or the alphabet, in several forms (more in
choices.py)."""
from kinds import grid
from kinds.choices import POOL, longest, neighbor, shortest
from lexicon import LISTED

PARTS = {"longest": longest, "shortest": shortest,
         "alphabetical_first": min, "alphabetical_last": max}
PARTS |= {f"before_{c}": lambda words, c=c: neighbor(words, c, -1) for c in LISTED}
PARTS |= {f"after_{c}": lambda words, c=c: neighbor(words, c, 1) for c in LISTED}

grid("relations", POOL, PARTS, """
    longest: upper quoted round initial
    shortest: upper quoted round initial
    alphabetical_first: quoted round initial
    alphabetical_last: upper quoted round initial
    before_animal: plain
    before_fruit: plain
    before_clothing: plain
    before_job: plain
    before_vehicle: plain
    before_tool: plain
    before_instrument: plain
    after_fruit: plain
    after_clothing: plain
    after_job: plain
    after_vehicle: plain
    after_tool: plain
    after_instrument: plain
""")
