"""Does it do the task, and does it read the description? (arXiv 2506.06105, sections 4 and 5)

    python eval.py                                # the committed checkpoints, unseen and seen tasks
    python eval.py --ckpt out/sft out/mtlora --eval-samples 40
    python eval.py --loras out/lora --ckpt out/recon   # a library of oracles, and T2L trained on it

Exact match on unseen tasks, and on seen tasks' held-out inputs with held-out wordings, for the base
model, multi-task LoRA, T2L with its own description, and T2L under four controls: with another
task's description (any task's, or one that shares the input), with random words, and with the mean
embedding as a constant. Only the controls tell whether a good score comes from the description.
Reading order: exercises, rows of the table, running a row, the table, the command line.
"""
import random
import statistics
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
from data.files import Parser, UserError, distinct, read_json, run, write_json
from data.suite import drop_too_long, load_suite
from data.tasks import Sample, Suite, Task, message
from encoder import Encoder, load_encoder
from lora import LoRA

CHECKPOINTS = Path(__file__).parent / "checkpoints"
BATCH = 64
EncoderOf = Callable[[t2l_ops.Config], Encoder]     # the encoder that goes with a T2L
SEEN = 200                     # seen tasks in the table, at most: a draw of them is enough


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
        self.unread = {t.name: t.held_out for t in tasks}
        self.users = defaultdict(set)                          # input → the tasks that use it
        for task in tasks:
            for text, _ in task.train + task.test:
                self.users[text].add(task.name)
        self.mates = defaultdict(set)                          # task → those that share any input
        for task in tasks:
            self.mates[task.name].update(*(self.users[text] for text, _ in task.test))
        self.words = sorted({w for t in suite.train for d in t.descriptions for w in d.split()})

    def own(self, sample: Sample, rng: random.Random) -> str:
        return sample.description

    def another(self, sample: Sample, rng: random.Random) -> str:
        return self.line_of_one(set(self.lines), sample, rng)

    def neighbour(self, sample: Sample, rng: random.Random) -> str:
        """A task that has another answer to this input; if none has this one, to such inputs."""
        users = self.users[sample.input] if len(self.users[sample.input]) > 1 else \
            self.mates[sample.task]
        return self.line_of_one(users, sample, rng)

    def trained(self, sample: Sample, rng: random.Random) -> str:
        return rng.choice(self.lines[sample.task])

    def held_out(self, sample: Sample, rng: random.Random) -> str:
        return rng.choice(self.unread[sample.task])

    def line_of_one(self, names: set[str], sample: Sample, rng: random.Random) -> str:
        others = sorted(names - {sample.task}) or sorted(self.lines.keys() - {sample.task})
        return rng.choice(self.lines[rng.choice(others)])

    def words_at_random(self, sample: Sample, rng: random.Random) -> str:
        return " ".join(rng.choices(self.words, k=12))


# ------------------------------------------------------------------------ rows of the table

@dataclass(frozen=True)
class Row:
    """One line of the table: `swap` gives the description, `adapters` what the model runs with."""
    label: str
    describe: str                                   # where the description goes, as in train.py
    swap: Callable[[Sample, random.Random], str]
    adapters: Callable[[list[Sample]], LoRA | None]
    t2l: str = ""                                   # whose row it is; a T2L's first row is its own


def base_rows(swaps: Swaps) -> list[Row]:
    return [Row("base model", "lora", swaps.own, lambda samples: None),
            Row("base model, description in its prompt", "prompt", swaps.own, lambda samples: None)]


def opened(folder: Path, encoder_of: EncoderOf) -> tuple[t2l_ops.T2L, Encoder, dict]:
    """A T2L, its encoder and config.json; the authors' were trained with `--describe both`."""
    official = (folder / "hypermod.pt").exists()
    t2l = t2l_ops.load_t2l(folder)
    config = {"describe": "both"} if official else read_json(folder / "config.json")
    return t2l, encoder_of(t2l.cfg), config


def t2l_rows(folder: Path, suite: Suite, swaps: Swaps, encoder_of: EncoderOf,
             model: mistral.Mistral) -> list[Row]:
    """T2L with its own description, and under every control."""
    t2l, encoder, config = opened(folder, encoder_of)
    t2l_ops.check_model(t2l, model.cfg)
    lines = [d for task in suite.train for d in task.descriptions[:4]]   # enough for a steady mean
    average = t2l_ops.normalised(t2l_ops.embed(encoder, lines).mean(0, keepdim=True))

    def read(samples: list[Sample]) -> LoRA:
        return t2l_ops.generate_lora(t2l, [s.description for s in samples], encoder)

    @torch.no_grad()
    def constant(samples: list[Sample]) -> LoRA:
        return t2l.adapters(average.expand(len(samples), -1))

    describe = config.get("describe", "lora")
    name = f"T2L {folder.name}" + (" + prompt" if describe == "both" else "")
    others = [Row(f"{name}, another task's", describe, swaps.another, read, name),
              Row(f"{name}, another's on this input", describe, swaps.neighbour, read, name)]
    return [Row(f"{name}, own description", describe, swaps.own, read, name),
            *(others if len(swaps.lines) > 1 else []),
            Row(f"{name}, random words", describe, swaps.words_at_random, read, name),
            Row(f"{name}, mean embedding", describe, swaps.own, constant, name)]


