"""Oracles, and T2L that was trained to give them, side by side (arXiv 2506.06105, Tables 1 and 5).

    python -m experiments.compare --loras out/lora                     # the oracles alone
    python -m experiments.compare --loras out/lora --ckpt out/recon    # and T2L

For every task of a library: exact match of the base model, its oracle, the average LoRA, and T2L
with training wordings, held-out wordings and another task's; and how far T2L's matrices are from
the oracle's. Reading order: T2L and the library, rows of the table, distances, the table, the
command.
"""
import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from data.tasks import Sample, Suite, Task, test_samples
from encoder import Encoder
from eval import Controls, EncoderOf, Row, exact_match, load_asked, load_checkpoint
from lora import MODULES, LoRA, map_lora
from mistral import Mistral
from t2l import T2L, adapted_modules, generate_lora
from utils.cli import EvalParser, UserError, run
from utils.files import check_unique, write_json
from utils.library import (average_lora, canonical, check_library_model, delta_error, load_library,
                           sizes_of, stack_loras)
from utils.peft import same_model
from utils.stats import mean
from utils.tokenizer import Tokenizer
from utils.weights import checkpoint_folder


# --------------------------------------------------------------------- T2L and the library

class Loaded(NamedTuple):
    """A T2L, the encoder that it reads with, and the config.json of its run."""
    t2l: T2L
    encoder: Encoder
    config: dict


def load_t2ls(folders: list[Path], loras: dict[str, LoRA], base_model: str,
              encoder_of: EncoderOf) -> dict[str, Loaded]:
    """{name in the table: T2L}; UserError where its adapters are not of the library's shapes, or
    for another model."""
    t2ls = {}
    for folder in check_unique(folders):
        loaded = Loaded(*load_checkpoint(folder, encoder_of))
        cfg = loaded.t2l.cfg
        found, wanted = (cfg.n_layers, cfg.rank, cfg.modules), sizes_of(next(iter(loras.values())))
        if found != wanted or not same_model(cfg.base_model, base_model):
            raise UserError(f"{folder} is for {cfg.base_model}, adapters of {found} (layers, rank, "
                            f"modules); the library for {base_model}, {wanted}")
        t2ls[f"T2L {folder.name}"] = loaded
    return t2ls


def common_tasks(loras: dict[str, LoRA], t2ls: dict[str, Loaded], suite: Suite) -> list[Task]:
    """The tasks of the library's adapters that every T2L was trained on: it is asked for no other.
    UserError where there is none, or where the suite lacks one of them."""
    names = [name for name in loras
             if all(name in loaded.config.get("library", loras) for loaded in t2ls.values())]
    known = {name: task for name, task in suite.by_name().items() if task.test}
    if not names or set(names) - known.keys():
        raise UserError(f"the library and --tasks (and what --ckpt was trained on) have "
                        f"{len(known.keys() & set(names))} tasks in common, of {len(names)}")
    return [known[name] for name in names]


# ------------------------------------------------------------------------- rows of the table

def library_rows(loras: dict[str, LoRA], t2ls: dict[str, Loaded], tasks: list[Task]) -> list[Row]:
    """Base, oracles, their average, and each T2L with up to three kinds of descriptions."""
    controls, average = Controls(Suite(tasks, [], [])), average_lora(loras)

    def oracles(samples: list[Sample]) -> LoRA:
        return stack_loras([loras[s.task] for s in samples])

    rows = [Row("base", "lora", controls.own, lambda samples: None),
            Row("oracle", "lora", controls.own, oracles),
            Row("average LoRA", "lora", controls.own, lambda samples: average)]
    for name, loaded in t2ls.items():
        rows += t2l_rows(name, loaded, tasks)
    return rows


def t2l_rows(name: str, loaded: Loaded, tasks: list[Task]) -> list[Row]:
    """One T2L with training wordings, held-out wordings, and another task's."""
    t2l, encoder, config = loaded
    if one_hot := bool(t2l.cfg.tasks):                     # a task's one description is its name
        tasks = [replace(task, descriptions=(task.name,)) for task in tasks]
    controls = Controls(Suite(tasks, [], []))

    def read(samples: list[Sample]) -> LoRA:
        return generate_lora(t2l, [s.description for s in samples], encoder)

    # Which of them there are.
    kinds = {"training wording": controls.training, "held-out wording": controls.held_out,
             "another task's": controls.other_task}
    if one_hot:
        del kinds["held-out wording"]
    if len(tasks) == 1:
        del kinds["another task's"]

    return [Row(f"{name}, {kind}", config.get("describe", "lora"), control, read, name)
            for kind, control in kinds.items()]


# --------------------------------------------------------------------------------- distances

def distances(guess: LoRA, target: LoRA) -> list[float]:
    """Mean |A - A*|, mean |B - B*|, ‖ΔW - ΔW*‖ / ‖ΔW*‖."""
    gaps = [torch.cat([(guess[side][m].float() - wanted.float()).abs().flatten()
                       for m, wanted in target[side].items()]).mean().item() for side in (0, 1)]
    return [*gaps, delta_error(guess, target)]


