"""What a kind of the built-in suite must be like; `python -m data.generate --check KIND` prints it.

A task needs enough instances to learn from and to test with, enough wordings, and answers that no
constant guesses. The wordings of two tasks must not be copies with a word or two exchanged: then
that word would be all there is to read. The test inputs of an unseen task are other tasks', too,
with other answers: else the input alone would tell the task. All is said at once.
"""
import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from data.tasks import Pair

MIN_INSTANCES, MIN_FACTS, MIN_TEST = 200, 100, 20    # the world has only so many countries
MIN_WORDINGS, MAX_SHARED = 24, 4                     # of a task; common to two tasks
MAX_CONSTANT = 0.55                                  # share of the instances with the same answer
MIN_COMMON, MIN_USERS, MAX_AGREE = 0.8, 10, 0.1      # of unseen tasks' test inputs: inputs_alone


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def shared_patterns(a: list[str], b: list[str]) -> int:
    """How many wordings of a are a wording of b with at most two words exchanged."""
    def twin(x: list[str], y: list[str]) -> bool:
        if abs(len(x) - len(y)) > 2 or min(len(x), len(y)) < 5 or len(set(x) - set(y)) > 2:
            return False                       # cheap, and right for nearly all pairs
        kept = sum(m.size for m in difflib.SequenceMatcher(None, x, y).get_matching_blocks())
        return max(len(x), len(y)) - kept <= 2
    wb = [words_of(y) for y in b]
    return sum(any(twin(x, y) for y in wb) for x in map(words_of, a))


def complaints(pairs: dict[str, tuple[list[Pair], list[Pair]]], wordings: dict[str, list[str]],
               lookups: set[str]) -> list[str]:
    """What is wrong with a kind: too few instances or wordings, copied wordings, dull answers.

    `pairs` has each task's training and test pairs, `wordings` its wordings; `lookups` are the
    tasks that look up facts.
    """
    found = [f"{extra}: wordings without a task" if extra else
             f"{len(wordings[extra])} wordings stand before the first line \"== task\""
             for extra in sorted(wordings.keys() - pairs.keys())]

    # Each task by itself.
    for name, (train, test) in pairs.items():
        n, least = len(train + test), MIN_FACTS if name in lookups else MIN_INSTANCES
        if n < least:
            found.append(f"{name}: {n} instances, expected {least}")
        if len(test) < MIN_TEST:
            found.append(f"{name}: {len(test)} test instances, expected {MIN_TEST}")
        distinct = {" ".join(words_of(x)) for x in wordings.get(name, [])}
        if len(distinct) < MIN_WORDINGS:
            found.append(f"{name}: {len(distinct)} wordings, expected {MIN_WORDINGS}")
        for line, often in Counter(map(str.casefold, wordings.get(name, []))).items():
            if often > 1:
                found.append(f"{name}: the wording {line!r} stands there {often} times")
        for answer, often in Counter(out[0] for _, out in train + test).most_common(1):
            if often > MAX_CONSTANT * n:
                found.append(f"{name}: {answer!r} is the answer to {often} instances")

    # Each two of them.
    names = list(pairs)
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            shared = shared_patterns(wordings.get(a, []), wordings.get(b, []))
            if shared > MAX_SHARED:
                found.append(f"{a} and {b} share {shared} wordings, at most {MAX_SHARED} are "
                             "allowed")
    return found


def common_wordings(own: dict[str, list[str]], others: dict[str, list[str]]) -> list[str]:
    """Wordings of a kind's tasks that are word for word those of other tasks: one of the two may be
    unseen, or hold the wording out, and the other train on it."""
    owner = {line: name for name, lines in others.items() for line in lines}
    return [f"{name}: the wording {line!r} is {owner[line]}'s, too"
            for name, lines in own.items() for line in dict.fromkeys(lines) if line in owner]


def inputs_alone(unseen: Iterable[str],
                 pairs: dict[str, tuple[list[Pair], list[Pair]]]) -> list[str]:
    """Of these tasks, those whose test inputs tell the task; `pairs` has the whole suite's."""
    # The answers that each test input has under the tasks that use it.
    answers: dict[str, Counter] = defaultdict(Counter)
    for _, test in pairs.values():
        for text, out in test:
            answers[text][out[0]] += 1

    found = []
    for name in unseen:
        test = pairs[name][1]
        users = [answers[text].total() for text, _ in test]
        common, n = sum(n > 1 for n in users), max(1, len(test))
        if common < MIN_COMMON * len(test):
            found.append(f"{name}, drawn as unseen: {common} of {len(test)} test inputs are other "
                         f"tasks', too, expected {100 * MIN_COMMON:.0f} %; use a pool of others")
        elif sum(users) < MIN_USERS * len(test):
            found.append(f"{name}, drawn as unseen: on average {sum(users) / n:.1f} tasks use a "
                         f"test input, expected {MIN_USERS}; use a pool of others")
        same = sum(answers[text][out[0]] - 1 for text, out in test)
        if same >= MAX_AGREE * max(1, sum(users) - len(test)):
            found.append(f"{name}, drawn as unseen: {100 * same / max(1, sum(users) - n):.0f} % of "
                         "other tasks' answers are its own, expected under "
                         f"{100 * MAX_AGREE:.0f} %")
    return found


def overlap(tasks: Iterable[Sequence[Pair]]) -> str:
    """How often an input recurs, and how often two tasks that share it agree on its answer."""
    # The answers that each input has under the tasks that use it.
    tasks = list(tasks)
    by_input: dict[str, list[str]] = defaultdict(list)
    for pairs in tasks:
        for text, answers in pairs:
            by_input[text].append(answers[0])
    shared = [answers for answers in by_input.values() if len(answers) > 1]
    total, n_shared = sum(map(len, tasks)), sum(map(len, shared))
    said = f"{len(tasks)} tasks, {total} instances, {len(by_input)} different inputs"
    if not shared:
        return f"{said}, none of which occurs in several tasks"

    # Of all ordered pairs of tasks with a common input, those that agree.
    two = sum(len(a) * (len(a) - 1) for a in shared)
    agree = sum(n * (n - 1) for a in shared for n in Counter(a).values())
    return (f"{said}; {100 * n_shared / total:.1f} % of the instances have an input that occurs "
            f"in several tasks, on average in {n_shared / len(shared):.0f}; two tasks that share "
            f"an input agree on its answer in {100 * agree / two:.1f} % of the cases")
