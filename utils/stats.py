"""Means and bootstrap intervals; tasks and seeds are what varies, not inputs."""
import random
import statistics
from collections.abc import Iterable


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def interval(per_task: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over tasks."""
    return seed_interval([per_task])


def seed_interval(runs: list[list[float]], others: list[list[float]] | None = None,
                  draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over tasks and seeds of `runs` (seeds, tasks), less that
    of `others` where given; always the same draws. Both are asked the same tasks in the same order,
    so these are drawn once, the seeds of each apart. Of a few seeds it is somewhat too narrow, as
    every bootstrap of few is: n seeds show (n - 1)/n of the variance."""
    rng, means = random.Random(0), []
    tasks = range(len(runs[0]))

    def drawn_mean(of: list[list[float]], places: list[int]) -> float:
        of = rng.choices(of, k=len(of)) if len(of) > 1 else of
        return mean(mean([run[i] for i in places]) for run in of)

    for _ in range(draws):
        places = rng.choices(tasks, k=len(tasks))
        means.append(drawn_mean(runs, places) - (drawn_mean(others, places) if others else 0))
    means.sort()
    return means[round(0.025 * draws)], means[round(0.975 * draws) - 1]
