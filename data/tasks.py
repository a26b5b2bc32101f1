"""Task files in Super-NaturalInstructions' schema → tasks → batches of token ids.

    suite = load_suite()            # data/tasks and data/splits.json; or a folder of your own
    batch = encode(samples, tokenizer, describe="lora")

A task file is JSON with `Definition`, `Instances` [{input, output: [accepted answers]}] and,
optionally, `Descriptions` (wordings of what the task asks), `Split` {train, test} (the first so
many instances, then the next) and `Description Split` (likewise). `splits.json` beside the folder
names the tasks that are kept from training: {"unseen": […], "validation": […]}.
"""
import itertools
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.files import UserError, read_json

if TYPE_CHECKING:
    from mistral import Tokenizer

DEFAULT_TASKS = Path(__file__).parent / "tasks"
SNI_SPLITS = Path(__file__).parent / "sni_splits.json"
TEST_SHARE, BUCKET = 0.2, 8


@dataclass(frozen=True)
class Task:
    """One task: instances are (input, accepted answers); held-out wordings are never trained on."""
    name: str
    train: tuple
    test: tuple
    descriptions: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
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


def texts(found, path: Path, what: str) -> list[str]:
    """`found` as a list of non-empty texts (SNI has both "…" and ["…"]), or a UserError."""
    found = [found] if isinstance(found, str) else found
    if not found or not isinstance(found, list) \
            or not all(isinstance(x, str) and x.strip() for x in found):
        raise UserError(f"{path} lacks {what}: expected a list of non-empty texts")
    return found


def load_task(path: Path) -> Task:
    """One task file; UserError names the file and what is missing in it.

    Without `Split` the last fifth of the instances is for testing; without `Description Split` up
    to eight of the wordings, at most a third; a task with one wording is tested with that one.
    """
    raw = read_json(path)
    lines = texts(raw.get("Descriptions") or raw.get("Definition"), path,
                  "\"Definition\" (or \"Descriptions\")")
    rows = raw.get("Instances")
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} has no \"Instances\": expected a list of "
                        "{\"input\": \"…\", \"output\": [\"…\"]}")
    pairs = []
    for i, row in enumerate(rows):
        if not isinstance(row.get("input"), str):
            raise UserError(f"{path}: instance {i} lacks a text \"input\"")
        answers = texts(row.get("output"), path, f"instance {i}'s output")
        pairs.append((row["input"], tuple(answers)))
    n_test, n_held = round(TEST_SHARE * len(pairs)), min(8, len(lines) // 3)
    split = raw.get("Split", {"train": len(pairs) - n_test, "test": n_test})
    wordings = raw.get("Description Split", {"train": len(lines) - n_held})
    try:
        n, m, k = int(split["train"]), int(split["test"]), int(wordings["train"])
        if min(n, m) < 0 or k < 1:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: expected \"Split\": {{\"train\": 320, \"test\": 80}} and "
                        "\"Description Split\": {\"train\": 20}, or neither") from None
    return Task(path.stem, tuple(pairs[:n]), tuple(pairs[n:n + m]),
                tuple(lines[:k]), tuple(lines[k:] or lines))


def load_suite(folder: str | Path | None = None) -> Suite:
    """All tasks of a folder, divided by the splits.json beside it (without: all for training).

    In a clone of natural-instructions the paper's 479 and 11 tasks are meant, the others not read.
    """
    folder = Path(folder) if folder else DEFAULT_TASKS
    files, splits = sorted(folder.glob("*.json")), folder.parent / "splits.json"
    clone = not splits.exists() and (folder.parent / "splits" / "default").is_dir()
    if clone:
        files, raw = the_papers(files)
    if not files:
        raise UserError(f"{folder} holds no task file; expected *.json in the schema of "
                        "Super-NaturalInstructions (see data/tasks.py)")
    tasks = {path.stem: load_task(path) for path in files}
    if splits.exists():
        raw = read_json(splits)
    elif not clone:
        raw = {}
        warnings.warn(f"no {splits}: every task is trained on, none is left to test as unseen")
    parts = {}
    for part in ("validation", "unseen"):
        names = raw.get(part, [])
        for name in set(names) - set(tasks):
            raise UserError(f"{splits} names {name}, which is not in {folder}")
        parts[part] = [tasks.pop(name) for name in names]
    train = [task for task in tasks.values() if task.train]
    if not train:
        raise UserError(f"{folder}: no task is left to train on")
    return Suite(train, **parts)


