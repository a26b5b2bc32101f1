"""Means, bootstrap intervals, a list of scores; tasks are what varies, not inputs."""
import random
import statistics
from collections.abc import Iterable


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def interval(per_task: list[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over tasks."""
    rng = random.Random(0)
    means = sorted(mean(rng.choices(per_task, k=len(per_task))) for _ in range(draws))
    return means[round(0.025 * draws)], means[round(0.975 * draws) - 1]


def print_tasks(scores: dict[str, dict[str, float]], label: str) -> None:
    """The label's score on every task that has one above 0, three in a line."""
    cells = [f"{task:30}{score:4.0f}" for task, score in scores[label].items() if score]
    none = len(scores[label]) - len(cells)
    print(f"\n{label}, by task" + (f"; the other {none} have 0" if none else ""))
    for start in range(0, len(cells), 3):
        print("   ".join(cells[start:start + 3]))
    print()
