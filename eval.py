"""Does it do the task, and does it read the description? (arXiv 2506.06105, sections 4 and 5)

    python eval.py                                # the committed T2L, on unseen and seen tasks
    python eval.py --ckpt out/sft out/mtlora --eval-samples 40
    python eval.py --ckpt out/seed0 out/seed1 --seeds    # joined, over tasks and seeds
    python eval.py --tasks DIR --split all               # every task of DIR that it never saw

Exact match on unseen tasks, and on seen tasks' held-out inputs with held-out wordings, for the base
model, multi-task LoRA, T2L with its own description, and T2L under four controls: another task's
description (any task's, or one that shares the input), random words, the mean embedding. Only these
tell whether a good score comes from the description. Reading order: rows of the table, running a
row, the table, the command.
"""
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from tqdm import tqdm

from data.controls import Controls
from data.suite import drop_too_long, load_suite, untrained
from data.tasks import FORMS, Sample, Suite, message, right_answers, seen_samples, test_samples
from encoder import Encoder, embed, encoder_for, normalised
from lora import LoRA, load_peft
from mistral import Mistral, generate, load_model, load_tokenizer
from t2l import T2L, T2LConfig, generate_lora, load_t2l
from utils import ranks
from utils.cli import UserError, eval_args, note, run
from utils.files import check_unique, read_json, write_json
from utils.peft import check_fits, check_model
from utils.results import (Column, add_joined, find_label, join_seeds, print_head, print_row,
                           summary, with_name)
from utils.run_folder import check_seeds
from utils.stats import mean
from utils.tokenizer import Tokenizer
from utils.weights import checkpoint_folders, chosen_dtype

BATCH = 64
EncoderOf = Callable[[T2LConfig], Encoder]          # the encoder that goes with a T2L


# ------------------------------------------------------------------------ rows of the table

@dataclass(frozen=True)
class Row:
    """One line of the table: `control` gives the description, `adapters` the model's LoRA."""
    label: str
    describe: str                                   # "lora": not in the prompt, as in train.py
    control: Callable[[Sample, random.Random], str]
    adapters: Callable[[list[Sample]], LoRA | None]
    t2l: str = ""                                   # whose row it is; a T2L's first row is its own
    run: str = ""                                   # the checkpoint's folder, and what kind of row
    kind: str = ""                                  # it is: --seeds joins the rows of a kind


def load_checkpoint(folder: Path, encoder_of: EncoderOf) -> tuple[T2L, Encoder, dict]:
    """A T2L, its encoder and config.json; the authors' were trained with `--describe both`."""
    t2l, official = load_t2l(folder), (folder / "hypermod.pt").exists()
    config = {"describe": "both"} if official else read_json(folder / "config.json")
    return t2l, encoder_of(t2l.cfg), config


def t2l_rows(folder: Path, suite: Suite, controls: Controls, encoder_of: EncoderOf,
             model: Mistral) -> list[Row]:
    """T2L with its own description, and under every control."""
    t2l, encoder, config = load_checkpoint(folder, encoder_of)
    check_model(t2l.cfg, model.cfg)
    lines = [d for task in suite.train for d in task.descriptions[:4]]   # enough for a steady mean
    average = cache(lambda: normalised(embed(encoder, lines).mean(0, keepdim=True), encoder.parts))

    def read(samples: list[Sample]) -> LoRA:
        return generate_lora(t2l, [s.description for s in samples], encoder)

    @torch.no_grad()
    def constant(samples: list[Sample]) -> LoRA:
        return t2l.adapters(average().expand(len(samples), -1))

    describe = config.get("describe", "lora")
    prompt = " + prompt" * (describe == "both")
    name, kind = f"T2L {folder.name}{prompt}", f"T2L {t2l.cfg.arch}{prompt}"
    rows = [("own description", controls.own, read),
            ("another task's", controls.other_task, read),
            ("another's on this input", controls.same_input, read),
            ("random words", controls.random_words, read),
            ("mean embedding", controls.own, constant)]
    if len(controls.wordings) == 1:                      # there is no other task
        del rows[1:3]
    return [Row(f"{name}, {label}", describe, control, adapters, name, folder.name,
                f"{kind}, {label}") for label, control, adapters in rows]


def mtlora_row(folder: Path, controls: Controls, model: Mistral) -> Row:
    """A multi-task LoRA; UserError where it is not for this model."""
    lora, describe = load_peft(folder), read_json(folder / "config.json")["describe"]
    check_fits(lora, {name: weight.shape for name, weight in model.named_parameters()})
    label = "multi-task LoRA" + (", description in its prompt" if describe == "prompt" else "")
    return Row(label, describe, controls.own, lambda samples: lora, "", folder.name, label)


def table_rows(folders: list[Path], suite: Suite, encoder_of: EncoderOf,
               model: Mistral) -> list[Row]:
    """Base, base with description, multi-task LoRAs, then each T2L with its controls."""
    controls = Controls(suite)
    plain = [Row("base model", "lora", controls.own, lambda samples: None),
             Row("base model, description in its prompt", "prompt", controls.own,
                 lambda samples: None)]
    generated = []
    for folder in check_unique(folders):
        if (folder / "adapter_model.safetensors").exists():
            plain.append(mtlora_row(folder, controls, model))
        else:
            generated += t2l_rows(folder, suite, controls, encoder_of, model)
    kinds = [row.kind for row in plain]                       # two of a kind go by their folders
    return [replace(row, label=with_name(row.kind, row.run))
            if row.kind and kinds.count(row.kind) > 1 else row for row in plain] + generated


