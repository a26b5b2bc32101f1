"""Writes the default suite: data/kinds/ → data/tasks/*.json (SNI's schema) and data/splits.json.

    python data/make.py            # write everything, print the overlap of inputs and the splits
    python data/make.py --check letters    # only check one kind, print samples

One rule keeps training and test apart for all tasks at once: an input whose CRC32 is divisible by
five is a test input under every task that uses it, so no test pair can occur in training anywhere.
"""
import argparse
import difflib
import importlib
import json
import random
import re
import sys
import zlib
from collections import Counter, defaultdict
from pathlib import Path

from kinds import TASKS

HERE = Path(__file__).parent
KINDS = sorted(p.stem for p in (HERE / "kinds").glob("*.py") if p.stem != "__init__")
N_TRAIN, N_TEST = 320, 80                   # instances of a task, at most
MIN_INSTANCES, MIN_FACTS = 200, 100         # at least; the world has only so many countries
MIN_DESCRIPTIONS, N_HELD_OUT = 24, 8        # descriptions of a task; of these, for evaluation only
SEED, UNSEEN, VALIDATION = 0, 4, 2          # tasks drawn in each kind, look-ups of facts excepted


def is_test(text: str) -> bool:
    return zlib.crc32(text.encode()) % 5 == 0


def read_descriptions(kind: str) -> dict[str, list[str]]:
    """kinds/<kind>.txt: a line `== name` opens a task, every other line is one description."""
    found: dict[str, list[str]] = {}
    for line in (HERE / "kinds" / f"{kind}.txt").read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("== "):
            lines = found.setdefault(f"{kind}_{line[3:].strip()}", [])
        elif line:
            lines.append(line)
    return found


def build(name: str) -> dict:
    """All instances of a task: training inputs first, then test inputs, none twice."""
    task, seen, train, test = TASKS[name], set(), [], []
    for item in task.pool:
        text, out = str(item), task.answer(item)
        part, limit = (test, N_TEST) if is_test(text) else (train, N_TRAIN)
        if out is None or text in seen or len(part) == limit:
            continue
        seen.add(text)
        out = out if isinstance(out, list) else [out]
        assert all(isinstance(o, str) and o == o.strip() and o for o in out), (name, text, out)
        part.append({"input": text, "output": out})
    return {"Instances": train + test, "Split": {"train": len(train), "test": len(test)}}


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def shared_patterns(a: list[str], b: list[str]) -> int:
    """How many descriptions of a are a description of b with at most two words exchanged."""
    def twin(x: list[str], y: list[str]) -> bool:
        if abs(len(x) - len(y)) > 2 or min(len(x), len(y)) < 5 or len(set(x) - set(y)) > 2:
            return False                       # cheap, and right for nearly all pairs
        kept = sum(m.size for m in difflib.SequenceMatcher(None, x, y).get_matching_blocks())
        return max(len(x), len(y)) - kept <= 2
    wb = [words_of(y) for y in b]
    return sum(any(twin(x, y) for y in wb) for x in map(words_of, a))


def check(kind: str, descriptions: dict[str, list[str]]) -> list[str]:
    """Complaints about a kind: too few instances or descriptions, copied wordings, dull answers."""
    complaints = []
    names = [n for n in TASKS if TASKS[n].kind == kind]
    for extra in set(descriptions) - set(names):
        complaints.append(f"{extra}: descriptions without a task")
    for name in names:
        made, lines = build(name), descriptions.get(name, [])
        least = MIN_FACTS if TASKS[name].lookup else MIN_INSTANCES
        if len(made["Instances"]) < least:
            complaints.append(f"{name}: {len(made['Instances'])} instances, expected {least}")
        if made["Split"]["test"] < 20:
            complaints.append(f"{name}: {made['Split']['test']} test instances, expected 20")
        distinct = {" ".join(words_of(x)) for x in lines}
        if len(distinct) < MIN_DESCRIPTIONS:
            complaints.append(f"{name}: {len(distinct)} descriptions, expected {MIN_DESCRIPTIONS}")
        top = Counter(i["output"][0] for i in made["Instances"]).most_common(1)
        if top and top[0][1] > 0.55 * len(made["Instances"]):
            complaints.append(f"{name}: {top[0][0]!r} is the answer to {top[0][1]} instances")
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            n = shared_patterns(descriptions.get(a, []), descriptions.get(b, []))
            if n > 4:
                complaints.append(f"{a} and {b} share {n} wordings, at most 4 are allowed")
    return complaints


