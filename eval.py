"""Does it do the task, and does it read the description? (arXiv 2506.06105, sections 4 and 5)

    python eval.py                                # the committed T2L, on unseen and seen tasks
    python eval.py --ckpt out/sft out/mtlora --eval-samples 40

Exact match on unseen tasks, and on seen tasks' held-out inputs with held-out wordings, for the base
model, multi-task LoRA, T2L with its own description, and T2L under four controls: with another
task's description (any task's, or one that shares the input), with random words, and with the mean
embedding as a constant. Only the controls tell whether a good score comes from the description.
Reading order: rows of the table, running a row, the table, the command.
"""
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from data.controls import Controls
from data.suite import drop_too_long, load_suite
from data.tasks import Sample, Suite, message, seen_samples, test_samples
from encoder import Encoder, embed, encoder_for, normalised
from lora import LoRA, load_peft
from mistral import Mistral, generate, load_model, load_tokenizer
from t2l import T2L, T2LConfig, check_model, generate_lora, load_t2l
from utils.cli import UserError, eval_args, note, run
from utils.files import check_unique, read_json, write_json
from utils.peft import check_fits
from utils.stats import interval, mean, print_tasks
from utils.tokenizer import Tokenizer
from utils.weights import checkpoint_folders

BATCH = 64
FEWEST = 10                    # tasks for a verdict: the interval over fewer is too uncertain
LEAST = 2.0                    # % right, for a verdict: less is what any adapter may have by chance
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


def load_checkpoint(folder: Path, encoder_of: EncoderOf) -> tuple[T2L, Encoder, dict]:
    """A T2L, its encoder and config.json; the authors' were trained with `--describe both`."""
    t2l, official = load_t2l(folder), (folder / "hypermod.pt").exists()
    config = {"describe": "both"} if official else read_json(folder / "config.json")
    return t2l, encoder_of(t2l.cfg), config


def t2l_rows(folder: Path, suite: Suite, controls: Controls, encoder_of: EncoderOf,
             model: Mistral) -> list[Row]:
    """T2L with its own description, and under every control."""
    t2l, encoder, config = load_checkpoint(folder, encoder_of)
    check_model(t2l, model.cfg)
    lines = [d for task in suite.train for d in task.descriptions[:4]]   # enough for a steady mean
    average = normalised(embed(encoder, lines).mean(0, keepdim=True), encoder.parts)

    def read(samples: list[Sample]) -> LoRA:
        return generate_lora(t2l, [s.description for s in samples], encoder)

    @torch.no_grad()
    def constant(samples: list[Sample]) -> LoRA:
        return t2l.adapters(average.expand(len(samples), -1))

    describe = config.get("describe", "lora")
    name = f"T2L {folder.name}" + (" + prompt" if describe == "both" else "")
    rows = [("own description", controls.own, read),
            ("another task's", controls.other_task, read),
            ("another's on this input", controls.same_input, read),
            ("random words", controls.random_words, read),
            ("mean embedding", controls.own, constant)]
    if len(controls.wordings) == 1:                      # there is no other task
        del rows[1:3]
    return [Row(f"{name}, {label}", describe, control, adapters, name)
            for label, control, adapters in rows]


def mtlora_row(folder: Path, controls: Controls, model: Mistral) -> Row:
    """A multi-task LoRA; UserError where it is not for this model."""
    lora, describe = load_peft(folder), read_json(folder / "config.json")["describe"]
    check_fits(lora, {name: weight.shape for name, weight in model.named_parameters()})
    label = "multi-task LoRA" + (", description in its prompt" if describe == "prompt" else "")
    return Row(label, describe, controls.own, lambda samples: lora)


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
    return plain + generated


# ---------------------------------------------------------------------------- running a row

@torch.compiler.set_stance("force_eager")            # many shapes: not worth compiling
def exact_match(row: Row, samples: list[Sample], model: Mistral,
                tokenizer: Tokenizer) -> dict[str, list[bool]]:
    """Task → for each of its samples, whether the greedy answer is one of the accepted ones.

    Only what T2L reads is swapped: a description in the prompt is always the sample's own.
    """
    rng, right = random.Random(row.label), defaultdict(list)
    samples = sorted(samples, key=lambda s: len(message(s, row.describe)))
    for start in tqdm(range(0, len(samples), BATCH), desc=row.label, leave=False):
        batch = samples[start:start + BATCH]
        lora = row.adapters([replace(s, description=row.control(s, rng)) for s in batch])

        # What runs on beyond the longest accepted answer is wrong anyway: no need to see its end.
        longest = max(len(tokenizer.answer(a)) for s in batch for a in s.answers)
        answers = generate(model, tokenizer, [message(s, row.describe) for s in batch], lora,
                           max_new_tokens=longest + 3)
        for sample, answer in zip(batch, answers):
            right[sample.task].append(answer.strip() in {a.strip() for a in sample.answers})
    return right


