"""Whole benchmark questions inside training tasks: what a score on these benchmarks cannot prove
(arXiv 2506.06105, section 4, takes ten tasks out for this reason).

    python -m experiments.leaks --benchmarks DIR                 # the built-in suite: seconds
    python -m experiments.leaks --benchmarks DIR --tasks DIR     # yours

A question is found where all its words stand in a row in a training instance, its input or answer,
whatever their capitals and punctuation. Questions of fewer than WORDS words are left out, for they
may stand anywhere. Where a question has a gap (WinoGrande), it is also looked for with each option
in its place.
"""
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.suite import load_suite
from data.tasks import Task
from experiments.benchmark_formats import Question
from experiments.benchmarks import load_benchmarks
from utils.cli import Parser, run
from utils.files import write_json

WORDS = 6
Words = tuple[str, ...]


def words(text: str) -> Words:
    return tuple(re.findall(r"\w+", text.lower()))


def spellings(question: Question) -> Iterator[Words]:
    """The question's words; with a gap filled in, too."""
    yield words(question.text)
    if "_" in words(question.text):
        yield from (words(question.text.replace("_", option)) for option in question.options)


def index(questions: dict[str, list[Question]]) -> dict[Words, list[tuple[Words, str, int]]]:
    """{the first WORDS words: [(all words, benchmark, number of the question)]}."""
    found = defaultdict(list)
    for name, asked in questions.items():
        for number, question in enumerate(asked):
            for said in spellings(question):
                if len(said) >= WORDS:
                    found[said[:WORDS]].append((said, name, number))
    return found


def find_leaks(tasks: Iterable[Task], questions: dict[str, list[Question]]
               ) -> dict[str, dict[str, int]]:
    """{task: {benchmark: how many of its questions stand in the task's training instances}}."""
    known, found = index(questions), {}
    for task in tasks:
        leaked = defaultdict(set)
        for text, answers in task.train:
            for said in map(words, (text, *answers)):
                for i in range(len(said) - WORDS + 1):
                    for question, name, number in known.get(said[i:i + WORDS], ()):
                        if said[i:i + len(question)] == question:
                            leaked[name].add(number)
        if leaked:
            found[task.name] = {name: len(numbers) for name, numbers in leaked.items()}
    return found


def main() -> None:
    parser = Parser("Whole benchmark questions inside training tasks.")
    parser.prog = "python -m experiments.leaks"
    parser.add_argument("--benchmarks", metavar="DIR", required=True,
                        help="a folder of NAME.jsonl%(default).0s")
    parser.add_argument("--out", metavar="DIR", default="out/leaks",
                        help="where leaks.json is written")
    parser.tasks()
    args = parser.parse_args()

    questions = load_benchmarks(Path(args.benchmarks), None, None, run_code=True)    # none is run
    tasks = load_suite(args.tasks).train
    leaks = find_leaks(tasks, questions)
    write_json(Path(args.out) / "leaks.json", leaks)

    for name, asked in questions.items():
        short = sum(len(words(q.text)) < WORDS for q in asked)
        print(f"{name:14}{len(asked):6} questions, {short:4} too short; found in "
              f"{sum(name in row for row in leaks.values())} tasks")
    for task, row in leaks.items():
        print(f"  {task}: " + ", ".join(f"{name} {n}" for name, n in row.items()))
    print(f"{len(leaks)} of {len(tasks)} training tasks hold a question of the "
          f"{len(questions)} benchmarks")


if __name__ == "__main__":
    run(main)
