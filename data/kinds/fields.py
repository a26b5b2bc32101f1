"""One field of a record (`Anna Berg, 34, Paris`), in one of many forms (some are in formats.py)."""
from kinds import grid, task
from kinds.formats import RECORDS

PARTS = {"first": lambda r: r.first, "family": lambda r: r.family,
         "full": lambda r: f"{r.first} {r.family}", "age": lambda r: str(r.age),
         "city": lambda r: r.city}

grid("fields", RECORDS, PARTS, """
    first: upper quoted round bold exclaimed initial json
    family: quoted round bold exclaimed initial json
    full: upper quoted round exclaimed sentence
    age: quoted round bold exclaimed json
    city: quoted round bold exclaimed initial
""")


@task(RECORDS)
def csv(r):
    return f"{r.first},{r.family},{r.age},{r.city}"


@task(RECORDS)
def table_row(r):
    return f"{r.first} {r.family} | {r.age} | {r.city}"