def the_papers(files: list[Path]) -> tuple[list[Path], dict]:
    """Of natural-instructions' files (task022_….json) those the paper uses, and its splits."""
    numbers = read_json(SNI_SPLITS)
    found = {int(match[1]): path for path in files if (match := re.match(r"task(\d+)_", path.name))}
    missing = [n for n in numbers["train"] + numbers["unseen"] if n not in found]
    if missing:
        warnings.warn(f"natural-instructions lacks {len(missing)} of the paper's tasks, among them "
                      f"number {missing[0]}")
    kept = [found[n] for n in numbers["train"] + numbers["unseen"] if n in found]
    return kept, {"unseen": [found[n].stem for n in numbers["unseen"] if n in found]}


# ---------------------------------------------------------------------------------- samples

def draw_samples(tasks: list[Task], tokenizer: "Tokenizer", batch_size: int, seed: int = 0,
                 start: int = 0, describe: str = "lora") -> Iterator[list[Sample]]:
    """Endless batches: task, instance and training description each drawn uniformly.

    `BUCKET` batches are drawn at once, sorted by length and dealt out in random order, so that a
    batch holds samples of similar length and little padding, while every sample stays as likely.
    The draw depends on (seed, bucket) alone: batch number `start` is the same in a resumed run.
    """
    bucket, skip = divmod(start, BUCKET)
    while True:
        rng = random.Random(f"{seed} {bucket}")
        drawn = []
        for _ in range(BUCKET * batch_size):
            task = rng.choice(tasks)
            text, answers = rng.choice(task.train)
            drawn.append(Sample(task.name, rng.choice(task.descriptions), text, answers))
        drawn.sort(key=lambda s: len(tokenizer.encode(message(s, describe) + s.answers[0])))
        batches = [drawn[i:i + batch_size] for i in range(0, len(drawn), batch_size)]
        rng.shuffle(batches)
        yield from batches[skip:]
        bucket, skip = bucket + 1, 0


def draw_from_each(tasks: list[Task], per_task: int, seed: int = 0) -> Iterator[list[Sample]]:
    """Endless batches of `per_task` samples of every task that `tasks` holds at that moment.

    A task's samples depend on its name, the seed and the step alone: not on its company.
    """
    for step in itertools.count():
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


def message(sample: Sample, describe: str) -> str:
    """What the user says to the language model: with --describe lora the bare input."""
    return sample.input if describe == "lora" else f"{sample.description}\n\n{sample.input}"


def fitting(suite: Suite, tokenizer: "Tokenizer", limit: int, describe: str) -> Suite:
    """The suite without the instances that exceed `limit` tokens; a warning says how many."""
    def fits(task: Task, pair: tuple) -> bool:
        longest = max(task.descriptions, key=len)
        sample = Sample(task.name, longest, pair[0], (max(pair[1], key=len),))
        if len((longest + pair[0] + sample.answers[0]).encode()) + 32 <= limit:
            return True                    # a token has at least one byte: no need to tokenise
        ids = tokenizer.prompt(message(sample, describe)) + tokenizer.answer(sample.answers[0])
        return len(ids) <= limit
    kept, dropped = {}, 0
    for part, tasks in vars(suite).items():
        kept[part] = []
        for task in tasks:
            train, test = (tuple(pair for pair in pairs if fits(task, pair))
                           for pairs in (task.train, task.test))
            dropped += len(task.train) + len(task.test) - len(train) - len(test)
            if part == "train" and not train:
                raise UserError(f"{task.name}: every training instance exceeds {limit} tokens")
            kept[part].append(replace(task, train=train, test=test))
    if dropped:
        warnings.warn(f"left out {dropped} instances longer than {limit} tokens with their answer")
    return Suite(**kept)


@dataclass(frozen=True)
class Batch:
    """`ids` (b, t), padded at the right; `keep` (b, t): the positions whose next token is learnt;
    `targets`, `weights` (kept,): those tokens, and what each counts (a sample sums to 1/b)."""
    ids: Tensor
    keep: Tensor
    targets: Tensor
    weights: Tensor


def encode(samples: list[Sample], tokenizer: "Tokenizer", describe: str = "lora") -> Batch:
    """Chat-formatted samples; the loss covers exactly the answer and its end token."""
    prompts = [tokenizer.prompt(message(s, describe)) for s in samples]
    answers = [tokenizer.answer(s.answers[0]) for s in samples]
    width = max(len(p) + len(a) - 1 for p, a in zip(prompts, answers))
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    keep = torch.zeros(len(samples), width, dtype=torch.bool)
    weights = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        row = prompt + answer[:-1]                  # the end token is only ever a target
        ids[i, :len(row)] = torch.tensor(row)
        keep[i, len(prompt) - 1:len(row)] = True
        weights += [1 / (len(answer) * len(samples))] * len(answer)
    targets = torch.tensor([token for answer in answers for token in answer])
    return Batch(ids, keep, targets, torch.tensor(weights))
