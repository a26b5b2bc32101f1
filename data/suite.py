"""The suite of tasks that a command trains on and tests with.

    suite = load_suite()            # the built-in suite, made in memory by data/generate.py
    suite = load_suite("DIR")       # task files of your own, or a clone of natural-instructions
    suite = load_suite(["default", "DIR"])          # the built-in suite and yours

A task file is JSON in the schema of Super-NaturalInstructions: `Definition`, `Instances` [{input,
output: [accepted answers]}] and, optionally, `Descriptions` (wordings of what the task asks),
`Split` {train, test} (the first so many instances, then the next) and `Description Split`
(likewise). `splits.json` beside the folder names the tasks that are kept from training:
{"unseen": […], "validation": […]}. Instances without an input or an answer are left out, and test
instances that are trained on, too; a warning counts them.
"""
import re
import warnings
from collections import Counter
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from data import generate
from data.tasks import Pair, Sample, Suite, Task, message
from utils.cli import UserError, composed, note, select_tasks
from utils.files import listed, read_json
from utils.neighbours import training_names
from utils.tokenizer import Tokenizer
from utils.weights import checkpoint_folder


SNI_SPLITS = Path(__file__).parent / "sni_splits.json"
KEYS = {"Definition", "Descriptions", "Instances", "Split", "Description Split",
        "Positive Examples", "Negative Examples"}
TEST_SHARE = 0.2       # of the instances, where a task file does not say which are for testing


def load_suite(folders: str | Path | list[str | Path] | None = None) -> Suite:
    """The built-in suite (None, or "default"), all tasks of a folder, or those of several together.

    UserError where two of them hold a task of the same name.
    """
    folders = folders if isinstance(folders, list) else [folders or "default"]
    suites = [(str(f), builtin_suite() if str(f) == "default" else folder_suite(f))
              for f in folders]
    home: dict[str, str] = {}
    for folder, suite in suites:
        for name in suite.by_name():
            if name in home:
                raise UserError(f"--tasks {home[name]} and {folder} both hold a task {name}; "
                                "rename one" if home[name] != folder else
                                f"--tasks names {folder} twice")
            home[name] = folder
    together = Suite(*(sum((getattr(suite, part) for _, suite in suites), [])
                       for part in ("train", "validation", "unseen")))
    if any(folder != "default" for folder, _ in suites):
        report_overlap(together)
    return together


def builtin_suite() -> Suite:
    splits = read_json(generate.SPLITS)
    tasks = generate.default_tasks()
    generate.check_digests(tasks, splits)
    return divide(tasks, splits, "the built-in suite", generate.SPLITS)


def folder_suite(folder: str | Path) -> Suite:
    """All tasks of a folder, divided by the splits.json beside it.

    A folder without task files that has a sub-folder tasks/ means that one. Without a splits.json
    every task is trained on. In a clone of natural-instructions the paper's 479 and 11 tasks are
    meant, the others are not read. UserError names the file that is missing or malformed.
    """
    # Which files.
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--tasks {folder} is a file; give the folder it is in" if folder.exists()
                        else f"--tasks {folder} does not exist")
    clone = (folder / "splits" / "default").is_dir()
    if (folder / "tasks").is_dir() and (
            clone or {path.name for path in listed(folder, "*.json")} <= {"splits.json"}):
        folder = folder / "tasks"
    files, beside = listed(folder, "*.json"), folder.parent / "splits.json"
    splits = None
    if beside.exists():
        splits = read_json(beside)
    elif (folder.parent / "splits" / "default").is_dir():
        files, splits = paper_tasks(files)
    if not files:
        raise UserError(f"{folder} holds no task file; expected *.json in the schema of "
                        "Super-NaturalInstructions, see docs/own-tasks.md")

    # Read and divide them.
    tasks = {}
    for path in files:
        task = load_task(path)
        if task.name in tasks:
            raise UserError(f"{folder} holds two files named {task.name}.json, which differ only "
                            "in how an accent is stored; rename one")
        tasks[task.name] = task
    if not splits or not splits.keys() & {"unseen", "validation"}:
        said = f"no {beside}" if splits is None else f"{beside} names no task as \"unseen\""
        warnings.warn(f"{said}: every task is trained on, none is left to test as unseen")
    return divide(tasks, splits or {}, str(folder), beside)


