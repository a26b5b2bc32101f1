"""Dates (`14 March 2019`) in many notations: order, separator, zeros (more in formats.py)."""
from kinds import grid
from kinds.formats import DATES

NOTATIONS = {
    "dd_mm_yyyy_hyphens": "{d:02}-{m:02}-{y}", "dd_mm_yyyy_spaces": "{d:02} {m:02} {y}",
    "mm_dd_yyyy_hyphens": "{m:02}-{d:02}-{y}", "mm_dd_yyyy_dots": "{m:02}.{d:02}.{y}",
    "yyyy_mm_dd_slashes": "{y}/{m:02}/{d:02}", "yyyy_mm_dd_dots": "{y}.{m:02}.{d:02}",
    "yyyymmdd": "{y}{m:02}{d:02}", "ddmmyyyy": "{d:02}{m:02}{y}",
    "mm_yyyy_slash": "{m:02}/{y}", "mm_yyyy_dot": "{m:02}.{y}", "mm_yyyy_hyphen": "{m:02}-{y}",
    "yyyy_mm_hyphen": "{y}-{m:02}", "yyyy_mm_slash": "{y}/{m:02}",
    "dd_mm_slash": "{d:02}/{m:02}", "dd_mm_dot": "{d:02}.{m:02}", "dd_mm_hyphen": "{d:02}-{m:02}",
    "mm_dd_slash": "{m:02}/{d:02}", "mm_dd_hyphen": "{m:02}-{d:02}",
    "short_first": "{b} {d}, {y}", "short_hyphens": "{d}-{b}-{y}",
    "short_year_first": "{y} {b} {d}",
    "short_month_year": "{b} {y}", "day_short_month": "{d} {b}", "short_month_day": "{b} {d}",
    "month_day": "{B} {d}", "year_month": "{y} {B}", "year_comma_month": "{y}, {B}",
}


def notation(text):
    return lambda date: text.format(d=date.day, m=date.number, y=date.year, B=date.month,
                                    b=date.month[:3])


grid("calendar", DATES, {name: notation(text) for name, text in NOTATIONS.items()},
     "\n".join(f"{name}: plain" for name in NOTATIONS))
