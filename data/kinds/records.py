"""Two fields of a record (`Anna Berg, 34, Paris`), strung together in one of many ways."""
from kinds import JOINS, grid
from kinds.fields import PARTS
from kinds.formats import RECORDS


def couple(first, second):
    return lambda r: (PARTS[first](r), PARTS[second](r))


COUPLES = {f"{a}_{b}": couple(a, b) for a, b in (
    ("first", "age"), ("first", "city"), ("family", "age"), ("family", "city"), ("age", "city"),
    ("city", "first"))}

grid("records", RECORDS, COUPLES, """
    first_age: commas slashes hyphens semicolons bars
    first_city: commas slashes hyphens colons arrows
    family_age: commas slashes colons semicolons arrows
    family_city: commas slashes hyphens bars arrows
    age_city: commas slashes semicolons bars colons
    city_first: commas hyphens semicolons bars arrows
""", JOINS)
