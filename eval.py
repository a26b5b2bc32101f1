"""Does it do the task, and does it read the description? (arXiv 2506.06105, sections 4 and 5)

    python eval.py                                # the committed checkpoints, unseen and seen tasks
    python eval.py --ckpt out/sft out/mtlora --eval-samples 40

Exact match on unseen tasks, and on seen tasks' held-out inputs with held-out wordings, for the base
model, multi-task LoRA, T2L with its own description, and T2L under four controls: with another
task's description (any task's, or one that shares the input), with random words, and with the mean
embedding as a constant. Only the controls tell whether a good score comes from the description.
Reading order: exercises, rows of the table, running a row, the table, the command line.
"""
import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

import lora as lora_ops
import mistral
import t2l as t2l_ops
from data.files import UserError, read_json, run, write_json
from data.tasks import Sample, Suite, Task, load_suite, message
from encoder import Encoder, load_encoder
from lora import LoRA

CHECKPOINTS = Path(__file__).parent / "checkpoints"
BATCH = 64


# -------------------------------------------------------------------------------- exercises

def exercises(tasks: list[Task], per_task: int, wordings: Callable[[Task], tuple]) -> list[Sample]:
    """`per_task` test inputs of every task, each with one of its `wordings`; drawn by name."""
    samples = []
    for task in tasks:
        rng, lines = random.Random(task.name), list(wordings(task))
        rng.shuffle(lines)
        for i, (text, answers) in enumerate(rng.sample(task.test, min(per_task, len(task.test)))):
            samples.append(Sample(task.name, lines[i % len(lines)], text, answers))
    return samples


class Swaps:
    """The controls: what stands in the place of a sample's own description."""

    def __init__(self, suite: Suite):
        tasks = suite.train + suite.validation + suite.unseen
        self.lines = {t.name: t.descriptions for t in tasks}
        self.sharing = defaultdict(set)                        # input → the tasks that use it
        for task in tasks:
            for text, _ in task.train + task.test:
                self.sharing[text].add(task.name)
        self.words = sorted({w for t in suite.train for d in t.descriptions for w in d.split()})

    def line_of(self, names: set[str], sample: Sample, rng: random.Random) -> str:
        others = sorted(names - {sample.task}) or sorted(self.lines.keys() - {sample.task})
        return rng.choice(self.lines[rng.choice(others)])

    def own(self, sample: Sample, rng: random.Random) -> str:
        return sample.description

    def another(self, sample: Sample, rng: random.Random) -> str:
        return self.line_of(set(self.lines), sample, rng)

    def neighbour(self, sample: Sample, rng: random.Random) -> str:
        return self.line_of(self.sharing[sample.input], sample, rng)

    def words_at_random(self, sample: Sample, rng: random.Random) -> str:
        return " ".join(rng.choices(self.words, k=12))


# ------------------------------------------------------------------------ rows of the table

@dataclass(frozen=True)
class Row:
    """One line of the table: `swap` gives the description, `adapters` what the model runs with."""
    label: str
    describe: str
    swap: Callable[[Sample, random.Random], str]
    adapters: Callable[[list[Sample]], LoRA | None]
    role: str = ""                                  # "own" or "control", for the verdict


def base_rows(swaps: Swaps) -> list[Row]:
    return [Row("base model", "lora", swaps.own, lambda samples: None),
            Row("base model, description in the prompt", "prompt", swaps.own, lambda samples: None)]


def t2l_rows(folder: Path, describe: str, suite: Suite, swaps: Swaps, encoder: Encoder,
             shapes) -> list[Row]:
    """T2L with its own description, and under every control."""
    t2l = t2l_ops.load_t2l(folder)
    for m, (d_in, d_out) in t2l_ops.for_model(shapes, "L", encoder).modules.items():
        if t2l.cfg.modules.get(m) != (d_in, d_out) or t2l.cfg.n_layers != shapes.num_hidden_layers:
            raise UserError(f"{folder} was trained for {t2l.cfg.base_model}, whose shapes are not "
                            f"those of {shapes.name}")
    lines = [d for task in suite.train for d in task.descriptions]
    mean = t2l_ops.normalised(t2l_ops.embed(encoder, lines[::4]).mean(0, keepdim=True))

    @torch.no_grad()
    def emit(embeddings: torch.Tensor) -> LoRA:
        A, B = t2l(embeddings)
        return A, {m: w * t2l.scale for m, w in B.items()}

    def read(samples: list[Sample]) -> LoRA:
        return emit(t2l_ops.embed(encoder, [s.description for s in samples]))

    def constant(samples: list[Sample]) -> LoRA:
        return emit(mean.expand(len(samples), -1))

    return [Row("T2L, its own description", describe, swaps.own, read, "own"),
            Row("T2L, another task's description", describe, swaps.another, read, "control"),
            Row("T2L, another's that shares the input", describe, swaps.neighbour, read, "control"),
            Row("T2L, random words", describe, swaps.words_at_random, read, "control"),
            Row("T2L, the mean embedding", describe, swaps.own, constant, "control")]


def mtlora_row(folder: Path, describe: str, swaps: Swaps) -> Row:
    lora = lora_ops.load_peft(folder)
    label = "multi-task LoRA" + (", description in its prompt" if describe == "prompt" else "")
    return Row(label, describe, swaps.own, lambda samples: lora)


# ---------------------------------------------------------------------------- running a row

