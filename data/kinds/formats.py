"""Re-writing data in another format: dates, and records of a person's name, age and city."""
import json
import random
from dataclasses import dataclass
from datetime import date

from data.kinds import task
from data.lexicon import MEN, WOMEN

MONTHS = """January February March April May June July August September October November
    December""".split()
FAMILIES = """Berg Novak Keller Brandt Holm Rossi Moreau Silva Kovacs Jansen Larsen Murphy Bennett
    Dawson Ellery Foster Hughes Irwin Kessler Lambert Mercer Nolan Ortega Palmer Quinn Ramsey
    Sutter Tanner Ullman Vargas Winkler Yates Zeller Abbott Barlow Costa Delgado Egger Fontana
    Gruber Hansen Ivanov Jarvis Kaplan Lopez Marino Norris Olsen Pereira Reuter Schmidt Torres
    Unger Varga Wagner Zimmer""".split()
CITIES = """Paris London Berlin Madrid Rome Vienna Prague Lisbon Dublin Oslo Stockholm Helsinki
    Warsaw Budapest Athens Zurich Geneva Munich Hamburg Milan Naples Venice Boston Chicago Dallas
    Denver Seattle Toronto Montreal Sydney Melbourne Tokyo Osaka Seoul Cairo Istanbul Moscow
    Barcelona Amsterdam Brussels""".split()


@dataclass(frozen=True)
class Date:
    """What the LLM reads as `14 March 2019`."""
    year: int
    number: int   # of the month: 3
    day: int

    @property
    def month(self) -> str:
        return MONTHS[self.number - 1]

    def __str__(self) -> str:
        return f"{self.day} {self.month} {self.year}"


@dataclass(frozen=True)
class Record:
    """What the LLM reads as `Anna Berg, 34, Paris`."""
    first: str
    family: str
    age: int
    city: str

    def __str__(self) -> str:
        return f"{self.first} {self.family}, {self.age}, {self.city}"


def dates(n: int) -> list[Date]:
    days = range(date(1950, 1, 1).toordinal(), date(2030, 1, 1).toordinal())
    picked = [date.fromordinal(d) for d in random.Random(0).sample(days, n)]
    return [Date(d.year, d.month, d.day) for d in picked]


def records(n: int) -> list[Record]:
    rng, made = random.Random(0), {}
    while len(made) < n:
        made[Record(rng.choice(WOMEN + MEN), rng.choice(FAMILIES), rng.randint(18, 89),
                    rng.choice(CITIES))] = None
    return list(made)


DATES = dates(600)
RECORDS = records(600)


# Dates: the whole date in another format

@task(DATES)
def iso_date(d):
    return f"{d.year}-{d.number:02}-{d.day:02}"


@task(DATES)
def us_slashes(d):
    return f"{d.number:02}/{d.day:02}/{d.year}"


@task(DATES)
def british_slashes(d):
    return f"{d.day:02}/{d.number:02}/{d.year}"


@task(DATES)
def european_dots(d):
    return f"{d.day:02}.{d.number:02}.{d.year}"


@task(DATES)
def month_first(d):
    return f"{d.month} {d.day}, {d.year}"


@task(DATES)
def year_first(d):
    return f"{d.year} {d.month} {d.day}"


@task(DATES)
def short_month_date(d):
    return f"{d.day} {d.month[:3]} {d.year}"


@task(DATES)
def same_day_next_year(d):
    return None if (d.day, d.month) == (29, "February") else f"{d.day} {d.month} {d.year + 1}"


# Dates: a part of the date

@task(DATES)
def month_and_year(d):
    return f"{d.month} {d.year}"


@task(DATES)
def ordinal_day(d):
    suffix = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}.get(d.day, "th")
    return f"{d.day}{suffix} of {d.month}"


@task(DATES)
def year_only(d):
    return str(d.year)


@task(DATES)
def month_only(d):
    return d.month


@task(DATES)
def day_only(d):
    return str(d.day)


@task(DATES)
def month_number(d):
    return str(d.number)


@task(DATES)
def month_upper(d):
    return d.month.upper()


@task(DATES)
def decade(d):
    return f"{d.year // 10}0s"


# Records: a part of the record

@task(RECORDS)
def first_name(r):
    return r.first


@task(RECORDS)
def family_name(r):
    return r.family


@task(RECORDS)
def age_only(r):
    return str(r.age)


@task(RECORDS)
def city_only(r):
    return r.city


@task(RECORDS)
def family_upper(r):
    return r.family.upper()


@task(RECORDS)
def city_upper(r):
    return r.city.upper()


# Records: the name in another format

@task(RECORDS)
def family_name_first(r):
    return f"{r.family}, {r.first}"


@task(RECORDS)
def initials(r):
    return r.first[0] + r.family[0]


@task(RECORDS)
def initial_and_family(r):
    return f"{r.first[0]}. {r.family}"


@task(RECORDS)
def bold_name(r):
    return f"**{r.first} {r.family}**"


@task(RECORDS)
def html_name(r):
    return f"<b>{r.first} {r.family}</b>"


# Records: several parts, or one part with a label

@task(RECORDS)
def json_name_age(r):
    data = {"name": f"{r.first} {r.family}", "age": r.age}
    return [json.dumps(data), json.dumps(data, separators=(",", ":"))]


@task(RECORDS)
def json_city(r):
    return [json.dumps({"city": r.city}), json.dumps({"city": r.city}, separators=(",", ":"))]


@task(RECORDS)
def semicolons(r):
    return f"{r.first};{r.family};{r.age};{r.city}"


@task(RECORDS)
def age_assignment(r):
    return f"age={r.age}"


@task(RECORDS)
def city_sentence(r):
    return f"{r.first} lives in {r.city}."
