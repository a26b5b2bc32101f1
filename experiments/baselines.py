"""T2L beside every other way to tell a model its task (arXiv 2506.06105, Tables 2 to 4).

    python -m experiments.baselines --loras out/lora --ckpt out/sft out/mtlora out/hyper …
    python -m experiments.baselines --ckpt out/tasks-31 out/tasks-62 …       # these alone

Exact match on unseen tasks, on seen tasks, and on those that have an oracle, for the base model,
alone, with a description and with three examples in its prompt; the average of the oracles; Arrow,
which mixes oracles token by token; the oracles; and what --ckpt names: multi-task LoRAs, T2Ls with
their own description, what experiments.readers trains. Runs of a kind that differ in their seed
alone are joined. Reading order: examples in the prompt, Arrow, rows of the table, the table, the
command.
"""
import copy
import csv
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.controls import Controls
from data.suite import tasks_of_checkpoint
from data.tasks import (Sample, Suite, Task, message, right_answers, seen_samples,
                        test_samples)
from encoder import DEFAULT_ENCODER
from eval import BATCH, EncoderOf, Row, ask, load_asked, mtlora_row
from experiments.compare import load_all
from experiments.readers import read_instead, stand_in
from lora import MODULES, LoRA
from mistral import Mistral, generate_ids
from t2l import generate_lora, load_t2l
from utils.cli import EvalParser, UserError, run, typed_text
from utils.files import check_unique, read_json, write_json
from utils.library import average_lora, canonical, stack_loras
from utils.modules import TARGETS
from utils.peft import check_model
from utils.results import (Column, Joined, add_joined, find_label, join_seeds, print_differences,
                           print_head, print_joined, print_row, runs_of)
from utils.run_folder import check_same_but_seed
from utils.stats import mean, seed_interval
from utils.tokenizer import Tokenizer
from utils.weights import checkpoint_folders

EXAMPLES = 3
TOP_K = 4                                        # oracles that Arrow mixes for a token
OWN = "with an oracle"                           # the column of the oracles' own tasks


# -------------------------------------------------------------------- examples in the prompt

def with_examples(sample: Sample, task: Task, describe: str, tokenizer: Tokenizer,
                  limit: float) -> list[int]:
    """A prompt's ids: the task's first training instances as turns of the conversation, as many of
    EXAMPLES as `limit` tokens hold, then the input; before each the description, if asked for."""
    turns = [[*tokenizer.prompt(message(replace(sample, input=text), describe)),
              *tokenizer.answer(answers[0]), *tokenizer.encode("\n")]
             for text, answers in task.train[:EXAMPLES]]
    last = tokenizer.prompt(message(sample, describe))
    while turns and sum(map(len, turns)) + len(last) > limit:
        turns.pop()
    return [*(token for turn in turns for token in turn), *last]


def ask_with_examples(row: Row, tasks: dict[str, Task], samples: list[Sample], model: Mistral,
                      tokenizer: Tokenizer) -> list[tuple[Sample, str]]:
    """As eval.ask: every sample with its greedy answer, here without an adapter."""
    limit = 0.75 * model.cfg.max_position_embeddings                   # the rest is for the answer
    asked = sorted(((with_examples(s, tasks[s.task], row.describe, tokenizer, limit), s)
                    for s in samples), key=lambda pair: len(pair[0]))
    answered = []
    for start in range(0, len(asked), BATCH):
        prompts, batch = zip(*asked[start:start + BATCH])
        longest = max(len(tokenizer.answer(a)) for s in batch for a in s.answers)
        found = generate_ids(model, prompts, None, longest + 3,
                             (*model.cfg.eos_token_id, tokenizer.end))
        answered += [(s, tokenizer.decode(ids).strip()) for s, ids in zip(batch, found)]
    return answered


# --------------------------------------------------------------------------------- Arrow

class ArrowLinear(nn.Module):
    """A frozen Linear with N LoRAs, A (N, r, d_in), B (N, d_out, r), of which every token has the
    k that are for inputs like it (arXiv 2405.11157).

    A LoRA is for the direction of x that its B A stretches most, its first right singular vector v:
    the token's k largest |v x| go through a softmax and weigh what these LoRAs add.
    """

    def __init__(self, linear: nn.Linear, A: Tensor, B: Tensor, k: int):
        super().__init__()
        self.linear, self.A, self.B, self.k = linear, A, B, k
        first = canonical(({"": A}, {"": B}))[0][""][:, 0]      # in that form A's rows are these
        self.prototypes = F.normalize(first, dim=-1).to(A)                             # (N, d_in)

    def forward(self, x: Tensor) -> Tensor:
        scores, chosen = (x @ self.prototypes.T).abs().topk(self.k, -1)                # (b, t, k)
        weights = torch.zeros(*x.shape[:-1], len(self.A), dtype=x.dtype, device=x.device)
        weights.scatter_(-1, chosen, scores.softmax(-1))                               # (b, t, N)
        down = torch.einsum("btd,nrd->btnr", x, self.A) * weights[..., None]
        return self.linear(x) + torch.einsum("btnr,nor->bto", down, self.B)


