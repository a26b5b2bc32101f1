"""Tasks → samples → batches of token ids.

    batches = draw_samples(suite.train, tokenizer, batch_size=8)     # suite: see data/suite.py
    batch = encode(next(batches), tokenizer, describe="lora")

A batch is a list of samples: instances of tasks, each with one wording of what its task asks. In
all draws the seed and the number of the batch decide everything, so that a resumed run sees what
an uninterrupted one does. As in the paper every task is drawn equally often.
"""
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.cli import UserError
from utils.tokenizer import Tokenizer

Pair = tuple[str, tuple[str, ...]]
SEEN = 200             # seen tasks that are asked, at most: a draw of them is enough
BUCKET = 8             # batches drawn at once, to be sorted by length


@dataclass(frozen=True)
class Task:
    """One task; its instances are pairs (input, accepted answers)."""
    name: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    descriptions: tuple[str, ...]      # wordings of what the task asks, to train with
    held_out: tuple[str, ...]          # other wordings, for evaluation only


@dataclass(frozen=True)
class Suite:
    """Tasks to train on, to choose settings with, and to test on without ever having seen them."""
    train: list[Task]
    validation: list[Task]
    unseen: list[Task]

    def by_name(self) -> dict[str, Task]:
        return {task.name: task for task in self.train + self.validation + self.unseen}


@dataclass(frozen=True)
class Sample:
    """One exercise: `description` says what to do with `input`; answers[0] is the one to learn."""
    task: str
    description: str
    input: str
    answers: tuple[str, ...]


# ---------------------------------------------------------------------------------- samples

def draw_samples(tasks: list[Task], tokenizer: Tokenizer, batch_size: int, seed: int = 0,
                 start: int = 0, describe: str = "lora") -> Iterator[list[Sample]]:
    """Endless batches: task, instance and training description each drawn uniformly.

    `BUCKET` batches are drawn at once, sorted by length and dealt out in random order, so that a
    batch holds samples of similar length and little padding, while every sample stays as likely.
    The draw depends on (seed, bucket) alone: batch number `start` is the same in a resumed run.
    """
    bucket, skip = divmod(start, BUCKET)
    while True:
        # Draw a bucket.
        rng = random.Random(f"{seed} {bucket}")
        drawn = []
        for _ in range(BUCKET * batch_size):
            task = rng.choice(tasks)
            text, answers = rng.choice(task.train)
            drawn.append(Sample(task.name, rng.choice(task.descriptions), text, answers))

        # Sort it by length, deal it out.
        drawn.sort(key=lambda s: len(tokenizer.encode(message(s, describe) + s.answers[0])))
        batches = [drawn[i:i + batch_size] for i in range(0, len(drawn), batch_size)]
        rng.shuffle(batches)
        yield from batches[skip:]
        bucket, skip = bucket + 1, 0


def draw_from_each(tasks: list[Task], per_task: int, seed: int = 0,
                   start: int = 0) -> Iterator[list[Sample]]:
    """Endless batches of `per_task` samples of every task that `tasks` holds at that moment.

    A task's samples depend on its name, the seed and the step alone: not on its company.
    """
    for step in itertools.count(start):
        samples = []
        for task in tasks:
            rng = random.Random(f"{seed} {task.name} {step}")
            for text, answers in rng.choices(task.train, k=per_task):
                samples.append(Sample(task.name, rng.choice(task.descriptions), text, answers))
        yield samples


def draw_tasks(tasks: list[Task], batch_size: int, seed: int = 0,
               start: int = 0) -> Iterator[list[Sample]]:
    """Endless batches of tasks with one of their training descriptions and no input; all of the
    tasks if `batch_size` reaches that far. Batch number `start` is the same in a resumed run."""
    for step in itertools.count(start):
        rng = random.Random(f"{seed} {step}")
        yield [Sample(task.name, rng.choice(task.descriptions), "", ())
               for task in rng.sample(tasks, min(batch_size, len(tasks)))]


def test_samples(tasks: list[Task], per_task: int,
                 wordings: Callable[[Task], tuple[str, ...]]) -> list[Sample]:
    """`per_task` test inputs of every task, each with one of its `wordings`; drawn by its name."""
    samples = []
    for task in tasks:
        rng, lines = random.Random(task.name), list(wordings(task))
        rng.shuffle(lines)
        for i, (text, answers) in enumerate(rng.sample(task.test, min(per_task, len(task.test)))):
            samples.append(Sample(task.name, lines[i % len(lines)], text, answers))
    return samples


