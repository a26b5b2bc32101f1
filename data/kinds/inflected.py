"""A word in another grammatical form, written in one of many ways; and words that rhyme."""
import random

from data.kinds import grid, task
from data.kinds import words as w

PARTS = {"plural": w.plurals, "past": w.pasts, "ing": w.ing, "third": w.third_person,
         "comparative": w.comparative, "superlative": w.superlative}

CELLS = {"plural": w.NOUN_POOL, "past": w.VERB_POOL, "ing": w.VERB_POOL, "third": w.VERB_POOL,
         "comparative": w.ADJECTIVE_POOL, "superlative": w.ADJECTIVE_POOL}
for part, pool in CELLS.items():
    grid("inflected", pool, PARTS, f"{part}: upper quoted round exclaimed bold")


# A line is a family of words that all rhyme; any other word of the family is accepted.
RHYMES = """cat hat bat rat mat flat chat
    night light fight sight right bright kite bite white
    day play say way stay pay clay gray
    ring sing king wing thing spring string bring
    ball call fall tall wall small hall
    cake lake make bake snake take shake
    tree bee sea free key knee tea three
    blue shoe true new two glue zoo
    book cook look hook took brook
    rain train brain plane chain pain lane
    car star far bar jar guitar
    boat coat goat note vote float throat
    bed red head bread said thread sled
    man can fan pan van plan ran
    house mouse blouse grouse
    dog fog log frog jog
    snow grow know throw low slow toe
    eat meat seat heat feet street sheet sweet
    hill bill pill will mill still drill
    gold cold old told hold fold bold
    moon spoon soon noon tune balloon
    bone stone phone throne alone loan
    best nest test west chest rest guest
    land hand sand band stand brand
    dish fish wish swish
    ship trip lip chip hip drip slip
    clock sock rock lock block knock
    duck luck truck stuck buck
    nose rose hose those close toes
    dream cream team stream steam
    sick pick kick stick brick trick thick
    pet wet net let get jet
    door floor four more store shore
    bear chair hair pear square stair
    sun run fun gun one son bun
    crown town down brown clown gown
    sky fly dry high pie cry tie
    back black sack track crack pack
    dice mice rice ice price nice twice
    bell well shell tell fell smell sell
    pink drink sink think link ink
    mountain fountain, nation station, money honey funny sunny bunny, letter better sweater,
    father rather, mother brother other, table cable stable, candle handle sandal,
    kitten mitten written, ocean motion lotion potion, butter mutter, dinner winner thinner,
    silly chilly, jelly belly, lazy crazy daisy hazy, power flower tower shower hour,
    jump lump bump pump, lamp camp stamp damp, tent sent rent went bent, school pool cool rule tool,
    word bird heard third, bag flag tag rag, bug rug mug hug, pot hot dot spot knot"""
RHYME = {}
for family in RHYMES.replace(",", "\n").splitlines():
    words_alike = family.split()
    for i, one in enumerate(words_alike):
        RHYME[one] = words_alike[i + 1:] + words_alike[:i]


@task(random.Random(0).sample(sorted(RHYME), len(RHYME)))
def rhyme(word):
    return RHYME[word]