def arrow_model(model: Mistral, loras: list[LoRA], k: int = TOP_K) -> Mistral:
    """A model that shares `model`'s weights and mixes the LoRAs for every token and layer."""
    model = copy.deepcopy(model, {id(w): w for w in model.parameters()})
    model.fused, (A, B) = False, stack_loras(loras)                      # A[m] (N, n, r, d_in)
    for i, layer in enumerate(model.model["layers"]):
        for m in A:
            part, weight = layer.get_submodule(MODULES[m]), model.model["embed_tokens"].weight
            sides = (side[m][:, i].to(weight) for side in (A, B))
            setattr(part, m, ArrowLinear(getattr(part, m), *sides, min(k, len(loras))))
    return model


# ------------------------------------------------------------------------- rows of the table

class Asked(NamedTuple):
    """A row of the table, how it answers, and the only column that it has an answer for, if so."""
    row: Row
    answer: Callable[[list[Sample]], list[tuple[Sample, str]]]
    only: str = ""


def kind_of_run(config: dict) -> str:
    """What a run is called in the table: all that sets it apart but its seed."""
    t2l, recon, steps = config.get("t2l") or {}, config["mode"] == "recon", config["steps"]
    modules = t2l.get("modules") or config.get("modules") or TARGETS
    if config["mode"] == "mtlora":
        name = "multi-task LoRA" + ", description in its prompt" * (config["describe"] == "prompt")
    else:
        name = {"input": "Hyperdecoder", "random": "random vectors", "number": "one-hot",
                None: "T2L"}[config.get("reads")]
        name += f" {t2l['arch']}" + " + prompt" * (config.get("describe") == "both")
    usual = DEFAULT_ENCODER + "+states" * (t2l.get("arch") == "bank")
    encoder = Path(t2l and config.get("encoder") or usual).name           # a LoRA reads with none
    return name + ", from oracles" * recon + f", {encoder}" * (encoder != usual) \
        + f", {len(modules)} modules" * (len(modules) != len(TARGETS)) \
        + ", read with a LoRA" * bool(config.get("read_with")) \
        + (f", {config['max_tasks']} tasks" if config.get("max_tasks") else "") \
        + f", {steps:,} steps" * (steps != (600 if recon else 540))


def run_rows(folders: list[Path], controls: Controls, encoder_of: EncoderOf,
             model: Mistral) -> list[Row]:
    """A row for each checkpoint; UserError where it is not for this model, or where two of a kind
    differ in more than their seed."""
    rows, kinds = [], {}
    for folder in check_unique(folders):
        config = read_json(folder / "config.json")
        if config.get("mode") not in ("sft", "recon", "mtlora") or not config.get("finished"):
            raise UserError(f"{folder} is no finished run of train.py --mode sft, recon or mtlora")
        kind = kind_of_run(config)
        kinds.setdefault(kind, {})[folder] = config
        if config["mode"] == "mtlora":
            rows.append(replace(mtlora_row(folder, controls, model), kind=kind,
                                label=f"{kind} ({folder.name})"))
            continue
        t2l = load_t2l(folder)
        check_model(t2l.cfg, model.cfg)

        reads = config.get("reads")
        encoder = encoder_of(replace(t2l.cfg, encoder=config["encoder"]) if reads else t2l.cfg)
        if reads:
            encoder = stand_in(encoder, reads, config.get("library"))
        elif t2l.cfg.tasks:
            raise UserError(f"{folder} knows its own tasks by number, and no other")

        def read(samples: list[Sample], t2l=t2l, encoder=encoder, reads=reads) -> LoRA:
            samples = read_instead(samples, reads) if reads else samples
            return generate_lora(t2l, [s.description for s in samples], encoder)
        rows.append(Row(f"{kind} ({folder.name})", config.get("describe", "lora"), controls.own,
                        read, "", folder.name, kind))
    for configs in kinds.values():
        check_same_but_seed(configs)
    return rows


def baseline_rows(loras: dict[str, LoRA], suite: Suite, model: Mistral,
                  tokenizer: Tokenizer) -> list[Asked]:
    """The base model's rows and the oracles'."""
    controls, tasks, average = Controls(suite), suite.by_name(), average_lora(loras)

    def plain(label: str, describe: str = "lora", adapters=lambda samples: None) -> Row:
        return Row(label, describe, controls.own, adapters)

    def shown(row: Row) -> Asked:
        return Asked(row, partial(ask_with_examples, row, tasks, model=model, tokenizer=tokenizer))

    def oracles(samples: list[Sample]) -> LoRA:
        return stack_loras([loras[s.task] for s in samples])

    return [adapted(plain("base model"), model, tokenizer),
            adapted(plain("base model, description in its prompt", "prompt"), model, tokenizer),
            shown(plain(f"base model, {EXAMPLES} examples in its prompt")),
            shown(plain(f"base model, {EXAMPLES} examples with the description", "prompt")),
            adapted(plain("oracle", adapters=oracles), model, tokenizer)._replace(only=OWN),
            adapted(plain("average of the oracles", adapters=lambda samples: average), model,
                    tokenizer),
            adapted(plain("Arrow over the oracles"), arrow_model(model, list(loras.values())),
                    tokenizer)]