def mtlora_row(folder: Path, config: dict, swaps: Swaps) -> Row:
    lora = lora_ops.load_peft(folder)
    label = "multi-task LoRA" + (", description in its prompt" if config["describe"] == "prompt"
                                 else "")
    return Row(label, config["describe"], swaps.own, lambda samples: lora)


def all_rows(folders: list[Path], suite: Suite, encoder_of: EncoderOf,
             model: mistral.Mistral) -> list[Row]:
    swaps = Swaps(suite)
    rows, last = base_rows(swaps), []
    for folder in distinct(folders):
        if (folder / "adapter_model.safetensors").exists():
            rows.append(mtlora_row(folder, read_json(folder / "config.json"), swaps))
        else:
            last += t2l_rows(folder, suite, swaps, encoder_of, model)
    return rows + last


# ---------------------------------------------------------------------------- running a row

def right_answers(row: Row, samples: list[Sample], model: mistral.Mistral,
                  tokenizer: mistral.Tokenizer) -> dict[str, list[bool]]:
    """Task → for each of its samples, whether the greedy answer is one of the accepted ones.

    Only what T2L reads is swapped: a description in the prompt is always the sample's own.
    """
    rng, right = random.Random(row.label), defaultdict(list)
    samples = sorted(samples, key=lambda s: len(message(s, row.describe)))
    for start in tqdm(range(0, len(samples), BATCH), desc=row.label, leave=False):
        batch = samples[start:start + BATCH]
        lora = row.adapters([replace(s, description=row.swap(s, rng)) for s in batch])
        # What runs on beyond the longest accepted answer is wrong anyway: no need to see its end.
        longest = max(len(tokenizer.answer(a)) for s in batch for a in s.answers)
        answers = mistral.generate(model, tokenizer, [message(s, row.describe) for s in batch],
                                   lora, max_new_tokens=longest + 3)
        for sample, answer in zip(batch, answers):
            right[sample.task].append(answer.strip() in {a.strip() for a in sample.answers})
    return right


def mean(values) -> float:
    return statistics.fmean(values)


