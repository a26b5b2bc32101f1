"""The built-in suite: data/kinds/ → 776 tasks in memory; and what is known and checked of them.

    python -m data.generate                         # the unseen tasks, how often inputs recur
    python -m data.generate --show letters_upper    # a task: its wordings and a dozen instances
    python -m data.generate --check letters         # a kind: samples, numbers, complaints
    python -m data.generate --write DIR             # DIR/tasks/*.json (SNI's schema), splits.json

One rule keeps training and test apart for all tasks at once: an input whose CRC32 is divisible by
five is a test input under every task that uses it, so no test pair can occur in training anywhere.

A new kind: write data/kinds/KIND.txt and its tasks, in KIND.py or in grids.py; mend what `--check
KIND` complains of; then `--write DIR`, and copy DIR/splits.json to data/splits.json. That file has
the drawn splits and the sha256 of all pairs, with which every build in memory is compared.
"""
import difflib
import hashlib
import importlib
import json
import platform
import random
import sys
import zlib
from collections import Counter
from pathlib import Path

from data.complaints import (MIN_WORDINGS, common_wordings, complaints, inputs_alone,
                             overlap)
from utils.cli import Parser, UserError, run
from utils.files import atomic_folder, listed, read_text
from data.kinds import TASKS, TaskSpec
from data.tasks import Pair, Task

FOLDER, SPLITS = Path(__file__).parent / "kinds", Path(__file__).parent / "splits.json"
KINDS = [path.stem for path in listed(FOLDER, "*.txt")]
PYTHON = ".".join(platform.python_version_tuple()[:2])
N_TRAIN, N_TEST = 320, 80                   # instances of a task, at most
N_HELD_OUT = 8                              # wordings of a task that are for evaluation only
SEED, UNSEEN, VALIDATION = 0, 4, 2          # tasks drawn in each kind, look-ups of facts excepted


# ------------------------------------------------------------------------------ kinds → tasks

def is_test(text: str) -> bool:
    return zlib.crc32(text.encode()) % 5 == 0


def all_specs() -> dict[str, TaskSpec]:
    """What every task is made of, by name in alphabetical order; imports all of data/kinds."""
    for path in listed(FOLDER, "*.py"):
        importlib.import_module(f"data.kinds.{path.stem}")
    return dict(sorted(TASKS.items()))


def read_wordings(kind: str) -> dict[str, list[str]]:
    """kinds/<kind>.txt: a line `== name` opens a task, every other line is one wording. What stands
    before the first such line is nobody's: ""."""
    lines: list[str] = []
    found = {"": lines}
    for line in read_text(FOLDER / f"{kind}.txt").splitlines():
        line = line.strip()
        if line.startswith("== "):
            lines = found.setdefault(f"{kind}_{line[3:].strip()}", [])
        elif line:
            lines.append(line)
    return {name: lines for name, lines in found.items() if name or lines}


def make_pairs(name: str, spec: TaskSpec,
               odd: list[str] | None = None) -> tuple[list[Pair], list[Pair]]:
    """A task's training and test pairs (input, accepted answers), no input twice. Where an answer
    is not what it must be: ValueError, or it is left out and told to the list `odd`."""
    seen: set[str] = set()
    train: list[Pair] = []
    test: list[Pair] = []
    for item in spec.pool:
        text = str(item)
        part, limit = (test, N_TEST) if is_test(text) else (train, N_TRAIN)
        if text in seen or len(part) == limit:
            continue
        try:
            if (out := spec.answer(item)) is None:
                continue
            answers = tuple(out) if isinstance(out, list) else (out,)
            wrong = "" if answers and all(map(is_answer, answers)) else \
                f"{text!r} has {answers}; expected texts without outer spaces"
        except Exception as error:                    # the contributor's own code: whatever it says
            wrong = f"{text!r} has no answer, but {type(error).__name__}: {error}"
        seen.add(text)
        if wrong and odd is None:
            raise ValueError(f"{name}: {wrong}")
        if wrong:
            odd.append(wrong)
        else:
            part.append((text, answers))
    return train, test


def is_answer(text: object) -> bool:
    return isinstance(text, str) and bool(text) and text == text.strip()


def make_task(name: str, spec: TaskSpec, lines: list[str]) -> Task:
    """A task of the suite; its name draws which wordings are held out. UserError: too few."""
    if len(lines) < MIN_WORDINGS:
        raise UserError(f"{name} has {len(lines)} wordings in {FOLDER / spec.kind}.txt, expected "
                        f"{MIN_WORDINGS}")
    held_out = random.Random(name).sample(lines, N_HELD_OUT)
    train, test = make_pairs(name, spec)
    return Task(name, tuple(train), tuple(test),
                tuple(x for x in lines if x not in held_out), tuple(held_out))


def default_tasks() -> dict[str, Task]:
    """All tasks of the built-in suite, by name in alphabetical order."""
    specs, wordings = all_specs(), {}
    for kind in KINDS:
        wordings |= read_wordings(kind)
    return {name: make_task(name, spec, wordings.get(name, [])) for name, spec in specs.items()}


# ------------------------------------------------------------------------- splits and digests

