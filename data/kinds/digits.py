"""One number (`613`): a digit of it or a number near it, written in one of many ways."""
from kinds import grid
from kinds.numbers import SINGLES

PARTS = {"first": lambda n: str(n)[0], "last": lambda n: str(n)[-1], "next": lambda n: str(n + 1),
         "previous": lambda n: str(n - 1), "plus_ten": lambda n: str(n + 10),
         "plus_hundred": lambda n: str(n + 100)}

grid("digits", SINGLES, PARTS, """
    first: quoted round square bold exclaimed
    last: quoted round square bold exclaimed
    next: quoted round square bold exclaimed
    previous: quoted round square bold exclaimed
    plus_ten: quoted round square bold exclaimed
    plus_hundred: plain quoted round bold exclaimed
""")