# -------------------------------------------------------------------------------- the table

def verdict(rows: list[Row], scores: dict[str, dict[str, float]]) -> str:
    """For each T2L: is its own description better than the best control, beyond chance?"""
    said = []
    for name in dict.fromkeys(row.t2l for row in rows if row.t2l):
        own, *controls = (row.label for row in rows if row.t2l == name)
        best = max(controls, key=lambda label: mean(scores[label].values()))
        low, high = interval([scores[own][t] - scores[best][t] for t in scores[own]])
        right, reads = mean(scores[own].values()), "it reads its description"
        why = f"{FEWEST} tasks are needed" if len(scores[own]) < FEWEST else \
            "more right answers, so more steps, are needed" if right < LEAST else ""
        said.append(("" if why else f"{reads}: " if low > 0 else f"!!! NOT SHOWN that {reads} !!! ")
                    + f"{own} {right:.1f} %, best control ({best}) "
                    f"{mean(scores[best].values()):.1f} %, difference [{low:.1f}, {high:.1f}]"
                    + (f"; {why} to say whether {reads}" if why else ""))
    return "; ".join(said)


def report(folders: list[Path], suite: Suite, model: Mistral, tokenizer: Tokenizer,
           encoder_of: EncoderOf, per_task: int, out: Path, split: str = "unseen") -> str:
    """Run every row on `split` and on the seen tasks, print the tables, write results.json into
    the folder `out`; returns the one-line result."""
    rows = table_rows(folders, suite, encoder_of, model)
    note(f"{model.cfg.name}; {', '.join(map(str, folders))}")

    # What is asked.
    columns = {split: test_samples(getattr(suite, split), per_task,
                                   lambda t: t.descriptions + t.held_out),
               "seen": seen_samples(suite, per_task)}
    columns = {name: samples for name, samples in columns.items() if samples}
    if not columns:
        raise UserError("no task has test instances")
    sizes = [f"{name}: {len({s.task for s in samples})} tasks, {len(samples)} answers"
             for name, samples in columns.items()]
    print("\nexact match in %, [95 % interval over tasks]; " + "; ".join(sizes))
    print(f"{'':44}" + "".join(f"{name:>22}" for name in columns))

    # What is answered.
    results: dict[str, dict] = {name: {} for name in columns}
    for row in rows:
        line = f"{row.label:44}"
        for name, samples in columns.items():
            right = exact_match(row, samples, model, tokenizer)
            scores = {task: 100 * mean(r) for task, r in sorted(right.items())}
            results[name][row.label] = scores
            low, high = interval(list(scores.values()))
            line += f"{mean(scores.values()):8.1f} [{low:4.1f}, {high:4.1f}]"
        print(line, flush=True)
    write_json(out / ("results.json" if split == "unseen" else f"results_{split}.json"), results)

    # What it says.
    first, scores = next(iter(results.items()))
    if not any(row.t2l for row in rows):
        return f"{first} tasks: {rows[-1].label} {mean(scores[rows[-1].label].values()):.1f} %"
    print_tasks(scores, next(row.label for row in rows if row.t2l))
    return f"{first} tasks{', new inputs' * (first == 'seen')}: {verdict(rows, scores)}"


# ------------------------------------------------------------------------------ the command

def load_models(args) -> tuple[Mistral, Tokenizer, EncoderOf]:
    """--model, its tokenizer, and for each T2L --encoder or its own."""
    model = load_model(args.model, getattr(torch, args.dtype), args.device)
    return (model, load_tokenizer(args.model),
            lambda cfg: encoder_for(cfg, model, args.encoder))


def main() -> None:
    args = eval_args()
    folders = checkpoint_folders(args.ckpt)
    model, tokenizer, encoder_of = load_models(args)
    suite = drop_too_long(load_suite(args.tasks), tokenizer, model.cfg.max_position_embeddings,
                          "prompt")
    print(report(folders, suite, model, tokenizer, encoder_of, args.eval_samples, args.out,
                 args.split))


if __name__ == "__main__":
    run(main)