def column_means(rows: list[list[float]]) -> list[float]:
    return [mean(column) for column in zip(*rows)]


def all_distances(loras: dict[str, LoRA], t2ls: dict[str, Loaded],
                  tasks: list[Task]) -> dict[str, list[float]]:
    """`distances` of each T2L, with four training wordings a task, and of the average LoRA.

    A and B are compared in the form that the T2L was trained to give: many A and B have the same
    product, and only the third number does not depend on which.
    """
    found = {}
    for name, (t2l, encoder, config) in t2ls.items():
        # What it was to give.
        targets = {task: canonical(lora) for task, lora in loras.items()} \
            if config.get("canonical") else loras
        average, generated, usual = average_lora(targets), [], []

        # What it gives.
        for task in tasks:
            lines = [task.name] if t2l.cfg.tasks else list(task.descriptions[:4])
            made = generate_lora(t2l, lines, encoder)
            guesses = [map_lora(made, lambda w, i=i: w[i]) for i in range(len(lines))]
            target = targets[task.name]
            generated.append(column_means([distances(guess, target) for guess in guesses]))
            usual.append(distances(average, target))

        found[name] = column_means(generated)
        found[f"{name}: average LoRA"] = column_means(usual)
    return found


# --------------------------------------------------------------------------------- the table

def report_library(loras: dict[str, LoRA], base_model: str, folders: list[Path], suite: Suite,
                   model: Mistral, tokenizer: Tokenizer, encoder_of: EncoderOf,
                   per_task: int, out: Path) -> str:
    """Run every row on the library's tasks, print a line for each task and the means, write
    results_library.json into the folder `out`; returns the one-line result."""
    # What is asked.
    t2ls = load_t2ls(folders, loras, base_model, encoder_of)
    tasks = common_tasks(loras, t2ls, suite)
    loras = {task.name: loras[task.name] for task in tasks}
    samples = test_samples(tasks, per_task, lambda t: t.descriptions)

    # What is answered.
    scores = {}
    for row in library_rows(loras, t2ls, tasks):
        right = exact_match(row, samples, model, tokenizer)
        scores[row.label] = {task: 100 * mean(r) for task, r in sorted(right.items())}
    apart = all_distances(loras, t2ls, tasks)

    print_library(scores, apart, len(samples))
    write_json(out / "results_library.json", {"scores": scores, "distances": apart})
    return "; ".join(f"{label} {mean(score.values()):.1f} %" for label, score in scores.items())


def print_library(scores: dict[str, dict[str, float]], apart: dict[str, list[float]],
                  answers: int) -> None:
    """A line for each task, a numbered column for each row; then the distances."""
    # Scores.
    tasks = next(iter(scores.values()))
    print(f"\nexact match in % on {len(tasks)} tasks, {answers} answers")
    for i, label in enumerate(scores):
        print(f"  ({i}) {label}")
    print(f"{'':30}" + "".join(f"{f'({i})':>7}" for i in range(len(scores))))
    for task in tasks:
        print(f"{task:30}" + "".join(f"{score[task]:7.1f}" for score in scores.values()))
    print(f"{'mean':30}" + "".join(f"{mean(s.values()):7.1f}" for s in scores.values()))

    # Distances.
    if apart:
        print(f"\n{'from the oracles':44}  |A - A*|   |B - B*|   ‖ΔW - ΔW*‖ / ‖ΔW*‖")
    for name, (a, b, delta) in apart.items():
        print(f"{name:44}{a:11.2e}{b:11.2e}{delta:12.3f}")


# ------------------------------------------------------------------------------- the command

def load_all(args: argparse.Namespace
             ) -> tuple[dict[str, LoRA], str, Suite, Mistral, Tokenizer, EncoderOf]:
    """--loras with the name of the model that they are for, then what load_asked gives; UserError
    where the library is for another model."""
    loras, base_model = load_library(args.loras)
    suite, model, tokenizer, encoder_of = load_asked(args)
    check_library_model(loras, base_model, model.cfg.name, model.cfg.num_hidden_layers,
                        adapted_modules(model.cfg, MODULES))
    return loras, base_model, suite, model, tokenizer, encoder_of


def compare_args() -> argparse.Namespace:
    parser = EvalParser("The table of a library of oracles, and of T2L on its tasks.",
                        "folders of train.py --mode recon or sft, or the authors'", "none",
                        "test inputs per task of the library")
    parser.prog = "python -m experiments.compare"
    parser.add_argument("--loras", metavar="DIR", required=True,
                        help="the library: a folder of PEFT folders named as tasks%(default).0s")
    parser.tasks()
    return parser.parse_args()


def main() -> None:
    args = compare_args()
    loras, base_model, suite, model, tokenizer, encoder_of = load_all(args)
    print(report_library(loras, base_model, [checkpoint_folder(d) for d in args.ckpt or []], suite,
                         model, tokenizer, encoder_of, args.eval_samples, args.out))


if __name__ == "__main__":
    run(main)
