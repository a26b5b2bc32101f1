"""What the default suite is made of: tasks, each a small function over a shared pool of inputs.

A kind is a file of wordings (letters.txt) and the code of its tasks: a module of the same name
(letters.py), or a block of grids.py. Tasks draw on common pools on purpose: when the same input has
another answer under every task, only the description can tell them apart, and that is what
Text-to-LoRA has to learn to read. data/generate.py makes the tasks.
"""
import json
from dataclasses import dataclass
from typing import Callable, Sequence


@dataclass(frozen=True)
class TaskSpec:
    """How a task is made: `answer(item)` for every item of `pool`; the LLM reads `str(item)`."""
    kind: str
    pool: Sequence
    answer: Callable
    lookup: bool      # a look-up of facts (capitals, translations): never drawn as an unseen task


TASKS: dict[str, TaskSpec] = {}


def task(pool: Sequence, lookup: bool = False) -> Callable:
    """Register the decorated function as the task `<kind>_<function name>`.

    It takes one item of `pool` and returns the answer, a list of accepted answers (the first is
    the one to train on), or None where the task has nothing to say about this item.
    """
    def register(answer: Callable) -> Callable:
        kind = answer.__module__.split(".")[-1]
        TASKS[f"{kind}_{answer.__name__}"] = TaskSpec(kind, pool, answer, lookup)
        return answer
    return register


# The ways a short answer can be written. The same forms recur in many kinds, so that a wording like
# "in square brackets" can be learnt from some tasks and used in others.
FORMS = {
    "plain": lambda x: x,
    "upper": str.upper,                                  # BROOM
    "capitalised": str.capitalize,                       # Broom
    "initial": lambda x: x[0],                           # b
    "quoted": lambda x: f'"{x}"',
    "round": lambda x: f"({x})",
    "square": lambda x: f"[{x}]",
    "bold": lambda x: f"**{x}**",
    "exclaimed": lambda x: f"{x}!",
    "twice": lambda x: f"{x} {x}",
    "sentence": lambda x: f"It is {x}.",
    "json": lambda x: json.dumps({"answer": x}),
}
# The ways several words can be strung together.
JOINS = {"commas": ", ".join, "slashes": "/".join, "semicolons": ";".join, "hyphens": "-".join,
         "plus": " + ".join, "and": " and ".join, "bars": " | ".join, "spaces": " ".join,
         "colons": ":".join, "arrows": " -> ".join}


def two_of(parts: dict[str, Callable], pairs: Sequence[tuple[str, str]]) -> dict[str, Callable]:
    """Parts that are two of `parts` at once, to be strung together: who and day as `who_day`."""
    return {f"{a}_{b}": lambda item, a=a, b=b: (parts[a](item), parts[b](item)) for a, b in pairs}


def grid(kind: str, pool: Sequence, parts: dict[str, Callable], cells: str,
         forms_of: dict[str, Callable] = FORMS) -> None:
    """Register the tasks `<kind>_<part>_<form>` (`<kind>_<part>` for the form "plain").

    A line of `cells` is a part and the forms that it takes: `first: quoted round`.
    """
    def cell(part: str, form: str) -> Callable:
        def answer(item):
            found = parts[part](item)
            found = found if isinstance(found, list) else [found] if found else []
            return [forms_of[form](x) for x in found] or None
        return answer

    for line in cells.strip().splitlines():
        part, _, forms = line.strip().partition(":")
        for form in forms.split():
            name = f"{kind}_{part}" + (f"_{form}" if form != "plain" else "")
            TASKS[name] = TaskSpec(kind, pool, cell(part, form), lookup=False)
