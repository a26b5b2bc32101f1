"""What several kinds share: nouns by category, adjectives, verbs; word lists, event sentences."""
import random
from dataclasses import dataclass

CATEGORIES = {
    "animal": """dog cat horse cow pig sheep goat rabbit mouse rat lion tiger bear wolf fox deer
        monkey elephant giraffe zebra camel kangaroo donkey squirrel hedgehog otter beaver eagle
        owl crow swan goose duck penguin parrot sparrow shark whale dolphin salmon frog snake
        lizard turtle spider ant bee butterfly""",
    "fruit": """apple banana pear peach plum cherry grape lemon lime mango melon orange papaya
        pineapple strawberry raspberry blueberry apricot fig kiwi coconut grapefruit""",
    "vegetable": """carrot potato onion tomato cabbage spinach lettuce cucumber pumpkin broccoli
        celery garlic radish turnip leek pea bean eggplant cauliflower asparagus""",
    "color": """red blue green yellow black white brown purple pink gray violet turquoise beige
        crimson""",
    "body part": """head hand foot arm leg nose ear eye mouth knee elbow shoulder finger toe neck
        chin tongue tooth stomach heart lung ankle wrist thumb forehead""",
    "clothing": """shirt hat coat sock shoe glove scarf belt skirt dress jacket sweater boot tie
        jeans trousers vest cap apron sandal blouse""",
    "furniture": """table chair sofa bed desk shelf wardrobe bench stool cupboard armchair
        bookcase dresser cradle""",
    "tool": """hammer saw screwdriver drill wrench axe shovel rake chisel pliers ladder
        scissors needle knife brush broom spade""",
    "vehicle": """car bus train truck bicycle motorcycle airplane helicopter boat ship tractor
        tram taxi ambulance scooter submarine rocket canoe ferry van""",
    "job": """teacher doctor nurse farmer baker butcher lawyer judge painter singer dancer writer
        actor pilot sailor soldier waiter plumber carpenter tailor librarian engineer dentist
        barber gardener journalist secretary chef""",
    "instrument": """piano guitar violin drum flute trumpet harp cello saxophone clarinet accordion
        banjo organ trombone""",
    "building": """house school church hospital library museum castle bank hotel factory theater
        prison restaurant bakery stadium airport barn tower palace temple""",
    "nature": """river mountain forest lake sea island beach desert valley hill cloud rain snow
        storm wind sun moon star tree flower grass leaf stone sand volcano""",
    "food": """bread cheese butter rice soup pasta egg sugar salt honey cake chocolate pizza
        sandwich sausage pancake cookie yogurt ham""",
    "drink": """water milk coffee tea juice wine beer lemonade cocoa whiskey""",
    "object": """book pen paper key door window lamp clock mirror bottle cup plate spoon fork bag
        box basket candle letter newspaper umbrella telephone camera pillow blanket bell rope
        bucket towel soap map coin""",
}
CATEGORY = {word: name for name, words in CATEGORIES.items() for word in words.split()}
NOUNS = list(CATEGORY)

ADJECTIVES = """hot cold big small old young new fast slow happy sad good bad hard soft high low
    long short light heavy dark bright clean dirty rich poor strong weak wide narrow thick thin
    deep shallow loud quiet early late easy difficult cheap expensive full empty wet dry sharp blunt
    sweet sour smooth rough brave cowardly kind cruel polite rude clever stupid safe dangerous
    beautiful ugly warm cool tall tiny huge near far open closed true false right wrong left
    public private rare common simple complex ancient modern lazy busy calm angry fresh rotten
    tight loose straight curved humble proud generous greedy healthy sick guilty innocent
    interesting boring lucky unlucky alive dead asleep awake male female wild tame visible
    invisible possible impossible honest dishonest patient impatient legal illegal mature immature
    regular irregular formal informal active passive major minor positive negative careful careless
    useful useless hopeful hopeless bitter mild noisy steep gentle fierce shy bold
    pale vivid""".split()