def divide(tasks: dict[str, Task], splits: dict, where: str, path: Path) -> Suite:
    """A suite of `tasks`; `splits`, read from `path`, names those that are not trained on."""
    # Which tasks are kept from training.
    named = {part: splits.get(part, []) for part in ("validation", "unseen")}
    for part, names in named.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: expected a list of task names as {part!r}, found {names!r}")
    kept = Counter(composed(name) for names in named.values() for name in names)
    for name, times in kept.items():
        if name not in tasks:
            raise UserError(f"{path} names {name}, which is not in {where}")
        if times > 1:
            raise UserError(f"{path} names {name} {times} times; name it once")
        if not tasks[name].test:
            warnings.warn(f"{path} keeps {name} from training, but it has no test instance")

    # The others are trained on.
    train = [task for name, task in tasks.items() if name not in kept and task.train]
    if not train:
        raise UserError(f"{where}: no task is left to train on")
    return Suite(train, **{part: [tasks[composed(name)] for name in names]
                           for part, names in named.items()})


def paper_tasks(files: list[Path]) -> tuple[list[Path], dict]:
    """Of natural-instructions' files (task022_….json) those the paper uses, and its splits."""
    numbers = read_json(SNI_SPLITS)
    found = {int(match[1]): path for path in files if (match := re.match(r"task(\d+)_", path.name))}
    missing = [n for n in numbers["train"] + numbers["unseen"] if n not in found]
    if missing:
        warnings.warn(f"natural-instructions lacks {len(missing)} of the paper's tasks, among them "
                      f"number {missing[0]}")
    kept = [found[n] for n in numbers["train"] + numbers["unseen"] if n in found]
    return kept, {"unseen": [found[n].stem for n in numbers["unseen"] if n in found]}


def load_task(path: Path) -> Task:
    """One task file; UserError names the file and what is missing in it.

    Without `Split` the last fifth of the instances is for testing; without `Description Split` up
    to eight of the wordings, at most a third; a task with one wording is tested with that one.
    """
    raw = read_json(path)
    for key in raw.keys() - KEYS:
        if near := get_close_matches(key.lower(), known := {k.lower(): k for k in KEYS}, 1, 0.8):
            warnings.warn(f"{path}: \"{key}\" is passed over; did you mean \"{known[near[0]]}\"?")
    lines = as_texts(raw.get("Descriptions") or raw.get("Definition"), path,
                     "\"Definition\" (or \"Descriptions\")")
    pairs = read_pairs(raw.get("Instances"), path)

    # What of them is for training; an instance that is left out keeps its place in the count.
    n_test, n_held = round(TEST_SHARE * len(pairs)), min(8, len(lines) // 3)
    split = raw.get("Split", {"train": len(pairs) - n_test, "test": n_test})
    wordings = raw.get("Description Split", {"train": len(lines) - n_held})
    try:
        given = split["train"], split["test"], wordings["train"]
        n, m, k = map(int, given)
        if min(n, m) < 0 or k < 1 or (n, m, k) != given:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: expected \"Split\": {{\"train\": 320, \"test\": 80}} and "
                        "\"Description Split\": {\"train\": 20}, or neither") from None
    if n + m > len(pairs):
        warnings.warn(f"{path}: \"Split\" counts {n + m} instances, the file has {len(pairs)}")
    train, test = ([pair for pair in part if pair] for part in (pairs[:n], pairs[n:n + m]))

    # What is trained on is no test.
    known = {(text, answer) for text, answers in train for answer in answers}
    fresh = [pair for pair in test if not trained_on(pair, known)]
    if len(fresh) < len(test):
        warnings.warn(f"{path}: left out {len(test) - len(fresh)} of {len(test)} test instances, "
                      "which are among the training instances, too")
    held_out = [line for line in lines[k:] if line not in lines[:k]]
    return Task(composed(path.stem), tuple(train), tuple(fresh), tuple(lines[:k]),
                tuple(held_out or lines))


def trained_on(pair: Pair, known: set[tuple[str, str]]) -> bool:
    return any((pair[0], answer) in known for answer in pair[1])


def read_pairs(rows, path: Path) -> list[Pair | None]:
    """A task file's instances; None for one without an input or an answer, and a warning. UserError
    where half of them are so: then it is the file that is wrong."""
    if not isinstance(rows, list) or not any(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} has no \"Instances\": expected a list of "
                        "{\"input\": \"…\", \"output\": [\"…\"]}")
    pairs: list[Pair | None] = []
    bad = []
    for i, row in enumerate(rows):
        try:
            if not isinstance(row, dict) or not isinstance(row.get("input"), str):
                raise UserError(f"{path}: instance {i} lacks a text \"input\"")
            answers = as_texts(row.get("output"), path, f"instance {i}'s output")
            pairs.append((row["input"], tuple(answers)))
        except UserError as error:
            bad.append(error)
            pairs.append(None)
    if 2 * len(bad) >= len(rows):
        raise bad[0]
    if bad:
        warnings.warn(f"left out {len(bad)} of {len(rows)} instances; the first: {bad[0]}")
    return pairs


