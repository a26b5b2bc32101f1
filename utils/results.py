"""eval.py's results: seeds joined into one row, paired differences, the verdict, what is printed.

A column of the table is {label of a row: {task: score in %}}. `joined` says which rows a row joins:
{its label: {run: the label of that run's own row}}.
"""
import statistics
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

from utils.cli import UserError
from utils.stats import interval, mean, seed_interval

FEWEST = 10                    # tasks for a verdict: the interval over fewer is too uncertain
LEAST = 2.0                    # % right, for a verdict: less is what any adapter may have by chance
Column = dict[str, dict[str, float]]
Joined = dict[str, dict[str, str]]


# ------------------------------------------------------------------------------ joining seeds

def with_name(kind: str, name: str) -> str:
    """("multi-task LoRA, description in its prompt", "x") → "multi-task LoRA x, description …"."""
    head, comma, rest = kind.partition(",")
    return f"{head} {name}{comma}{rest}"


def join_seeds(rows: list) -> tuple[list, Joined]:
    """eval.py's rows → those that are joined with no other and one for each `kind` of several runs,
    which joins them; and which rows it joins."""
    kinds: dict[str, list] = {}
    for row in rows:
        if row.kind:
            kinds.setdefault(row.kind, []).append(row)
    shown, joined = [row for row in rows if not row.kind], {}
    for kind, of_kind in kinds.items():
        if len(of_kind) == 1:
            shown += of_kind
            continue
        label = with_name(kind, f"({len(of_kind)} seeds)")
        joined[label] = {row.run: row.label for row in of_kind}
        shown.append(replace(of_kind[0], label=label,
                             t2l=of_kind[0].t2l and label.partition(",")[0]))
    return shown, joined


def runs_of(scores: Column, label: str, joined: Joined) -> Column:
    """{run: {task: score}}: the runs that a row joins, or the row alone."""
    return {run: scores[own] for run, own in joined.get(label, {label: label}).items()}


def add_joined(columns: dict[str, Column], joined: Joined) -> None:
    """To each column the joined rows: a task's score is the mean over its runs."""
    for scores in columns.values():
        for label in joined:
            runs = runs_of(scores, label, joined).values()
            scores[label] = {task: mean(run[task] for run in runs) for task in next(iter(runs))}


