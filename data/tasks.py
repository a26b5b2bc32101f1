"""Task files in Super-NaturalInstructions' schema → tasks → batches of token ids.

    suite = load_suite()            # data/tasks and data/splits.json; or a folder of your own
    batch = encode(samples, tokenizer, describe="lora")

A task file is JSON with `Definition`, `Instances` [{input, output: [accepted answers]}] and,
optionally, `Descriptions` (wordings of what the task asks), `Split` {train, test} (the first so
many instances, then the next) and `Description Split` (likewise). `splits.json` beside the folder
names the tasks that are kept from training: {"unseen": […], "validation": […]}.
"""
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data.files import UserError, read_json

DEFAULT_TASKS = Path(__file__).parent / "tasks"
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


@dataclass(frozen=True)
class Sample:
    """One exercise: `description` says what to do with `input`; answers[0] is the one to learn."""
    task: str
    description: str
    input: str
    answers: tuple[str, ...]


def load_task(path: Path) -> Task:
    """One task file; UserError names the file and what is missing in it."""
    raw = read_json(path)
    lines = raw.get("Descriptions") or raw.get("Definition")
    if isinstance(lines, str):
        lines = [lines]
    if not lines or not all(isinstance(d, str) and d.strip() for d in lines):
        raise UserError(f"{path} lacks \"Definition\" (or \"Descriptions\"): expected a list of "
                        "sentences that say what the task asks")
    rows = raw.get("Instances")
    if not rows or not isinstance(rows, list):
        raise UserError(f"{path} has no \"Instances\": expected a list of "
                        "{\"input\": \"…\", \"output\": [\"…\"]}")
    pairs = []
    for i, row in enumerate(rows):
        answers = row.get("output") if isinstance(row, dict) else None
        answers = [answers] if isinstance(answers, str) else answers
        if not answers or not isinstance(row.get("input"), str) \
                or not all(isinstance(a, str) and a.strip() for a in answers):
            raise UserError(f"{path}: instance {i} lacks a text \"input\" or an \"output\"")
        pairs.append((row["input"], tuple(answers)))
    n_test = max(1, round(TEST_SHARE * len(pairs)))
    split = raw.get("Split", {"train": len(pairs) - n_test, "test": n_test})
    n_lines = raw.get("Description Split", {"train": max(1, len(lines) - 8)})["train"]
    n = split["train"]
    return Task(path.stem, tuple(pairs[:n]), tuple(pairs[n:n + split["test"]]),
                tuple(lines[:n_lines]), tuple(lines[n_lines:] or lines))


def load_suite(folder: str | Path | None = None) -> Suite:
    """All tasks of a folder, divided by the splits.json beside it (without: all for training)."""
    folder = Path(folder) if folder else DEFAULT_TASKS
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no task file; expected *.json in the schema of "
                        "Super-NaturalInstructions (see data/tasks.py)")
    tasks = {path.stem: load_task(path) for path in files}
    splits, kept = folder.parent / "splits.json", {}
    if splits.exists():
        raw = read_json(splits)
        kept = {part: raw.get(part, []) for part in ("validation", "unseen")}
        for name in [n for names in kept.values() for n in names if n not in tasks]:
            raise UserError(f"{splits} names {name}, which is not in {folder}")
    else:
        warnings.warn(f"no {splits}: every task is trained on, none is left to test as unseen")
    parts = {part: [tasks.pop(name) for name in names] for part, names in kept.items()}
    train = [task for task in tasks.values() if task.train]
    return Suite(train, parts.get("validation", []), parts.get("unseen", []))


# ---------------------------------------------------------------------------------- samples

def draw_samples(tasks: list[Task], tokenizer, batch_size: int, seed: int = 0, start: int = 0,
                 describe: str = "lora") -> Iterator[list[Sample]]:
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


def message(sample: Sample, describe: str) -> str:
    """What the user says to the language model: with --describe lora the bare input."""
    return sample.input if describe == "lora" else f"{sample.description}\n\n{sample.input}"


def drop_too_long(tasks: list[Task], tokenizer, limit: int, describe: str) -> list[Task]:
    """The tasks without the instances that exceed `limit` tokens; a warning says how many."""
    def fits(task: Task, pair: tuple) -> bool:
        longest = max(task.descriptions, key=len)
        sample = Sample(task.name, longest, pair[0], (max(pair[1], key=len),))
        if len((longest + pair[0] + sample.answers[0]).encode()) + 32 <= limit:
            return True                    # a token has at least one byte: no need to tokenise
        ids = tokenizer.prompt(message(sample, describe)) + tokenizer.answer(sample.answers[0])
        return len(ids) <= limit
    kept, dropped = [], 0
    for task in tasks:
        parts = {part: tuple(pair for pair in getattr(task, part) if fits(task, pair))
                 for part in ("train", "test")}
        dropped += len(task.train) + len(task.test) - sum(map(len, parts.values()))
        if not parts["train"]:
            raise UserError(f"{task.name}: every training instance exceeds {limit} tokens")
        kept.append(replace(task, **parts))
    if dropped:
        warnings.warn(f"left out {dropped} instances longer than {limit} tokens with their answer")
    return kept


@dataclass(frozen=True)
class Batch:
    """`ids` (b, t), padded at the right; `keep` (b, t): the positions whose next token is learnt;
    `targets`, `weights` (kept,): those tokens, and what each counts (a sample sums to 1/b)."""
    ids: Tensor
    keep: Tensor
    targets: Tensor
    weights: Tensor


def encode(samples: list[Sample], tokenizer, describe: str = "lora") -> Batch:
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
