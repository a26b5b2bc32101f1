"""Lists with one word twice and one of another category: `dog, fig, wolf, ant, dog`."""
import random

from data.kinds import grid
from data.kinds.choices import ORDINALS, TWO_MEANINGS
from data.lexicon import CATEGORIES, CATEGORY, LISTED, WordList


def lists(n: int) -> list[WordList]:
    """`n` lists: three different words of one category, one of them twice, and an odd one out."""
    rng, made = random.Random(0), {}
    words = {c: [w for w in CATEGORIES[c].split() if w not in TWO_MEANINGS] for c in LISTED}
    while len(made) < n:
        main, other = rng.sample(LISTED, 2)
        a, b, c = rng.sample(words[main], 3)
        items = [a, a, b, c, rng.choice(words[other])]
        rng.shuffle(items)
        made[WordList(items)] = None
    return list(made)


POOL = lists(600)


def odd(words):
    kinds = [CATEGORY[w] for w in words]
    return next(w for w in words if kinds.count(CATEGORY[w]) == 1)


def repeated(words):
    return next(w for w in words if words.count(w) == 2)


def joined(words):
    return ", ".join(words)


PARTS = {"odd": odd, "repeated": repeated,
         "category": lambda words: CATEGORY[repeated(words)],
         "odd_category": lambda words: CATEGORY[odd(words)],
         "odd_place": lambda words: ORDINALS[words.index(odd(words))],
         "distinct": lambda words: joined(dict.fromkeys(words)),
         "without_odd": lambda words: joined(w for w in words if w != odd(words)),
         "without_repeated": lambda words: joined(w for w in words if w != repeated(words))}

grid("repeats", POOL, PARTS, """
    odd: plain upper quoted round bold exclaimed initial
    repeated: plain upper quoted round bold exclaimed initial
    category: plain upper quoted round bold exclaimed
    odd_category: plain upper
    odd_place: plain
    distinct: plain
    without_odd: plain
    without_repeated: plain
""")
