"""Two fields of a record (`Anna Berg, 34, Paris`), strung together in one of many ways."""
from kinds import JOINS, grid, two_of
from kinds.fields import PARTS
from kinds.formats import RECORDS

COUPLES = two_of(PARTS, (
    ("first", "age"), ("first", "city"), ("family", "age"), ("family", "city"), ("age", "city"),
    ("city", "first")))

grid("records", RECORDS, COUPLES, """
    first_age: commas slashes hyphens semicolons bars
    first_city: commas slashes hyphens colons arrows
    family_age: commas slashes colons semicolons arrows
    family_city: commas slashes hyphens bars arrows
    age_city: commas slashes semicolons bars colons
    city_first: commas hyphens semicolons bars arrows
""", JOINS)
