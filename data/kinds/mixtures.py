"""Lists of animals, fruits and colors in any mixture: filter one category, count it, take its first
or last word."""
import random

from data.kinds import grid
from data.kinds.choices import TWO_MEANINGS
from data.kinds.letters import COUNTS
from data.lexicon import CATEGORIES, CATEGORY, WordList

NAMES = {"animals": "animal", "fruits": "fruit", "colors": "color"}


def lists(n: int) -> list[WordList]:
    """`n` lists of five different words, each of a category drawn at random: some have none."""
    rng, made = random.Random(0), {}
    words = {c: [w for w in CATEGORIES[c].split() if w not in TWO_MEANINGS]
             for c in NAMES.values()}
    while len(made) < n:
        items = WordList(rng.choice(words[c]) for c in rng.choices([*NAMES.values()], k=5))
        if len(set(items)) == 5:
            made[items] = None
    return list(made)


POOL = lists(600)


def members(words, category):
    return [w for w in words if CATEGORY[w] == category]


# What is told about the words of one category; nothing, where there is none to tell about.
TOLD = {"only": ", ".join, "with_and": " and ".join, "first": lambda found: "".join(found[:1]),
        "last": lambda found: "".join(found[-1:]), "count": lambda found: str(len(found)),
        "count_in_words": lambda found: COUNTS[len(found)]}

for plural, category in NAMES.items():
    parts = {f"{plural}_{name}": lambda words, c=category, tell=tell: tell(members(words, c))
             for name, tell in TOLD.items()}
    grid("mixtures", POOL, parts, f"""
        {plural}_only: plain upper
        {plural}_with_and: plain
        {plural}_first: plain upper quoted
        {plural}_last: plain upper round
        {plural}_count: plain
    """ + (f"{plural}_count_in_words: plain" if plural == "animals" else ""))