VERBS = """walk run jump swim eat drink sleep write read speak sing dance play work build break buy
    sell give take send bring catch throw cut draw drive fly ride fall rise grow know think teach
    learn find lose win begin stop open close push pull hold keep leave meet pay put see hear feel
    sit stand stay tell understand wear choose forget remember forgive freeze melt hide seek hit
    kick lead follow lend borrow lie lift listen look love hate make mix move need offer order
    paint plan plant pour pray prepare press print promise protect raise reach refuse repair
    repeat reply rest return ring rob roll rub save shake share shine shoot shout shut sink smell
    smile spend spread steal stick sting stir study suffer swear sweep swing talk taste tear test
    thank touch train travel try turn use visit vote wait wake warn wash waste watch water weep
    whisper wipe wish wonder worry wrap yell admire admit advise agree allow answer appear argue
    arrive ask attack bake bathe beg believe bend bite bleed blow boil bow breathe burn bury call
    carry chase cheat chew clap climb collect complain cook copy cough count cover crash create
    cry dig dream drop earn enjoy enter escape explain fail fear feed fight fill fix
    float fold""".split()
VERBS = [v for v in VERBS if v not in ADJECTIVES and v not in CATEGORY]

# One shuffled pool, so that every task that takes any word starts from the same words.
WORDS = list(dict.fromkeys(NOUNS + ADJECTIVES + VERBS))
random.Random(0).shuffle(WORDS)


class WordList(tuple):
    """Words that the LLM reads as `dog, red, plum`."""

    def __str__(self) -> str:
        return ", ".join(self)


# The categories that lists are made of.
LISTED = "animal fruit color clothing job vehicle instrument tool".split()


def word_lists(n: int, length: int) -> list[WordList]:
    """`n` lists of `length` words, each word from another category."""
    rng, lists = random.Random(0), {}
    while len(lists) < n:
        words = [rng.choice(CATEGORIES[c].split()) for c in rng.sample(LISTED, length)]
        lists[WordList(words)] = None
    return list(lists)


LISTS = word_lists(1000, 5)


@dataclass(frozen=True)
class Event:
    """A sentence with known parts: `Anna bought three lamps at the market on Monday.`"""
    who: str          # Anna
    verb: str         # the verb's base form: buy
    past: str         # bought
    participle: str   # bought
    number: str       # three
    things: str       # lamps
    place: str        # at the market
    day: str          # Monday

    def __str__(self) -> str:
        return f"{self.who} {self.past} {self.number} {self.things} {self.place} on {self.day}."


WOMEN = """Anna Maria Julia Emma Laura Sarah Nina Clara Alice Helen Ruth Diana Olga Irene Vera
    Lucy Grace Sofia Martha Rosa""".split()
MEN = """Peter Paul David Simon Martin Thomas Robert Frank Victor Oscar Henry George Walter Adam
    Felix Bruno Hugo Leo Max Carl""".split()
NUMBERS = "two three four five six seven eight nine ten twelve".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
PLACES = """at the market, in the park, at the station, in the library, at the airport, in the
    kitchen, at the hotel, in the garden, at the museum, in the office, at the theater, in the
    village, at the beach, in the garage, at the school, in the hospital"""
PLACES = [" ".join(p.split()) for p in PLACES.split(",")]
ACTIONS = """buy bought bought, sell sold sold, find found found, lose lost lost, see saw seen,
    paint painted painted, carry carried carried, clean cleaned cleaned, count counted counted,
    hide hid hidden, break broke broken, repair repaired repaired, collect collected collected,
    order ordered ordered, wash washed washed, bring brought brought, steal stole stolen,
    take took taken, choose chose chosen, drop dropped dropped"""
ACTIONS = [tuple(a.split()) for a in ACTIONS.split(",")]
THINGS = """lamps chairs books cups plates bottles bags boxes coins keys mirrors clocks candles
    baskets blankets pillows letters maps umbrellas cameras shirts hats coats gloves guitars
    drums bicycles shovels ladders brushes""".split()


def events(n: int) -> list[Event]:
    rng, made = random.Random(0), {}
    while len(made) < n:
        event = Event(rng.choice(WOMEN + MEN), *rng.choice(ACTIONS), rng.choice(NUMBERS),
                      rng.choice(THINGS), rng.choice(PLACES), rng.choice(DAYS))
        made[event] = None
    return list(made)


EVENTS = events(500)