def draw_splits() -> dict[str, list[str]]:
    """Unseen and validation tasks: a seeded draw within each kind, look-ups left out."""
    splits: dict[str, list[str]] = {"unseen": [], "validation": []}
    for kind in KINDS:
        names = sorted(n for n, t in TASKS.items() if t.kind == kind and not t.lookup)
        drawn = random.Random(f"{SEED} {kind}").sample(names, min(len(names), UNSEEN + VALIDATION))
        splits["unseen"] += sorted(drawn[:UNSEEN])
        splits["validation"] += sorted(drawn[UNSEEN:])
    return splits


def best_constant(instances: list[dict]) -> tuple[str, float]:
    """The one answer that is right most often, and its exact match in percent."""
    counts = Counter(answer for i in instances for answer in set(i["output"]))
    answer, right = counts.most_common(1)[0]
    return answer, round(100 * right / len(instances), 1)


def task_json(name: str, lines: list[str], made: dict) -> str:
    """The task in SNI's schema, an instance a line; the held-out wordings are drawn by the name."""
    held_out = random.Random(name).sample(lines, N_HELD_OUT)
    lines = [x for x in lines if x not in held_out] + held_out
    n = made["Split"]["train"]
    head = {"Definition": lines[:1], "Categories": [TASKS[name].kind], "License": "MIT",
            "Split": made["Split"],
            "Description Split": {"train": len(lines) - N_HELD_OUT, "test": N_HELD_OUT},
            "Positive Examples": [{"input": i["input"], "output": i["output"][0], "explanation": ""}
                                  for i in made["Instances"][:3]]}
    parts = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()]
    for key, rows in (("Descriptions", lines), ("Instances", made["Instances"])):
        body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        parts.append(f"{json.dumps(key)}: [\n{body}\n]")
    return "{" + ",\n".join(parts) + "}\n"


def print_overlap(all_made: dict[str, dict]) -> None:
    """How often an input recurs, and how often two tasks that share it agree on its answer."""
    by_input: dict[str, list[str]] = defaultdict(list)
    for made in all_made.values():
        for i in made["Instances"]:
            by_input[i["input"]].append(i["output"][0])
    shared = [answers for answers in by_input.values() if len(answers) > 1]
    pairs = sum(len(a) * (len(a) - 1) for a in shared)
    agree = sum(n * (n - 1) for a in shared for n in Counter(a).values())
    total = sum(len(m["Instances"]) for m in all_made.values())
    print(f"{len(all_made)} tasks, {total} instances, {len(by_input)} different inputs; "
          f"{100 * sum(map(len, shared)) / total:.1f} % of the instances have an input that occurs "
          f"in several tasks, on average in {sum(map(len, shared)) / len(shared):.0f}; two tasks "
          f"that share an input agree on its answer in {100 * agree / pairs:.1f} % of the cases")


def write(descriptions: dict[str, list[str]]) -> None:
    folder = HERE / "tasks"
    folder.mkdir(exist_ok=True)
    all_made = {name: build(name) for name in sorted(TASKS)}
    for name, made in all_made.items():
        text = task_json(name, descriptions[name], made)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    for stale in {p.stem for p in folder.glob("*.json")} - set(all_made):
        (folder / f"{stale}.json").unlink()
    splits, constants = draw_splits(), {}
    for name in splits["unseen"]:
        made = all_made[name]
        constants[name] = best_constant(made["Instances"][made["Split"]["train"]:])
        print(f"unseen {name:32} best constant {constants[name][1]:5.1f} %  {constants[name][0]!r}")
    splits = {"seed": SEED, **splits, "best constant answer": constants}
    (HERE / "splits.json").write_text(json.dumps(splits, indent=1, ensure_ascii=False) + "\n")
    print_overlap(all_made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", metavar="KIND", choices=KINDS,
                        help="check one kind, write nothing")
    args = parser.parse_args()
    complaints, descriptions = [], {}
    for kind in [args.check] if args.check else KINDS:
        importlib.import_module(f"kinds.{kind}")
        descriptions |= read_descriptions(kind)
        complaints += check(kind, {n: d for n, d in descriptions.items() if n in TASKS
                                   and TASKS[n].kind == kind or n.startswith(f"{kind}_")})
    for name in [n for n in TASKS if TASKS[n].kind == args.check]:
        made = build(name)
        print(f"{name}  {made['Split']}  {len(descriptions.get(name, []))} descriptions")
        for i in random.Random(name).sample(made["Instances"], min(4, len(made["Instances"]))):
            print(f"    {i['input']!r} → {i['output']}")
    for complaint in complaints:
        print(f"! {complaint}")
    if complaints:
        sys.exit(1)
    if not args.check:
        write(descriptions)


if __name__ == "__main__":
    main()