def adapted(row: Row, model: Mistral, tokenizer: Tokenizer) -> Asked:
    return Asked(row, partial(ask, row, model=model, tokenizer=tokenizer))


# --------------------------------------------------------------------------------- the table

def questions(suite: Suite, loras: dict[str, LoRA], per_task: int, split: str,
              folders: list[Path]) -> dict[str, list[Sample]]:
    """{column: what is asked}: the split's tasks; seen ones, which all `folders` were trained on;
    those that have an oracle."""
    known = [tasks_of_checkpoint(folder) for folder in folders]
    seen = [task for task in suite.train if all(task.name in names for names in known)]
    own = [task for task in suite.train if task.name in loras]
    asked = {split: test_samples(getattr(suite, split), per_task,
                                 lambda t: t.descriptions + t.held_out),
             "seen": seen_samples(replace(suite, train=seen), per_task) if seen else [],
             OWN: test_samples(own, per_task, lambda t: t.held_out)}
    if not asked[split]:
        raise UserError(f"--tasks names no {split} task that has test instances")
    return {name: samples for name, samples in asked.items() if samples}


def trained_through_model(folders: list[Path]) -> list[Path]:
    """Those that are not from oracles, whose few tasks have a column of their own."""
    return [d for d in folders if read_json(d / "config.json").get("mode") != "recon"]


def report_rows(rows: list[Asked], asked: dict[str, list[Sample]], file: Path,
                against: str | None) -> str:
    """Run every row, print the table and each row's difference from `against` (None: from the
    last), write `file` + .json and .csv; returns the one-line result."""
    shown, joined = join_seeds([one.row for one in rows])
    against = find_label([row.label for row in shown], against or shown[-1].label)
    results: dict[str, Column] = {name: {} for name in asked}
    print_head({name: [s.task for s in samples] for name, samples in asked.items()}, results)

    # What is answered.
    for row, answer, only in rows:
        for column in (name for name in asked if only in ("", name)):
            right = right_answers(answer(asked[column]))
            results[column][row.label] = {t: 100 * mean(r) for t, r in sorted(right.items())}
        print_row(row.label, {c: scores for c, scores in results.items() if row.label in scores})
    add_joined(results, joined)
    write_json(Path(f"{file}.json"), results)
    write_csv(Path(f"{file}.csv"), [row.label for row in shown], results, joined)

    # What it says.
    print_joined(results, joined)
    for column, scores in results.items():
        here = [row for row in shown if row.label in scores]
        if against in scores:
            print_differences(f"{column} tasks", here, scores, joined, against)
    return "; ".join(f"{column} tasks: {against} {mean(scores[against].values()):.1f} %"
                     for column, scores in results.items() if against in scores)


def write_csv(path: Path, labels: list[str], results: dict[str, Column], joined: Joined) -> None:
    """A line for each row and column: its mean in %, the interval over tasks and seeds, seeds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["row", "tasks", "mean", "low", "high", "seeds"])
        for label in labels:
            for column, scores in results.items():
                if label in scores:
                    runs = [[*run.values()] for run in runs_of(scores, label, joined).values()]
                    numbers = mean(scores[label].values()), *seed_interval(runs)
                    lines.writerow([label, column, *(f"{x:.2f}" for x in numbers), len(runs)])


# ------------------------------------------------------------------------------- the command

def main() -> None:
    parser = EvalParser("T2L beside every other way to tell a model its task.",
                        "folders of train.py --mode sft, recon or mtlora, or of "
                        "experiments.readers", "the committed ones", "test inputs per task")
    parser.prog = "python -m experiments.baselines"
    parser.folder("--loras", "the oracles, of train.py --mode lora", "no row but --ckpt's")
    parser.add_argument("--split", choices=["unseen", "validation"], default="unseen",
                        help="the tasks that none was trained on")
    parser.add_argument("--against", metavar="ROW", type=typed_text, help="give every row's paired "
                        "difference from this (default: the last)%(default).0s")
    parser.tasks()
    args = parser.parse_args()

    folders = checkpoint_folders(args.ckpt)
    loras, _, *loaded = load_all(args) if args.loras else ({}, "", *load_asked(args))
    suite, model, tokenizer, encoder_of = loaded
    runs = [adapted(row, model, tokenizer)
            for row in run_rows(folders, Controls(suite), encoder_of, model)]
    others = baseline_rows(loras, suite, model, tokenizer) if loras else []
    asked = questions(suite, loras, args.eval_samples, args.split,
                      trained_through_model(folders) if loras else folders)
    print(report_rows([*others, *runs], asked, args.out / f"baselines_{args.split}", args.against))


if __name__ == "__main__":
    run(main)
