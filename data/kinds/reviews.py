"""One-sentence reviews: what they are about, which thing they judge, and what they think of it."""
import random
from dataclasses import dataclass

from data.kinds import grid

TOPICS = {
    "restaurant": "soup waiter menu dessert kitchen table pizza wine",
    "hotel": "room bed lobby pool balcony shower breakfast elevator",
    "film": "plot actor ending dialogue camera scene director soundtrack",
    "phone": "battery screen speaker keyboard charger signal microphone touchscreen",
    "book": "chapter author cover style story narrator print prologue",
    "car": "engine brake seat steering trunk gearbox windshield tire",
}
PRAISE = "excellent wonderful great superb lovely perfect brilliant delightful".split()
BLAME = "terrible awful bad dreadful horrible poor disappointing miserable".split()
NEUTRAL = "average ordinary acceptable usual standard typical".split()
SHAPES = ["The {} of this {} was {}.", "I found the {} of the {} {}.",
          "To me the {} of that {} seemed {}.", "My friends called the {} of our {} {}."]


@dataclass(frozen=True)
class Review:
    """What the LLM reads as `I found the soup of the restaurant excellent.`"""
    shape: str
    thing: str
    topic: str
    word: str

    @property
    def sentiment(self) -> str:
        return ("positive" if self.word in PRAISE else
                "negative" if self.word in BLAME else "neutral")

    def __str__(self) -> str:
        return self.shape.format(self.thing, self.topic, self.word)


def reviews(n: int) -> list[Review]:
    rng, made = random.Random(0), {}
    while len(made) < n:
        topic = rng.choice(list(TOPICS))
        words = rng.choice([PRAISE, BLAME, NEUTRAL])
        made[Review(rng.choice(SHAPES), rng.choice(TOPICS[topic].split()), topic,
                    rng.choice(words))] = None
    return list(made)


STARS = {"positive": "5 stars", "neutral": "3 stars", "negative": "1 star"}
PARTS = {"topic": lambda r: r.topic, "thing": lambda r: r.thing, "opinion": lambda r: r.word,
         "sentiment": lambda r: r.sentiment, "stars": lambda r: STARS[r.sentiment]}

grid("reviews", reviews(600), PARTS, """
    topic: plain upper quoted round exclaimed bold
    thing: plain upper quoted round exclaimed bold
    opinion: plain upper quoted round exclaimed bold
    sentiment: plain upper quoted round
    stars: plain
""")