def report_overlap(suite: Suite) -> None:
    """A warning where a test instance of one task is a training instance of another."""
    known = {(text, answer) for task in suite.train for text, answers in task.train
             for answer in answers}
    shared = {name: n for name, task in suite.by_name().items()
              if (n := sum(trained_on(pair, known) for pair in task.test))}
    if shared:
        warnings.warn(f"{sum(shared.values())} test instances of {len(shared)} tasks, among them "
                      f"{max(shared, key=shared.__getitem__)}, are training instances of another "
                      "task, with the same answer")


def as_texts(found, path: Path, what: str) -> list[str]:
    """`found` as a list of non-empty texts (SNI has both "…" and ["…"]), or a UserError."""
    found = [found] if isinstance(found, str) else found
    if not found or not isinstance(found, list) \
            or not all(isinstance(x, str) and x.strip() for x in found):
        raise UserError(f"{path} lacks {what}: expected a list of non-empty texts")
    return found


def drop_too_long(suite: Suite, tokenizer: Tokenizer, limit: int, describe: str) -> Suite:
    """The suite without the instances that exceed `limit` tokens; a warning says how many.

    UserError names a task of which no training instance is left.
    """
    around = len(tokenizer.prompt("x"))

    def fits(task: Task, pair: tuple) -> bool:
        longest = max(task.descriptions, key=len)
        sample = Sample(task.name, longest, pair[0], (max(pair[1], key=len),))
        if len((longest + pair[0] + sample.answers[0]).encode()) + around + 8 <= limit:
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


# ------------------------------------------------------------------- what is, and was, trained on

def train_on(suite: Suite, wanted: list[str] | None, at_most: int | None) -> Suite:
    """The suite with the training tasks that --task and --max-tasks choose, in their order."""
    chosen = set(select_tasks([task.name for task in suite.train], wanted, at_most))
    return replace(suite, train=[task for task in suite.train if task.name in chosen])


def untrained(suite: Suite, folders: list[Path]) -> Suite:
    """As `unseen` the suite's tasks, of any part, that no checkpoint was trained on, each to be
    tested with all its instances; as `train` all tasks, for the controls' wordings. UserError where
    every task was trained on."""
    known = set().union(*map(tasks_of_checkpoint, folders))
    tasks = suite.train + suite.validation + suite.unseen
    left = [replace(task, test=task.train + task.test) for task in tasks if task.name not in known]
    if not left:
        raise UserError(f"--split all: all {len(tasks)} tasks of --tasks were trained on by "
                        f"{', '.join(map(str, folders))}; give a folder of others with --tasks")
    note(f"--split all: {len(left)} tasks are asked, {len(tasks) - len(left)} were trained on")
    return Suite(tasks, [], left)


def tasks_of_checkpoint(folder: Path) -> set[str]:
    """The names of the tasks that it was trained on, and those of what it started from (--init) and
    what it reads with (--read-with).

    They are in tasks.safetensors. A run without it (a multi-task LoRA, an older or one-hot T2L) was
    trained on its library's tasks, or on the training tasks of the --tasks that config.json has.
    Where that cannot be read, a note says so, and the built-in suite's are taken.
    """
    names: set[str] = set()
    folders = [folder]
    for folder in folders:                               # which grows
        try:
            config = {} if (folder / "hypermod.pt").exists() else read_json(folder / "config.json")
            found = training_names(folder) or config.get("library")
            if not found and "tasks" not in config:
                raise UserError("neither tasks.safetensors nor its --tasks are there")
            with warnings.catch_warnings(action="ignore"):           # said when it was trained
                suite = None if found else train_on(load_suite(config["tasks"]),
                                                    config.get("task"), config.get("max_tasks"))
                names.update(found or (task.name for task in suite.train))
            others = [checkpoint_folder(config[key]) for key in ("init", "read_with")
                      if config.get(key)]
            folders += [other for other in others if other not in folders]
        except (UserError, TypeError) as error:
            note(f"{folder}: not all that it was trained on is known ({error}); the training tasks "
                 "of the built-in suite are left out in its place, others of its may be asked")
            names.update(task.name for task in builtin_suite().train)
    return names
