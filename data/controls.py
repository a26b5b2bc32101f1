"""What T2L is given to read in an evaluation: a sample's own description, or what stands in its
place, so that a good score can be told from one that any description gives."""
import random
from collections import defaultdict

from data.tasks import Sample, Suite


class Controls:
    """What T2L reads: `own`, or what stands in its place; each takes (sample, rng)."""

    def __init__(self, suite: Suite):
        tasks = suite.train + suite.validation + suite.unseen
        self.wordings = {t.name: t.descriptions for t in tasks}
        self.others = {t.name: t.held_out for t in tasks}
        self.words = sorted({w for t in suite.train for d in t.descriptions for w in d.split()})

        self.users = defaultdict(set)                  # input → the tasks that use it
        for task in tasks:
            for text, _ in task.train + task.test:
                self.users[text].add(task.name)
        self.neighbours = defaultdict(set)             # task → those that share any test input
        for task in tasks:
            self.neighbours[task.name].update(*(self.users[text] for text, _ in task.test))

    def own(self, sample: Sample, rng: random.Random) -> str:
        return sample.description

    def training(self, sample: Sample, rng: random.Random) -> str:
        return rng.choice(self.wordings[sample.task])

    def held_out(self, sample: Sample, rng: random.Random) -> str:
        return rng.choice(self.others[sample.task])

    def shuffled(self, sample: Sample, rng: random.Random) -> str:
        """Its own description's words in any order."""
        words = sample.description.split()
        return " ".join(rng.sample(words, len(words)))

    def other_task(self, sample: Sample, rng: random.Random) -> str:
        return self.wording_of(set(self.wordings), sample, rng)

    def same_input(self, sample: Sample, rng: random.Random) -> str:
        """Of a task that uses this input, too, or else such inputs; it nearly always differs."""
        users = self.users[sample.input] if len(self.users[sample.input]) > 1 else \
            self.neighbours[sample.task]
        return self.wording_of(users, sample, rng)

    def random_words(self, sample: Sample, rng: random.Random) -> str:
        return " ".join(rng.choices(self.words, k=12))

    def random_characters(self, sample: Sample, rng: random.Random) -> str:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz     ", k=60))

    def empty(self, sample: Sample, rng: random.Random) -> str:
        return ""

    def wording_of(self, names: set[str], sample: Sample, rng: random.Random) -> str:
        """A wording of one of these tasks, or of any, but never of the sample's own."""
        others = sorted(names - {sample.task}) or sorted(self.wordings.keys() - {sample.task})
        return rng.choice(self.wordings[rng.choice(others)])