def draw_splits(specs: dict[str, TaskSpec]) -> dict[str, list[str]]:
    """Unseen and validation tasks: a seeded draw within each kind, look-ups left out. Of a small
    kind at most a third are drawn, two of three as unseen: most of every kind is trained on."""
    splits: dict[str, list[str]] = {"unseen": [], "validation": []}
    for kind in sorted({*KINDS, *(spec.kind for spec in specs.values())}):
        names = [n for n, spec in specs.items() if spec.kind == kind and not spec.lookup]
        n = min(len(names) // 3, UNSEEN + VALIDATION)
        n_unseen = round(n * UNSEEN / (UNSEEN + VALIDATION))
        drawn = random.Random(f"{SEED} {kind}").sample(names, n)
        splits["unseen"] += sorted(drawn[:n_unseen])
        splits["validation"] += sorted(drawn[n_unseen:])
    return splits


def best_constant(pairs: tuple[Pair, ...]) -> tuple[str, float]:
    """The one answer that is right most often, and its exact match in percent."""
    counts = Counter(answer for _, answers in pairs for answer in dict.fromkeys(answers))
    answer, right = counts.most_common(1)[0]
    return answer, round(100 * right / len(pairs), 1)


def digests(tasks: dict[str, Task]) -> dict[str, str]:
    """The sha256 of all training pairs and of all test pairs.

    What is hashed is a line of UTF-8 for each task, in alphabetical order: JSON, as json.dumps with
    ensure_ascii=False writes it, of [name, [wording, …], [[input, [accepted answer, …]], …]]. The
    wordings are those to train with, or those held out.
    """
    found = {}
    for part, wordings, pairs in (("training pairs", "descriptions", "train"),
                                  ("test pairs", "held_out", "test")):
        digest = hashlib.sha256()
        for name, task in sorted(tasks.items()):
            line = [name, getattr(task, wordings), getattr(task, pairs)]
            digest.update(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        found[part] = digest.hexdigest()
    return found


def describe_splits(tasks: dict[str, Task]) -> dict:
    """What data/splits.json holds."""
    splits = draw_splits(all_specs())
    return {"seed": SEED, **splits,
            "best constant answer": {n: best_constant(tasks[n].test) for n in splits["unseen"]},
            "python": PYTHON, "sha256": digests(tasks)}


def check_digests(tasks: dict[str, Task], splits: dict) -> None:
    """UserError where `tasks` are not those that `splits`, read from data/splits.json, was drawn
    from. Python promises the same random.sample and random.shuffle within one version only."""
    known = splits.get("sha256", {})
    for part in [part for part, digest in digests(tasks).items() if digest != known.get(part)]:
        raise UserError(
            f"the built-in suite has other {part} than {SPLITS} says. After a change of "
            "data/kinds: `python -m data.generate --write DIR`, and copy DIR/splits.json to data/. "
            f"Without one it is Python's version, {PYTHON} here, {splits.get('python')} there: let "
            "that one write DIR, and --tasks DIR reads its suite here")


# --------------------------------------------------------------------------------- the command

def print_task(name: str) -> None:
    """--show: the wordings and a dozen instances; UserError names the tasks near an unknown one."""
    specs = all_specs()
    if name not in specs:
        near = ", ".join(difflib.get_close_matches(name, specs, 5))
        raise UserError(f"there is no task {name!r}; " + (f"near it are {near}" if near else
                        f"a task's name begins with its kind: {', '.join(KINDS)}"))
    task = make_task(name, specs[name], read_wordings(specs[name].kind).get(name, []))
    part = [part for part, names in draw_splits(specs).items() if name in names] or ["trained on"]
    print(f"{name} ({part[0]}): {len(task.train)} training and {len(task.test)} test instances")
    for title, lines in (("wordings", task.descriptions), ("wordings held out", task.held_out)):
        print(f"\n{title}", *lines, sep="\n    ")
    for title, pairs, n in (("training instances", task.train, 8),
                            ("test instances", task.test, 4)):
        drawn = random.Random(name).sample(pairs, min(n, len(pairs)))
        print(f"\n{title}", *(f"{text!r} → {list(out)}" for text, out in drawn), sep="\n    ")


Checked = dict[str, tuple[tuple[list[Pair], list[Pair]], list[str]]]    # pairs, and what is odd


def check_pairs() -> Checked:
    """Of every task its training and test pairs, without those whose answers are odd, and these."""
    return {name: (make_pairs(name, spec, odd := []), odd) for name, spec in all_specs().items()}


def complaints_of(kind: str, checked: Checked) -> list[str]:
    """All that is to be mended in a kind, whatever else is wrong in it."""
    found, file = [], FOLDER / f"{kind}.txt"
    if not file.exists():
        found.append(f"{file} does not exist; it holds the wordings")
    wordings = {k: read_wordings(k) for k in {*KINDS, kind} if (FOLDER / f"{k}.txt").exists()}
    own, specs = wordings.pop(kind, {}), all_specs()
    mine = {name: spec for name, spec in specs.items() if spec.kind == kind}

    # Its answers, its own tasks beside each other, its tasks beside all others.
    for name in mine:
        if odd := checked[name][1]:
            found.append(f"{name}: {odd[0]}" + (f" (and {len(odd) - 1} more)" if odd[1:] else ""))
    found += complaints({name: checked[name][0] for name in mine}, own,
                        {name for name, spec in mine.items() if spec.lookup})
    found += common_wordings(own, {k: v for other in wordings.values() for k, v in other.items()})
    return found + inputs_alone([name for name in draw_splits(specs)["unseen"] if name in mine],
                                {name: pairs for name, (pairs, _) in checked.items()})


def print_kind(kind: str) -> None:
    """--check: four instances of each task, the complaints, the kind in numbers."""
    specs = all_specs()
    if kind not in {*KINDS, *(spec.kind for spec in specs.values())}:
        near = ", ".join(difflib.get_close_matches(kind, KINDS, 5) or KINDS)
        raise UserError(f"there is no kind {kind!r}, neither data/kinds/{kind}.txt nor a task of "
                        f"it in a .py there; near it are {near}")

    # Samples.
    all_pairs, splits, checked = {}, draw_splits(specs), check_pairs()
    wordings = read_wordings(kind) if (FOLDER / f"{kind}.txt").exists() else {}
    for name, spec in specs.items():
        if spec.kind == kind:
            train, test = checked[name][0]
            all_pairs[name] = pairs = train + test
            print(f"{name}: {len(train)} training and {len(test)} test instances, "
                  f"{len(wordings.get(name, []))} wordings")
            for text, out in random.Random(name).sample(pairs, min(4, len(pairs))):
                print(f"    {text!r} → {list(out)}")

    # What can be said of the kind.
    for part, names in splits.items():
        print(f"{part}: {', '.join(n for n in names if n in all_pairs) or 'none'}")
    print(f"{kind}: {overlap(all_pairs.values())}")
    end_with(complaints_of(kind, checked))


def end_with(found: list[str]) -> None:
    """Print complaints; if there are any, the command ends with exit code 1."""
    for complaint in found:
        print(f"! {complaint}")
    if found:
        sys.exit(1)


def print_overview() -> None:
    checked = check_pairs()
    end_with([complaint for kind in KINDS for complaint in complaints_of(kind, checked)])
    tasks = default_tasks()
    for name, (answer, right) in describe_splits(tasks)["best constant answer"].items():
        print(f"unseen {name:32} best constant {right:5.1f} %  {answer!r}")
    print(overlap(task.train + task.test for task in tasks.values()))


def task_json(task: Task, kind: str) -> str:
    """The task in SNI's schema, a wording and an instance a line."""
    lines = task.descriptions + task.held_out
    rows = [{"input": text, "output": answers} for text, answers in task.train + task.test]
    head = {"Definition": lines[:1], "Categories": [kind], "License": "MIT",
            "Split": {"train": len(task.train), "test": len(task.test)},
            "Description Split": {"train": len(task.descriptions), "test": len(task.held_out)},
            "Positive Examples": [{"input": row["input"], "output": row["output"][0],
                                   "explanation": ""} for row in rows[:3]]}
    parts = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()]
    for key, found in (("Descriptions", lines), ("Instances", rows)):
        body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in found)
        parts.append(f"{json.dumps(key)}: [\n{body}\n]")
    return "{" + ",\n".join(parts) + "}\n"