def difference(scores: Column, a: str, b: str, joined: Joined) -> tuple[float, float, float]:
    """Row `a` less row `b` in points, and its 95 % interval, paired over tasks; over seeds, too,
    where runs are joined: paired where both rows are of the same runs (a T2L and its control)."""
    first, second = runs_of(scores, a, joined), runs_of(scores, b, joined)
    order = list(scores[a])
    x, y = ([[run[task] for task in order] for run in runs.values()] for runs in (first, second))
    apart = mean(map(mean, x)) - mean(map(mean, y))
    if first.keys() != second.keys() and min(len(x), len(y)) > 1:
        return apart, *seed_interval(x, y)
    n = max(len(x), len(y))                              # a single run stands beside each other
    x, y = x * (n // len(x)), y * (n // len(y))
    return apart, *seed_interval([[p - q for p, q in zip(*pair)] for pair in zip(x, y)])


def find_label(labels: list[str], given: str) -> str:
    """The label that is `given`, or the only one that begins so; UserError lists them all."""
    found = [one for one in labels if one == given] or \
        [one for one in labels if one.startswith(given)]
    if len(found) != 1:
        raise UserError(f"--against {given!r} is the beginning of {len(found)} rows; expected one "
                        f"of: {'; '.join(labels)}")
    return found[0]


# ------------------------------------------------------------------------------- what they say

def summary(what: str, rows: list, columns: dict[str, Column], joined: Joined,
            against: str | None) -> str:
    """Print the joined rows and what the first column says (`what` is asked): differences, a T2L's
    score on each task; returns the one-line result."""
    scores = next(iter(columns.values()))
    print_joined(columns, joined)
    print_differences(what, rows, scores, joined, against)
    t2ls = [row.label for row in rows if row.t2l]
    if not t2ls:
        return f"{what}: {rows[-1].label} {mean(scores[rows[-1].label].values()):.1f} %"
    print_tasks(scores, t2ls[0])
    return f"{what}: {verdict(rows, scores, joined)}"


def verdict(rows: list, scores: Column, joined: Joined | None = None) -> str:
    """For each T2L: is its own description better than the best control, beyond chance?"""
    said = []
    for name in dict.fromkeys(row.t2l for row in rows if row.t2l):
        own, *controls = (row.label for row in rows if row.t2l == name)
        best = max(controls, key=lambda label: mean(scores[label].values()))
        _, low, high = difference(scores, own, best, joined or {})
        right, reads = mean(scores[own].values()), "it reads its description"
        why = f"{FEWEST} tasks are needed" if len(scores[own]) < FEWEST else \
            "more right answers, so more steps, are needed" if right < LEAST else ""
        said.append(("" if why else f"{reads}: " if low > 0 else f"!!! NOT SHOWN that {reads} !!! ")
                    + f"{own} {right:.1f} %, best control ({best}) "
                    f"{mean(scores[best].values()):.1f} %, difference [{low:.1f}, {high:.1f}]"
                    + (f"; {why} to say whether {reads}" if why else ""))
    return "; ".join(said)


# ------------------------------------------------------------------------------------ printing

def print_head(asked: dict[str, list[str]], columns: Iterable[str]) -> None:
    """What is asked, {part: the task of each answer}, and the names of the columns."""
    sizes = [f"{name}: {len(set(tasks))} tasks, {len(tasks)} answers"
             for name, tasks in asked.items()]
    print("\nexact match in %, [95 % interval over tasks]; " + "; ".join(sizes))
    if "lenient" in columns:
        print("strict: the answer as it is listed; lenient: in capitals or not")
    print(f"{'':44}" + "".join(f"{name:>22}" for name in columns))


def print_row(label: str, columns: dict[str, Column]) -> None:
    line = f"{label:44}"
    for scores in columns.values():
        values = list(scores[label].values())
        low, high = interval(values)
        line += f"{mean(values):8.1f} [{low:4.1f}, {high:4.1f}]"
    print(line, flush=True)


def print_joined(columns: dict[str, Column], joined: Joined) -> None:
    """A line for each joined row: mean, sd of the seeds' means, interval over tasks and seeds."""
    if not joined:
        return
    print("\nseeds joined: mean, sd over the seeds, [95 % interval over tasks and seeds]")
    print(f"{'':50}" + "".join(f"{name:>30}" for name in columns))
    for label in joined:
        line = f"{label:50}"
        for scores in columns.values():
            runs = [list(run.values()) for run in runs_of(scores, label, joined).values()]
            means, (low, high) = [mean(run) for run in runs], seed_interval(runs)
            line += f"{mean(means):8.1f}, sd {statistics.stdev(means):4.1f} " \
                    f"[{low:4.1f}, {high:4.1f}]"
        print(line)


def print_differences(what: str, rows: list, scores: Column, joined: Joined,
                      against: str | None) -> None:
    """The paired difference of any two main rows (base, multi-task LoRA, T2L with its own
    description), the later less the earlier; or of every row and `against`; `what` is asked."""
    labels, t2ls = [], set()
    for row in rows:                                 # a T2L's first row is its own description
        if not row.t2l or row.t2l not in t2ls:
            labels.append(row.label)
        t2ls.add(row.t2l)
    pairs = [(b, a) for a, b in combinations(labels, 2)] if against is None else \
        [(row.label, against) for row in rows if row.label != against]
    n = len(next(iter(scores.values())))
    few = f"; of fewer than {FEWEST} tasks it is too uncertain" if n < FEWEST else ""
    print(f"\n{what}: differences in points, paired by task, [95 % interval over tasks"
          + " and seeds" * bool(joined) + "]; beyond chance where it leaves out 0" + few)
    for a, b in pairs:
        apart, low, high = difference(scores, a, b, joined)
        print(f"  {a} − {b}: {apart:+.1f} [{low:.1f}, {high:.1f}]")


def print_tasks(scores: Column, label: str) -> None:
    """The label's score on every task that has one above 0, three in a line."""
    cells = [f"{task:30}{score:4.0f}" for task, score in scores[label].items() if score]
    none = len(scores[label]) - len(cells)
    print(f"\n{label}, by task" + (f"; the other {none} have 0" if none else ""))
    for start in range(0, len(cells), 3):
        print("   ".join(cells[start:start + 3]))
    print()