FORMS = {"strict": str.strip, "lenient": lambda text: text.strip().lower()}


def right_answers(answered: list[tuple[Sample, str]],
                  form: Callable[[str], str] = str.strip) -> dict[str, list[bool]]:
    """Task → for each of its samples, whether the answer is an accepted one, both in this form."""
    right = defaultdict(list)
    for sample, answer in answered:
        right[sample.task].append(form(answer) in map(form, sample.answers))
    return right


def seen_samples(suite: Suite, per_task: int) -> list[Sample]:
    """Test inputs of the seen tasks, under held-out wordings: `per_task` of each where the tasks
    are few; of many 34 `per_task` in all, at most 200, or a twentieth from each of 200 tasks."""
    in_all = min(34 * per_task, max(SEEN, SEEN * per_task // 20))
    tasks = random.Random(0).sample(suite.train, min(SEEN, len(suite.train)))[:in_all]
    each = min(per_task, max(1, in_all // len(tasks)))
    return test_samples(tasks, each, lambda t: t.held_out)


def validation_samples(suite: Suite, at_most: int = 32) -> list[Sample]:
    """A test input of each validation task, always the same, whose loss is logged in training;
    where there is no such task, test inputs of the seen tasks, under held-out wordings."""
    tasks = suite.validation or suite.train
    per_task = max(1, at_most // len(tasks))
    return test_samples(tasks, per_task, lambda t: t.held_out)[:at_most]


def hold_out(task: Task, at_most: int) -> tuple[Task, list[Sample]]:
    """The task without its last training instances, and those as samples to validate with: a fifth
    of them. One that stands there twice counts once. UserError for a task of fewer than five."""
    train = tuple(dict.fromkeys(task.train))
    if len(train) < 5:
        raise UserError(f"{task.name} has {len(train)} training instances; an oracle needs at "
                        "least 5, a fifth of them to choose its best step")
    n = min(at_most, len(train) // 5)
    return replace(task, train=train[:-n]), [
        Sample(task.name, task.descriptions[0], text, answers) for text, answers in train[-n:]]


def mean_length(task: Task) -> float:
    """Characters of a training instance; neighbours in this order need little padding."""
    return sum(len(text) + len(answers[0]) for text, answers in task.train) / len(task.train)


# ---------------------------------------------------------------------------------- batches

def message(sample: Sample, describe: str) -> str:
    """What the user says to the language model: with --describe lora the bare input."""
    return sample.input if describe == "lora" else f"{sample.description}\n\n{sample.input}"


@dataclass(frozen=True)
class Batch:
    """`ids` (b, t), padded at the right; `keep` (b, t): the positions whose next token is learnt;
    `targets`, `weights` (kept,): those tokens, and what each counts (a sample sums to 1/b)."""
    ids: Tensor
    keep: Tensor
    targets: Tensor
    weights: Tensor

    def to(self, device: str | torch.device) -> "Batch":
        return Batch(*(w.to(device) for w in vars(self).values()))


def encode(samples: list[Sample], tokenizer: Tokenizer, describe: str = "lora") -> Batch:
    """Chat-formatted samples; the loss covers exactly the answer and its end token."""
    prompts = [tokenizer.prompt(message(s, describe)) for s in samples]
    answers = [tokenizer.answer(s.answers[0]) for s in samples]

    # Pad at the right; the position before an answer's first token predicts that token.
    width = max(len(p) + len(a) - 1 for p, a in zip(prompts, answers))
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    keep = torch.zeros(len(samples), width, dtype=torch.bool)
    weights = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        row = prompt + answer[:-1]                  # the end token is only ever a target
        ids[i, :len(row)] = torch.tensor(row)
        keep[i, len(prompt) - 1:len(row)] = True
        weights += [1 / (len(answer) * len(samples))] * len(answer)

    # What the kept positions are to predict, in their order.
    targets = torch.tensor([token for answer in answers for token in answer])
    return Batch(ids, keep, targets, torch.tensor(weights))