# ---------------------------------------------------------------------------- running a row

@torch.compiler.set_stance("force_eager")            # many shapes: not worth compiling
def ask(row: Row, samples: list[Sample], model: Mistral, tokenizer: Tokenizer,
        room: int = 1) -> list[tuple[Sample, str]]:
    """Every sample with its greedy answer, of `room` times the longest accepted one's tokens. Only
    what T2L reads is swapped: a description in the prompt is always the sample's own."""
    rng, answered = random.Random(row.label), []
    samples = sorted(samples, key=lambda s: len(message(s, row.describe)))
    read = [replace(s, description=row.control(s, rng)) for s in samples]
    starts = ranks.own_part(range(0, len(samples), BATCH), model)
    for start in tqdm(starts, desc=row.label, leave=False):
        batch = samples[start:start + BATCH]
        lora = row.adapters(read[start:start + BATCH])

        # What runs on beyond the longest accepted answer is wrong anyway: no need to see its end.
        longest = max(len(tokenizer.answer(a)) for s in batch for a in s.answers)
        answered += zip(batch, generate(model, tokenizer, [message(s, row.describe) for s in batch],
                                        lora, max_new_tokens=room * longest + 3))
    return ranks.gathered(answered, model)


def exact_match(row: Row, samples: list[Sample], model: Mistral,
                tokenizer: Tokenizer) -> dict[str, list[bool]]:
    """Task → for each of its samples, whether the greedy answer is one of the accepted ones."""
    return right_answers(ask(row, samples, model, tokenizer))


# -------------------------------------------------------------------------------- the table

def report(folders: list[Path], suite: Suite, model: Mistral, tokenizer: Tokenizer,
           encoder_of: EncoderOf, per_task: int, out: Path, split: str = "unseen",
           seeds: bool = False, against: str | None = None) -> str:
    """Run every row on `split` and on the seen tasks, print the tables, write results.json into
    the folder `out`; returns the one-line result. `suite` is `untrained` for the split "all"."""
    rows = table_rows(folders, suite, encoder_of, model)
    shown, joined = join_seeds(rows) if seeds else (rows, {})
    against = None if against is None else find_label([row.label for row in shown], against)
    note(f"{model.cfg.name}; {', '.join(map(str, folders))}")

    # What is asked, and in which forms an answer is right.
    tasks = suite.unseen if split == "all" else getattr(suite, split)
    asked = {split: test_samples(tasks, per_task, lambda t: t.descriptions + t.held_out),
             "seen": seen_samples(suite, per_task) if split != "all" else []}
    asked = {name: samples for name, samples in asked.items() if samples}
    forms = {name: FORMS if name == "all" else {name: str.strip} for name in asked}
    if not asked:
        raise UserError("no task has test instances")
    results: dict[str, Column] = {column: {} for of in forms.values() for column in of}
    print_head({name: [s.task for s in samples] for name, samples in asked.items()}, results)

    # What is answered.
    for row in rows:
        for name, samples in asked.items():
            answered = ask(row, samples, model, tokenizer, len(forms[name]))
            for column, form in forms[name].items():
                right = right_answers(answered, form)
                results[column][row.label] = {t: 100 * mean(r) for t, r in sorted(right.items())}
        print_row(row.label, results)
    add_joined(results, joined)
    write_json(out / ("results.json" if split == "unseen" else f"results_{split}.json"), results)

    # What it says.
    first = next(iter(asked))
    what = f"{len(tasks)} tasks not trained on" if first == "all" else \
        f"{first} tasks{', new inputs' * (first == 'seen')}"
    return summary(what, shown, results, joined, against)


# ------------------------------------------------------------------------------ the command

def load_models(args) -> tuple[Mistral, Tokenizer, EncoderOf]:
    """--model, its tokenizer, and for each T2L --encoder or its own."""
    model = load_model(args.model, chosen_dtype(args), args.device)
    return model, load_tokenizer(args.model), lambda cfg: encoder_for(cfg, model, args.encoder)


def load_asked(args) -> tuple[Suite, Mistral, Tokenizer, EncoderOf]:
    """What of --tasks the model can read, and what load_models gives."""
    model, tokenizer, encoder_of = load_models(args)
    suite, limit = load_suite(args.tasks), model.cfg.max_position_embeddings
    return drop_too_long(suite, tokenizer, limit, "prompt"), model, tokenizer, encoder_of


def main() -> None:
    args = eval_args()
    folders = checkpoint_folders(args.ckpt)
    if args.seeds:
        check_seeds(folders)
    with ranks.joined(args, args.out) as out:
        suite, model, tokenizer, encoder_of = load_asked(args)
        if args.split == "all":
            suite = untrained(suite, folders)
        print(report(folders, suite, model, tokenizer, encoder_of, args.eval_samples, out,
                     args.split, args.seeds, args.against))


if __name__ == "__main__":
    run(main)
