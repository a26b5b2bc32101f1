"""Some letters of a word, written in one of many ways (the plain answers are in letters.py); its
vowels, its consonants, the word backwards."""
from kinds import grid
from kinds.letters import COUNTS
from lexicon import WORDS

VOWELS = "aeiou"
PARTS = {"first": lambda w: w[0], "second": lambda w: w[1], "third": lambda w: w[2],
         "last": lambda w: w[-1], "first_two": lambda w: w[:2], "first_three": lambda w: w[:3],
         "last_two": lambda w: w[-2:], "last_three": lambda w: w[-3:],
         "vowels": lambda w: "".join(c for c in w if c in VOWELS),
         "vowel_count": lambda w: COUNTS[sum(c in VOWELS for c in w)],
         "without_vowels": lambda w: "".join(c for c in w if c not in VOWELS),
         "reversed": lambda w: w[::-1]}

grid("affixes", WORDS, PARTS, """
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