def write(folder: Path) -> None:
    """--write: UserError where folder/tasks holds tasks of another suite, which would be read, too.
    No digest is checked: this is how data/splits.json is made anew."""
    tasks, specs = default_tasks(), all_specs()
    for name in sorted({path.stem for path in listed(folder / "tasks", "*.json")} - tasks.keys()):
        raise UserError(f"{folder / 'tasks'} holds {name}.json, which is no task of the built-in "
                        "suite; name a new folder")
    with atomic_folder(folder / "tasks") as scratch:
        for name, task in tasks.items():
            (scratch / f"{name}.json").write_bytes(task_json(task, specs[name].kind).encode())
    splits = json.dumps(describe_splits(tasks), indent=1, ensure_ascii=False)
    (folder / "splits.json").write_bytes(f"{splits}\n".encode())
    print(f"wrote {len(tasks)} tasks and splits.json; --tasks {folder} reads them")


def main() -> None:
    parser = Parser("What the built-in suite is made of; without an option: its unseen tasks with "
                    "the best constant answer, and how often inputs recur.")
    parser.prog = "python -m data.generate"
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--show", metavar="TASK",
                     help="print a task's wordings and a dozen instances%(default).0s")
    one.add_argument("--check", metavar="KIND",
                     help="print what there is to complain of in a kind, samples and numbers"
                     "%(default).0s")
    one.add_argument("--write", metavar="DIR", type=Path,
                     help="write DIR/tasks/*.json and DIR/splits.json%(default).0s")
    args = parser.parse_args()
    if args.show is not None:
        print_task(args.show)
    elif args.check is not None:
        print_kind(args.check)
    elif args.write:
        write(args.write)
    else:
        print_overview()


if __name__ == "__main__":
    run(main)
