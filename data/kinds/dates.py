"""One part of a date (`14 March 2019`), in one of many forms (some are in formats.py)."""
from kinds import grid
from kinds.formats import DATES

PARTS = {"day": lambda d: str(d.day), "month": lambda d: d.month, "year": lambda d: str(d.year),
         "month_year": lambda d: f"{d.month} {d.year}", "day_month": lambda d: f"{d.day} {d.month}",
         "short_month": lambda d: d.month[:3]}

grid("dates", DATES, PARTS, """
    day: quoted round bold exclaimed json
    month: quoted round bold exclaimed json
    year: quoted round bold exclaimed json
    month_year: quoted round upper
    day_month: plain quoted round upper
    short_month: plain upper quoted
""")
