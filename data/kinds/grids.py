"""The kinds that are mere grids: a part of the input, in one of many forms.

`grid(kind, pool, parts, cells)` registers a task for every cell (see data/kinds/__init__.py). The
inputs are those of the larger kinds beside this file, which also ask for the plain answers.
"""
from data.kinds import FORMS, JOINS, grid, two_of
from data.kinds.choices import POOL, find, longest, neighbor, shortest
from data.kinds.formats import DATES, RECORDS
from data.kinds.letters import COUNTS
from data.kinds.numbers import PAIRS, SINGLES
from data.kinds.sentences import noun_of_place
from data.kinds.words import (ADJECTIVE_POOL, NOUN_POOL, VERB_POOL, ing, pasts, plurals,
                              superlative, third_person, very)
from data.lexicon import EVENTS, LISTED, LISTS, WORDS

# ------------------------------------------------------------------------------------- one word

# affixes: some letters of a word; its vowels, its consonants, the word backwards.
VOWELS = "aeiou"
AFFIXES = {"first": lambda w: w[0], "second": lambda w: w[1], "third": lambda w: w[2],
           "last": lambda w: w[-1], "first_two": lambda w: w[:2], "first_three": lambda w: w[:3],
           "last_two": lambda w: w[-2:], "last_three": lambda w: w[-3:],
           "vowels": lambda w: "".join(c for c in w if c in VOWELS),
           "vowel_count": lambda w: COUNTS[sum(c in VOWELS for c in w)],
           "without_vowels": lambda w: "".join(c for c in w if c not in VOWELS),
           "reversed": lambda w: w[::-1]}

grid("affixes", WORDS, AFFIXES, """
    first: quoted round exclaimed twice
    second: upper quoted exclaimed twice
    third: upper round exclaimed
    last: quoted round exclaimed twice
    first_two: upper quoted round
    first_three: upper round exclaimed
    last_two: upper quoted round
    last_three: upper quoted exclaimed
    vowels: plain
    vowel_count: plain
    without_vowels: plain
    reversed: plain
""")

# styles: a whole word in another look: case, brackets, marks, markup, spelled out.
CASES = {"upper": str.upper, "capitalised": str.capitalize, "lower": str}
LOOKS = FORMS | {"html": "<b>{}</b>".format, "italic": "*{}*".format, "bullet": "- {}".format,
                 "heading": "# {}".format, "braces": "{{{}}}".format, "angles": "<{}>".format,
                 "backticks": "`{}`".format, "dots": ".".join,
                 "letter_commas": ", ".join, "letter_spaces": " ".join}

grid("styles", WORDS, CASES, """
    upper: quoted round square bold exclaimed twice html
    capitalised: quoted round square bold exclaimed twice html
    lower: bold html italic bullet heading braces angles backticks sentence json
    lower: dots letter_commas letter_spaces
""", LOOKS)

# phrases: a noun, a verb or an adjective put into a short phrase.
NOUN = {name: lambda noun, text=text: [text.format(p) for p in plurals(noun)]
        for name, text in {
            "three": "three {}", "many": "many {}", "no": "no {}", "these": "these {}",
            "some": "some {}", "our_plural": "our {}", "i_see": "I see {}.",
            "where_are": "Where are the {}?"}.items()}
NOUN |= {name: lambda noun, text=text: plurals(noun) and text.format(noun)
         for name, text in {"this": "this {}", "your": "your {}", "the": "the {}",
                            "new": "a new {}"}.items()}
PAST = {name: lambda verb, text=text: [text.format(p) for p in pasts(verb)]
        for name, text in {"he_past": "he {}", "they_past": "they {}", "i_past": "I {}"}.items()}
BASE = {name: lambda verb, text=text: text.format(verb) for name, text in {
    "they_present": "they {}", "we_will": "we will {}", "please": "please {}", "can": "can {}",
    "must_not": "must not {}", "did_not": "did not {}"}.items()}
ING = {"i_am": lambda verb: [f"I am {x}" for x in [ing(verb)] if isinstance(x, str)],
       "she_is": lambda verb: [f"she is {x}" for x in [ing(verb)] if isinstance(x, str)],
       "she_present": lambda verb: f"she {third_person(verb)}"}
DEGREE = {name: lambda a, text=text: very(a) and text.format(a) for name, text in {
    "quite": "quite {}", "too": "too {}", "so": "so {}!", "it_is": "It is {}.",
    "not_very": "not very {}"}.items()}
DEGREE |= {"the_superlative": lambda a: [f"the {x}" for x in superlative(a) or []]}

for pool, parts in ((NOUN_POOL, NOUN), (VERB_POOL, PAST | BASE | ING), (ADJECTIVE_POOL, DEGREE)):
    grid("phrases", pool, parts, "\n".join(f"{part}: plain" for part in parts))

# -------------------------------------------------------------------------- a list of five words

# positions: the word at one place.
PLACES = "first second middle fourth last".split()

grid("positions", LISTS, {p: lambda words, i=i: words[i] for i, p in enumerate(PLACES)}, """
    first: round bold exclaimed sentence
    second: round bold exclaimed sentence quoted capitalised initial
    middle: round bold exclaimed sentence quoted capitalised initial
    fourth: round bold exclaimed sentence quoted upper initial
    last: round bold exclaimed sentence capitalised
""")

# segments: several words, strung together.
SEGMENTS = {"first_two": slice(0, 2), "last_two": slice(3, 5), "first_three": slice(0, 3),
            "middle_three": slice(1, 4), "last_three": slice(2, 5), "all_but_first": slice(1, 5),
            "all_but_last": slice(0, 4), "whole": slice(0, 5)}

