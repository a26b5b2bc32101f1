"""What the default suite is made of: tasks, each a small function over a shared pool of inputs.

A kind is a module here (letters.py) with its descriptions beside it (letters.txt). Its tasks draw
on common pools on purpose: when the same input has another answer under every task, only the
description can tell them apart, and that is what Text-to-LoRA has to learn to read.
"""
from dataclasses import dataclass
from typing import Callable, Sequence


@dataclass(frozen=True)
class Task:
    """One task: `answer(item)` for every item of `pool`; the LLM reads `str(item)`."""
    kind: str
    pool: Sequence
    answer: Callable
    lookup: bool      # a look-up of facts (capitals, translations): never drawn as an unseen task


TASKS: dict[str, Task] = {}


def task(pool: Sequence, lookup: bool = False) -> Callable:
    """Register the decorated function as the task `<kind>_<function name>`.

    It takes one item of `pool` and returns the answer, a list of accepted answers (the first is
    the one to train on), or None where the task has nothing to say about this item.
    """
    def register(answer: Callable) -> Callable:
        kind = answer.__module__.split(".")[-1]
        TASKS[f"{kind}_{answer.__name__}"] = Task(kind, pool, answer, lookup)
        return answer
    return register