def right_answers(row: Row, samples: list[Sample], model: mistral.Mistral,
                  tokenizer: mistral.Tokenizer) -> dict[str, list[bool]]:
    """Task → for each of its samples, whether the greedy answer is one of the accepted ones."""
    rng = random.Random(row.label)
    asked = [replace(s, description=row.swap(s, rng)) for s in samples]
    asked.sort(key=lambda s: len(message(s, row.describe)))
    right = defaultdict(list)
    for start in tqdm(range(0, len(asked), BATCH), desc=row.label, leave=False):
        batch = asked[start:start + BATCH]
        # What runs on beyond the longest accepted answer is wrong anyway: no need to see its end.
        longest = max(len(tokenizer.answer(a)) for s in batch for a in s.answers)
        answers = mistral.generate(model, tokenizer, [message(s, row.describe) for s in batch],
                                   row.adapters(batch), max_new_tokens=longest + 3)
        for sample, answer in zip(batch, answers):
            right[sample.task].append(answer.strip() in {a.strip() for a in sample.answers})
    return right


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def interval(per_task: list[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over tasks (tasks are what varies, not inputs)."""
    rng = random.Random(0)
    means = sorted(mean(rng.choices(per_task, k=len(per_task))) for _ in range(draws))
    return means[round(0.025 * draws)], means[round(0.975 * draws) - 1]


# -------------------------------------------------------------------------------- the table

def verdict(rows: list[Row], scores: dict[str, dict[str, float]]) -> str:
    """One sentence: is the own description better than the best control, beyond chance?"""
    own = next(scores[r.label] for r in rows if r.role == "own")
    controls = {r.label: mean(scores[r.label].values()) for r in rows if r.role == "control"}
    best = max(controls, key=controls.get)
    low, high = interval([own[t] - scores[best][t] for t in own])
    text = (f"own description {mean(own.values()):.1f} %, best control ({best}) "
            f"{controls[best]:.1f} %, difference [{low:.1f}, {high:.1f}]")
    return ("it reads its description: " if low > 0 else
            "!!! NOT SHOWN that it reads its description !!! ") + text


def report(folders: list[Path], suite: Suite, model: mistral.Mistral, tokenizer: mistral.Tokenizer,
           encoder: Encoder, per_task: int, split: str = "unseen") -> str:
    """Run every row on `split` and on the seen tasks, print the tables, write results.json into
    the first folder; returns the one-line result."""
    swaps = Swaps(suite)
    rows = base_rows(swaps)
    for folder in folders:
        config = read_json(folder / "config.json")
        if config.get("mode") == "mtlora":
            rows.append(mtlora_row(folder, config["describe"], swaps))
        else:
            rows += t2l_rows(folder, config.get("describe", "lora"), suite, swaps, encoder,
                             model.cfg)
    kept = getattr(suite, split)
    columns = {"seen": exercises(suite.train, max(1, per_task // 20), lambda t: t.held_out)}
    if kept:
        columns = {split: exercises(kept, per_task,
                                    lambda t: t.descriptions + t.held_out)} | columns
    sizes = [f"{name}: {len({s.task for s in c})} tasks, {len(c)} answers"
             for name, c in columns.items()]
    print("\nexact match in %, [95 % interval over tasks]; " + "; ".join(sizes))
    print(f"{'':40}" + "".join(f"{name:>22}" for name in columns))
    results: dict[str, dict] = {name: {} for name in columns}
    for row in rows:
        line = f"{row.label:40}"
        for name, samples in columns.items():
            right = right_answers(row, samples, model, tokenizer)
            scores = {task: 100 * mean(r) for task, r in sorted(right.items())}
            results[name][row.label] = scores
            low, high = interval(list(scores.values()))
            line += f"{mean(scores.values()):8.1f} [{low:4.1f}, {high:4.1f}]"
        print(line, flush=True)
    write_json(folders[0] / ("results.json" if split == "unseen" else f"results_{split}.json"),
               results)
    first, scores = next(iter(results.items()))
    if not any(row.role == "own" for row in rows):
        last = rows[-1].label
        return f"{last}: {mean(scores[last].values()):.1f} % on {first} tasks"
    print_tasks(scores, [row.label for row in rows if row.role == "own"][0])
    return f"{first} tasks: {verdict(rows, scores)}"


def print_tasks(scores: dict[str, dict[str, float]], label: str) -> None:
    """The label's score on every task, three in a line."""
    print(f"\n{label}, by task")
    cells = [f"{task:32}{score:5.0f}" for task, score in scores[label].items()]
    for start in range(0, len(cells), 3):
        print("   ".join(cells[start:start + 3]))
    print()


# ----------------------------------------------------------------------------- command line

def main() -> None:
    parser = argparse.ArgumentParser(description="The zero-shot table, with controls.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--ckpt", metavar="DIR", nargs="+",
        help="run folders, T2L or multi-task LoRA (default: those under checkpoints/)")
    add("--model", metavar="DIR", help="Hugging Face folder (default: SmolLM2-135M-Instruct)")
    add("--encoder", metavar="DIR", help="Hugging Face BERT folder (default: all-MiniLM-L6-v2)")
    add("--tasks", metavar="DIR", help="task files (default: data/tasks)")
    add("--split", choices=["unseen", "validation"], default="unseen", help="the tasks to test on")
    add("--eval-samples", type=int, default=40, metavar="N", help="test inputs per task")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    args = parser.parse_args()
    if args.eval_samples < 1:
        raise UserError("--eval-samples must be at least 1")
    folders = [Path(d) for d in args.ckpt or sorted(CHECKPOINTS.glob("*/"))]
    folders.sort(key=lambda d: read_json(d / "config.json").get("mode") == "mtlora")
    model = mistral.load_model(args.model, getattr(torch, args.dtype), args.device)
    print(f"{model.cfg.name}; {', '.join(map(str, folders))}", file=sys.stderr)
    print(report(folders, load_suite(args.tasks), model, mistral.load_tokenizer(args.model),
                 load_encoder(args.encoder), args.eval_samples, args.split))


if __name__ == "__main__":
    run(main)
