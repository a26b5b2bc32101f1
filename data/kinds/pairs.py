"""What two numbers give (`17, 42`), written in one of many ways (the plain answers: numbers.py)."""
from kinds import grid
from kinds.numbers import PAIRS

PARTS = {"first": lambda p: p[0], "second": lambda p: p[1], "larger": max, "smaller": min,
         "total": sum, "difference": lambda p: abs(p[0] - p[1])}

grid("pairs", PAIRS, {name: lambda p, f=f: str(f(p)) for name, f in PARTS.items()}, """
    first: quoted round square bold exclaimed
    second: quoted round square bold exclaimed
    larger: quoted round square bold exclaimed
    smaller: quoted round square bold exclaimed
    total: quoted round square bold exclaimed
    difference: quoted round square bold exclaimed
""")