def interval(per_task: list[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over tasks (tasks are what varies, not inputs)."""
    rng = random.Random(0)
    means = sorted(mean(rng.choices(per_task, k=len(per_task))) for _ in range(draws))
    return means[round(0.025 * draws)], means[round(0.975 * draws) - 1]


# -------------------------------------------------------------------------------- the table

def verdict(rows: list[Row], scores: dict[str, dict[str, float]]) -> str:
    """For each T2L: is its own description better than the best control, beyond chance?"""
    said = []
    for name in dict.fromkeys(row.t2l for row in rows if row.t2l):
        own, *controls = (row.label for row in rows if row.t2l == name)
        best = max(controls, key=lambda label: mean(scores[label].values()))
        low, high = interval([scores[own][t] - scores[best][t] for t in scores[own]])
        said.append(("it reads its description: " if low > 0 else
                     "!!! NOT SHOWN that it reads its description !!! ")
                    + f"{own} {mean(scores[own].values()):.1f} %, best control ({best}) "
                    f"{mean(scores[best].values()):.1f} %, difference [{low:.1f}, {high:.1f}]")
    return "; ".join(said)


def report(folders: list[Path], suite: Suite, model: mistral.Mistral, tokenizer: mistral.Tokenizer,
           encoder_of: EncoderOf, per_task: int, split: str = "unseen",
           keep: bool = True) -> str:
    """Run every row on `split` and on the seen tasks, print the tables, write results.json into
    the first folder if they are to `keep`; returns the one-line result."""
    rows = all_rows(folders, suite, encoder_of, model)
    print(f"{model.cfg.name}; {', '.join(map(str, folders))}", file=sys.stderr)
    columns = {split: exercises(getattr(suite, split), per_task,
                                lambda t: t.descriptions + t.held_out),
               "seen": exercises(random.Random(0).sample(suite.train, min(SEEN, len(suite.train))),
                                 max(1, per_task // 20), lambda t: t.held_out)}
    columns = {name: samples for name, samples in columns.items() if samples}
    if not columns:
        raise UserError("no task has test instances")
    sizes = [f"{name}: {len({s.task for s in samples})} tasks, {len(samples)} answers"
             for name, samples in columns.items()]
    print("\nexact match in %, [95 % interval over tasks]; " + "; ".join(sizes))
    print(f"{'':44}" + "".join(f"{name:>22}" for name in columns))
    results: dict[str, dict] = {name: {} for name in columns}
    for row in rows:
        line = f"{row.label:44}"
        for name, samples in columns.items():
            right = right_answers(row, samples, model, tokenizer)
            scores = {task: 100 * mean(r) for task, r in sorted(right.items())}
            results[name][row.label] = scores
            low, high = interval(list(scores.values()))
            line += f"{mean(scores.values()):8.1f} [{low:4.1f}, {high:4.1f}]"
        print(line, flush=True)
    if keep:
        write_json(folders[0] / ("results.json" if split == "unseen" else f"results_{split}.json"),
                   results)
    first, scores = next(iter(results.items()))
    if not any(row.t2l for row in rows):
        return f"{first} tasks: {rows[-1].label} {mean(scores[rows[-1].label].values()):.1f} %"
    print_tasks(scores, next(row.label for row in rows if row.t2l))
    return f"{first} tasks: {verdict(rows, scores)}"


def print_tasks(scores: dict[str, dict[str, float]], label: str) -> None:
    """The label's score on every task, three in a line."""
    print(f"\n{label}, by task")
    cells = [f"{task:30}{score:4.0f}" for task, score in scores[label].items()]
    for start in range(0, len(cells), 3):
        print("   ".join(cells[start:start + 3]))
    print()


# ----------------------------------------------------------------------------- command line

def main() -> None:
    parser = Parser("The zero-shot table, with controls.")
    add = parser.add_argument
    add("--ckpt", metavar="DIR", nargs="+", default=None,
        help="T2L folders, ours or the authors'; without --loras and --benchmarks also mtlora's "
        "(default: the committed ones; their results are not written)%(default).0s")
    parser.folder("--loras", "the table of a library of oracles, and of T2L on its tasks", "none")
    parser.folder("--benchmarks", "the table of the paper's benchmarks in this folder", "none")
    add("--run-code", action="store_true", help="with --benchmarks: run what the model wrote")
    add("--likelihood", action="store_true",
        help="with --benchmarks: the likeliest letter (or yes, no) is the answer, not what is "
        "generated")
    add("--prompts", metavar="FILE", default=None,
        help="with --benchmarks: a JSON file with other prompts (default: ours)%(default).0s")
    parser.models(encoder="each checkpoint's own")
    parser.folder("--tasks", "task files", "the built-in suite")
    add("--split", choices=["unseen", "validation"], default="unseen", help="the tasks to test on")
    add("--eval-samples", type=int, default=20, metavar="N",
        help="test inputs per task of the split (seen tasks: a twentieth), or per benchmark")
    args = parser.parse_args()
    keep = args.ckpt is not None                     # the committed results stay as they are
    if args.ckpt is None:
        args.ckpt = [] if args.loras else sorted(CHECKPOINTS.glob("*/"))
    if args.eval_samples < 1 or not (args.ckpt or args.loras):
        raise UserError("--eval-samples must be at least 1, and --ckpt name a folder of train.py")
    model = mistral.load_model(args.model, getattr(torch, args.dtype), args.device)
    tokenizer = mistral.load_tokenizer(args.model)
    folders = [Path(d) for d in args.ckpt]
    given = load_encoder(args.encoder, args.model) if args.encoder else None

    def encoder_of(cfg: t2l_ops.Config) -> Encoder:
        return given if given and not cfg.tasks else t2l_ops.encoder_of(cfg, args.model)
    if args.benchmarks:
        from benchmarks import report_benchmarks
        print(report_benchmarks(Path(args.benchmarks), folders, model, tokenizer, encoder_of, args))
        return
    suite = drop_too_long(load_suite(args.tasks), tokenizer, model.cfg.max_position_embeddings,
                          "prompt")
    if args.loras:
        from compare import report_library
        from library import fits_model, load_library
        loras, base_model = load_library(args.loras)
        fits_model(loras, base_model, model.cfg)
        print(report_library(loras, base_model, folders, suite, model, tokenizer, encoder_of,
                             args.eval_samples))
        return
    print(report(folders, suite, model, tokenizer, encoder_of, args.eval_samples, args.split, keep))


if __name__ == "__main__":
    run(main)
