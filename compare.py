"""Oracles, and T2L that was trained to give them, side by side (arXiv 2506.06105, Tables 1 and 5).

    python eval.py --loras out/lora --ckpt out/recon        # comes here

For every task of a library: exact match of the base model, its oracle, the average LoRA, and T2L
with training wordings, held-out wordings and another task's; and how far T2L's matrices are from
the oracle's.
"""
from dataclasses import replace
from pathlib import Path

import torch

import mistral
import t2l as t2l_ops
from data.files import UserError, distinct, write_json
from data.tasks import Sample, Suite, Task
from encoder import Encoder
from eval import EncoderOf, Row, Swaps, exercises, mean, opened, right_answers
from library import average_of, canonical, delta_error, sizes_of, stacked
from lora import LoRA, mapped

T2Ls = dict[str, tuple[t2l_ops.T2L, Encoder, dict]]         # name → T2L, its encoder, its config


def library_rows(loras: dict[str, LoRA], t2ls: T2Ls, tasks: list[Task]) -> list[Row]:
    """Base, oracles, their average, and each T2L with three kinds of descriptions."""
    swaps, average = Swaps(Suite(tasks, [], [])), average_of(loras)
    rows = [Row("base", "lora", swaps.own, lambda samples: None),
            Row("oracle", "lora", swaps.own,
                lambda samples: stacked([loras[s.task] for s in samples])),
            Row("average LoRA", "lora", swaps.own, lambda samples: average)]
    for name, (t2l, encoder, config) in t2ls.items():
        named = [replace(task, descriptions=(task.name,)) for task in tasks]
        known = Swaps(Suite(named, [], [])) if t2l.cfg.tasks else swaps

        def read(samples: list[Sample], t2l=t2l, encoder=encoder) -> LoRA:
            return t2l_ops.generate_lora(t2l, [s.description for s in samples], encoder)
        kinds = {"training wording": known.trained, "held-out wording": known.held_out,
                 "another task's": known.another}
        if t2l.cfg.tasks:                             # one-hot: a task's one wording is its name
            kinds.pop("held-out wording")
        if len(loras) == 1:
            kinds.pop("another task's")
        rows += [Row(f"{name}, {kind}", config.get("describe", "lora"), swap, read, name)
                 for kind, swap in kinds.items()]
    return rows


def distances(guesses: list[LoRA], target: LoRA) -> list[float]:
    """Mean |A - A*|, mean |B - B*|, ‖ΔW - ΔW*‖ / ‖ΔW*‖; averaged over the guesses."""
    found = []
    for lora in guesses:
        gaps = [torch.cat([(lora[side][m].float() - target[side][m].float()).abs().flatten()
                           for m in target[side]]).mean().item() for side in (0, 1)]
        found.append([*gaps, delta_error(lora, target)])
    return [mean(column) for column in zip(*found)]


def all_distances(loras: dict[str, LoRA], t2ls: T2Ls, tasks: list[Task]) -> dict[str, list[float]]:
    """Of each T2L, with four training wordings a task, and of the average LoRA in the same form:
    see `distances`. A and B are compared in the form that the T2L was trained to give."""
    found = {}
    for name, (t2l, encoder, config) in t2ls.items():
        targets = {task: canonical(lora) for task, lora in loras.items()} \
            if config.get("canonical") else loras
        average, own, usual = average_of(targets), [], []
        for task in tasks:
            lines = [task.name] if t2l.cfg.tasks else list(task.descriptions[:4])
            made = t2l_ops.generate_lora(t2l, lines, encoder)
            guesses = [mapped(made, lambda w, i=i: w[i]) for i in range(len(lines))]
            own.append(distances(guesses, targets[task.name]))
            usual.append(distances([average], targets[task.name]))
        for label, rows in ((name, own), (f"{name}: average LoRA", usual)):
            found[label] = [mean(column) for column in zip(*rows)]
    return found


def load_t2ls(folders: list[Path], loras: dict[str, LoRA], base_model: str,
              encoder_of: EncoderOf) -> T2Ls:
    """UserError where a T2L's adapters are not of the library's shapes, or for another model."""
    t2ls: T2Ls = {}
    for folder in distinct(folders):
        t2l, encoder, config = opened(folder, encoder_of)
        cfg = t2l.cfg
        found, wanted = (cfg.n_layers, cfg.rank, cfg.modules), sizes_of(next(iter(loras.values())))
        if found != wanted or not mistral.same_model(cfg.base_model, base_model):
            raise UserError(f"{folder} is for {cfg.base_model}, adapters of {found} (layers, rank, "
                            f"modules); the library for {base_model}, {wanted}")
        t2ls[f"T2L {folder.name}"] = t2l, encoder, config
    return t2ls


def report_library(loras: dict[str, LoRA], base_model: str, folders: list[Path], suite: Suite,
                   model: mistral.Mistral, tokenizer: mistral.Tokenizer,
                   encoder_of: EncoderOf, per_task: int) -> str:
    """Run every row on the library's tasks, print a line for each task and the means, write
    results_library.json into the first folder; returns the one-line result."""
    t2ls = load_t2ls(folders, loras, base_model, encoder_of)
    for _, _, config in t2ls.values():                     # a T2L is asked for what it was shown
        loras = {name: lora for name, lora in loras.items()
                 if name in config.get("library", loras)}
    known = {name: task for name, task in suite.by_name().items() if task.test}
    if not loras or loras.keys() - known.keys():
        raise UserError(f"the library and --tasks (and what --ckpt was trained on) have "
                        f"{len(loras.keys() & known.keys())} tasks in common, of {len(loras)}")
    tasks = [known[name] for name in loras]
    samples = exercises(tasks, per_task, lambda t: t.descriptions)
    scores = {}
    for row in library_rows(loras, t2ls, tasks):
        right = right_answers(row, samples, model, tokenizer)
        scores[row.label] = {task: 100 * mean(r) for task, r in sorted(right.items())}
    apart = all_distances(loras, t2ls, tasks)
    print_library(scores, apart, len(samples))
    if folders:
        write_json(folders[0] / "results_library.json", {"scores": scores, "distances": apart})
    return "; ".join(f"{label} {mean(score.values()):.1f} %" for label, score in scores.items())


def print_library(scores: dict[str, dict[str, float]], apart: dict[str, list[float]],
                  answers: int) -> None:
    tasks = next(iter(scores.values()))
    print(f"\nexact match in % on {len(tasks)} tasks, {answers} answers")
    for i, label in enumerate(scores):
        print(f"  ({i}) {label}")
    print(f"{'':30}" + "".join(f"{f'({i})':>7}" for i in range(len(scores))))
    for task in tasks:
        print(f"{task:30}" + "".join(f"{score[task]:7.1f}" for score in scores.values()))
    print(f"{'mean':30}" + "".join(f"{mean(s.values()):7.1f}" for s in scores.values()))
    if apart:
        print(f"\n{'from the oracles':44}  |A - A*|   |B - B*|   ‖ΔW - ΔW*‖ / ‖ΔW*‖")
    for name, (a, b, delta) in apart.items():
        print(f"{name:44}{a:11.2e}{b:11.2e}{delta:12.3f}")