grid("segments", LISTS, {name: lambda words, s=s: words[s] for name, s in SEGMENTS.items()}, """
    first_two: semicolons hyphens plus spaces
    last_two: and slashes semicolons plus
    first_three: and semicolons hyphens plus
    middle_three: commas slashes and
    last_three: slashes and semicolons hyphens
    all_but_first: slashes semicolons hyphens
    all_but_last: slashes semicolons plus
    whole: slashes semicolons hyphens plus spaces
""", JOINS)

# members: the word that belongs to a category.
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

# relations: a word by its neighbor, its length or the alphabet.
RELATIONS = {"longest": longest, "shortest": shortest,
             "alphabetical_first": min, "alphabetical_last": max}
RELATIONS |= {f"before_{c}": lambda words, c=c: neighbor(words, c, -1) for c in LISTED}
RELATIONS |= {f"after_{c}": lambda words, c=c: neighbor(words, c, 1) for c in LISTED}

grid("relations", POOL, RELATIONS, """
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

# ----------------------------- a sentence: `Anna bought three lamps at the market on Monday.`

# details: one detail of it.
DETAILS = {"who": lambda e: e.who, "things": lambda e: e.things, "place": noun_of_place,
           "day": lambda e: e.day, "number": lambda e: e.number, "verb": lambda e: e.past}

grid("details", EVENTS, DETAILS, """
    who: quoted round exclaimed bold initial
    things: upper quoted round exclaimed bold capitalised
    place: upper quoted round exclaimed bold
    day: quoted round exclaimed bold initial
    number: upper quoted round exclaimed
    verb: upper quoted round bold exclaimed
""")

# couples: two details at once, strung together.
grid("couples", EVENTS, two_of(DETAILS, (
    ("who", "place"), ("who", "things"), ("who", "day"), ("day", "place"), ("things", "day"),
    ("things", "place"), ("who", "verb"))), """
    who_place: commas slashes hyphens arrows
    who_things: commas slashes hyphens arrows
    who_day: slashes hyphens arrows and
    day_place: commas slashes hyphens arrows
    things_day: commas slashes arrows and
    things_place: commas slashes hyphens and
    who_verb: commas slashes hyphens arrows
""", JOINS)

# ------------------------------------------------------------- a record: `Anna Berg, 34, Paris`

# fields: one field of it, or the record as another row.
FIELDS = {"first": lambda r: r.first, "family": lambda r: r.family,
          "full": lambda r: f"{r.first} {r.family}", "age": lambda r: str(r.age),
          "city": lambda r: r.city, "csv": lambda r: f"{r.first},{r.family},{r.age},{r.city}",
          "table_row": lambda r: f"{r.first} {r.family} | {r.age} | {r.city}"}

grid("fields", RECORDS, FIELDS, """
    first: upper quoted round bold exclaimed initial json
    family: quoted round bold exclaimed initial json
    full: upper quoted round exclaimed sentence
    age: quoted round bold exclaimed json
    city: quoted round bold exclaimed initial
    csv: plain
    table_row: plain
""")

# records: two fields at once, strung together.
grid("records", RECORDS, two_of(FIELDS, (
    ("first", "age"), ("first", "city"), ("family", "age"), ("family", "city"), ("age", "city"),
    ("city", "first"))), """
    first_age: commas slashes hyphens semicolons bars
    first_city: commas slashes hyphens colons arrows
    family_age: commas slashes colons semicolons arrows
    family_city: commas slashes hyphens bars arrows
    age_city: commas slashes semicolons bars colons
    city_first: commas hyphens semicolons bars arrows
""", JOINS)

# ------------------------------------------------------------------- a date: `14 March 2019`

# dates: one part of it.
PARTS_OF_DATES = {
    "day": lambda d: str(d.day), "month": lambda d: d.month, "year": lambda d: str(d.year),
    "month_year": lambda d: f"{d.month} {d.year}", "day_month": lambda d: f"{d.day} {d.month}",
    "short_month": lambda d: d.month[:3]}

grid("dates", DATES, PARTS_OF_DATES, """
    day: quoted round bold exclaimed json
    month: quoted round bold exclaimed json
    year: quoted round bold exclaimed json
    month_year: quoted round upper
    day_month: plain quoted round upper
    short_month: plain upper quoted
""")

# calendar: all of it in many notations: order, separator, zeros.
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

# --------------------------------------------------------------------------------------- numbers

# digits: of one number (`613`), a digit of it or a number near it.
DIGITS = {"first": lambda n: str(n)[0], "last": lambda n: str(n)[-1], "next": lambda n: str(n + 1),
          "previous": lambda n: str(n - 1), "plus_ten": lambda n: str(n + 10),
          "plus_hundred": lambda n: str(n + 100)}

grid("digits", SINGLES, DIGITS, """
    first: quoted round square bold exclaimed
    last: quoted round square bold exclaimed
    next: quoted round square bold exclaimed
    previous: quoted round square bold exclaimed
    plus_ten: quoted round square bold exclaimed
    plus_hundred: plain quoted round bold exclaimed
""")

# pairs: what two numbers give (`17, 42`).
OF_TWO = {"first": lambda p: p[0], "second": lambda p: p[1], "larger": max, "smaller": min,
          "total": sum, "difference": lambda p: abs(p[0] - p[1])}

grid("pairs", PAIRS, {name: lambda p, f=f: str(f(p)) for name, f in OF_TWO.items()}, """
    first: quoted round square bold exclaimed
    second: quoted round square bold exclaimed
    larger: quoted round square bold exclaimed
    smaller: quoted round square bold exclaimed
    total: quoted round square bold exclaimed
    difference: quoted round square bold exclaimed
""")
