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
from data.files import UserError, read_json, write_json
from data.tasks import Sample, Suite, Task
from eval import Row, Swaps, exercises, mean, right_answers
from library import average_of, canonical, delta_error, stacked
from lora import LoRA


def library_rows(loras: dict[str, LoRA], t2ls: dict[str, t2l_ops.T2L],
                 tasks: list[Task]) -> list[Row]:
    """Base, oracles, their average, and each T2L with three kinds of descriptions."""
    swaps, average = Swaps(Suite(tasks, [], [])), average_of(loras)
    rows = [Row("base", "lora", swaps.own, lambda samples: None),
            Row("oracle", "lora", swaps.own,
                lambda samples: stacked([loras[s.task] for s in samples])),
            Row("average LoRA", "lora", swaps.own, lambda samples: average)]
    for name, t2l in t2ls.items():
        if t2l.cfg.tasks:                             # one-hot: a task's one wording is its name
            named = [replace(task, descriptions=(task.name,)) for task in tasks]
            swaps = Swaps(Suite(named, [], []))
        def read(samples: list[Sample], t2l=t2l) -> LoRA:
            return t2l_ops.generate_lora(t2l, [s.description for s in samples])
        kinds = {"training wording": swaps.trained, "held-out wording": swaps.held_out,
                 "another task's": swaps.another}
        if t2l.cfg.tasks:
            kinds.pop("held-out wording")
        if len(loras) == 1:
            kinds.pop("another task's")
        rows += [Row(f"{name}, {kind}", "lora", swap, read, name) for kind, swap in kinds.items()]
    return rows


def distances(guesses: list[LoRA], target: LoRA) -> list[float]:
    """Mean |A - A*|, mean |B - B*|, ‖ΔW - ΔW*‖ / ‖ΔW*‖; each averaged over the guesses."""
    found = []
    for lora in guesses:
        gaps = [torch.cat([(lora[side][m].float() - target[side][m].float()).abs().flatten()
                           for m in target[side]]).mean().item() for side in (0, 1)]
        found.append([*gaps, delta_error(lora, target)])
    return [mean(column) for column in zip(*found)]


def all_distances(loras: dict[str, LoRA], t2ls: dict[str, t2l_ops.T2L], configs: dict[str, dict],
                  tasks: list[Task]) -> dict[str, list[float]]:
    """Of each T2L, with four training wordings a task, and of the average LoRA: see distances.
    A and B are compared in the form that the T2L was trained to give."""
    found = {}
    for name, t2l in {"average LoRA": None, **t2ls}.items():
        form = canonical if configs.get(name, {}).get("canonical") else lambda lora: lora
        targets = {task: form(lora) for task, lora in loras.items()}
        average, rows = average_of(targets), []
        for task in tasks:
            guesses = [average]
            if t2l:
                lines = [task.name] if t2l.cfg.tasks else task.descriptions[:4]
                A, B = t2l_ops.generate_lora(t2l, list(lines))
                guesses = [tuple({m: w[i] for m, w in side.items()} for side in (A, B))
                           for i in range(len(lines))]
            rows.append(distances(guesses, targets[task.name]))
        found[name] = [mean(column) for column in zip(*rows)]
    return found


def report_library(loras: dict[str, LoRA], folders: list[Path], suite: Suite,
                   model: mistral.Mistral, tokenizer: mistral.Tokenizer, per_task: int) -> str:
    """Run every row on the library's tasks, print a line for each task and the means, write
    results_library.json into the first folder; returns the one-line result."""
    configs = {f"T2L {folder.name}": read_json(folder / "config.json") for folder in folders}
    t2ls = {name: t2l_ops.load_t2l(folder) for name, folder in zip(configs, folders)}
    for config in configs.values():                        # a T2L is asked for what it was shown
        loras = {name: lora for name, lora in loras.items()
                 if name in config.get("library", loras)}
    known = {task.name: task for part in vars(suite).values() for task in part}
    if not loras or loras.keys() - known.keys():
        raise UserError(f"the library and --tasks (and what --ckpt was trained on) have "
                        f"{len(loras.keys() & known.keys())} tasks in common, of {len(loras)}")
    tasks = [known[name] for name in loras]
    samples = exercises(tasks, per_task, lambda t: t.descriptions)
    rows = library_rows(loras, t2ls, tasks)
    scores = {}
    for row in rows:
        right = right_answers(row, samples, model, tokenizer)
        scores[row.label] = {task: 100 * mean(r) for task, r in sorted(right.items())}
    apart = all_distances(loras, t2ls, configs, tasks)
    print(f"\nexact match in % on {len(tasks)} tasks, {len(samples)} answers")
    for i, label in enumerate(scores):
        print(f"  ({i}) {label}")
    print(f"{'':30}" + "".join(f"{f'({i})':>7}" for i in range(len(scores))))
    for task in sorted(loras):
        print(f"{task:30}" + "".join(f"{score[task]:7.1f}" for score in scores.values()))
    print(f"{'mean':30}" + "".join(f"{mean(s.values()):7.1f}" for s in scores.values()))
    print("\nfrom the oracles:" + " " * 13 + "|A - A*|   |B - B*|   ‖ΔW - ΔW*‖ / ‖ΔW*‖")
    for name, (a, b, delta) in apart.items():
        print(f"{name:28}{a:10.2e}{b:10.2e}{delta:12.3f}")
    if folders:
        write_json(folders[0] / "results_library.json", {"scores": scores, "distances": apart})
    return "; ".join(f"{label} {mean(score.values()):.1f} %" for label, score in scores.items())
