"""The paper's ten benchmarks, zero-shot, under the adapters of their descriptions (arXiv
2506.06105, Table 2).

    python -m utils.download --benchmarks
    python -m experiments.benchmarks --benchmarks ~/.cache/text-to-lora/benchmarks --ckpt out/sft

For each benchmark in the folder: the base model, the base model with the description in its prompt,
and each T2L with the benchmark's own descriptions (three, averaged) and with another benchmark's.
Answers are generated and read as benchmark_formats.py says, or, with --likelihood, the option's
letter (or yes, no) that the model finds likeliest counts as its answer. Reading order:
descriptions, rows of the table, running a row, the table, the command.
"""
import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from eval import EncoderOf, load_checkpoint, load_models
from experiments.benchmark_formats import (LETTERS, NEW_TOKENS, READERS, Question, is_right,
                                           load_benchmark)
from lora import LoRA
from mistral import Mistral, generate
from t2l import generate_lora
from utils.cli import EvalParser, UserError, run
from utils.files import check_unique, write_json
from utils.peft import check_model
from utils.stats import mean
from utils.tokenizer import Tokenizer, pad
from utils.weights import checkpoint_folders

BATCH, YES_NO = 32, ("yes", "no")
RUNS_CODE = ("humaneval", "mbpp")               # read with --run-code only

SCIENCE = ("Answer a multiple-choice question about science with the letter of the right option.",
           "Read a school science question and its options, and say which letter is correct.",
           "Choose the option that correctly answers the question on nature or physics.")
CODING = ("Write a correct Python function for the problem.",
          "Solve a small programming task in Python; the code is checked by tests.",
          "Turn a description of what a function does into working Python code.")
DESCRIPTIONS = {
    "arc_challenge": SCIENCE, "arc_easy": SCIENCE, "openbookqa": SCIENCE,
    "boolq": ("Answer a question about a passage with yes or no.",
              "Read the text and decide whether the answer to the question is yes or no.",
              "Say yes if the passage supports the question, and no if it does not."),
    "hellaswag": ("Choose the most sensible ending of an unfinished text.",
                  "Decide which of the endings continues the story or instruction best.",
                  "Pick the letter of the sentence that most likely comes next."),
    "piqa": ("Choose the more practical of two ways to reach an everyday goal.",
             "Use physical common sense to say which solution would really work.",
             "Given a goal and two methods, give the letter of the better method."),
    "winogrande": ("Say which of two words belongs in the gap of a sentence.",
                   "Resolve what the blank refers to, using common sense.",
                   "Choose the option that makes the sentence with the underscore sensible."),
    "gsm8k": ("Solve a grade-school word problem step by step and give the final number.",
              "Work out the arithmetic of a short story problem and end with the result.",
              "Answer a maths question in words by reasoning, then state the number."),
    "humaneval": CODING, "mbpp": CODING}


# ------------------------------------------------------------------------- rows of the table

Adapters = list[tuple[str, LoRA | None]]        # (a description of the benchmark, its adapter)


@dataclass(frozen=True)
class BenchmarkRow:
    """One line of the table: a benchmark's name → the adapters to run with, whose scores are
    averaged. `in_prompt`: the description is shown, too; not beside an adapter, for these prompts
    say themselves what to do."""
    label: str
    adapters: Callable[[str], Adapters]
    in_prompt: bool = False


def table_rows(folders: list[Path], encoder_of: EncoderOf, model: Mistral) -> list[BenchmarkRow]:
    """Base, base with description, and each T2L with its own descriptions and another's."""
    def plain(name: str) -> Adapters:
        return [(d, None) for d in DESCRIPTIONS[name]]

    rows = [BenchmarkRow("base model", lambda name: plain(name)[:1]),
            BenchmarkRow("base model, description in its prompt", plain, in_prompt=True)]
    for folder in check_unique(folders):
        rows += t2l_rows(folder, encoder_of, model)
    return rows


def t2l_rows(folder: Path, encoder_of: EncoderOf, model: Mistral) -> list[BenchmarkRow]:
    t2l, encoder, _ = load_checkpoint(folder, encoder_of)
    check_model(t2l.cfg, model.cfg)

    def own(name: str) -> Adapters:
        return [(d, generate_lora(t2l, d, encoder)) for d in DESCRIPTIONS[name]]

    def other(name: str) -> Adapters:
        others = [n for n in DESCRIPTIONS if DESCRIPTIONS[n] != DESCRIPTIONS[name]]
        return own(others[list(DESCRIPTIONS).index(name) % len(others)])

    return [BenchmarkRow(f"T2L {folder.name}, own description", own),
            BenchmarkRow(f"T2L {folder.name}, another's", other)]


# ---------------------------------------------------------------------------- running a row

def accuracy(questions: list[Question], description: str, lora: LoRA | None, model: Mistral,
             tokenizer: Tokenizer, likelihood: bool, run_code: bool) -> float:
    """The share of right answers to one benchmark's questions."""
    prompts = [f"{description}\n\n{q.prompt}".strip() for q in questions]

    # By likelihood, where the answer is one of a few.
    if likelihood and (questions[0].options or questions[0].gold in YES_NO):
        found = [likeliest(model, tokenizer, prompt, LETTERS[:len(q.options)] or YES_NO, lora)
                 for prompt, q in zip(tqdm(prompts, leave=False), questions)]
        return mean(answer == q.gold for answer, q in zip(found, questions))

    # By what is generated.
    answers = []
    for start in tqdm(range(0, len(prompts), BATCH), desc=questions[0].benchmark, leave=False):
        answers += generate(model, tokenizer, prompts[start:start + BATCH], lora,
                            NEW_TOKENS.get(questions[0].benchmark, 16))
    return mean(is_right(q, answer, run_code) for q, answer in zip(questions, answers))


@torch.inference_mode()
def likeliest(model: Mistral, tokenizer: Tokenizer, prompt: str, options: Sequence[str],
              lora: LoRA | None) -> str:
    """The option with the highest log-likelihood as the answer to `prompt`."""
    # A row for each option; the position before a token predicts it.
    start, answers = tokenizer.prompt(prompt), [tokenizer.encode(text) for text in options]
    ids = pad([start + answer for answer in answers], model.device)
    keep = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in zip(keep, answers):
        row[len(start) - 1:len(start) - 1 + len(answer)] = True

    # The sum of its tokens' log-probabilities.
    logits: Tensor = model(ids, lora=lora, keep=keep).float()            # (tokens, vocab)
    targets = torch.tensor(list(itertools.chain(*answers)), device=ids.device)
    log_probs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    sums = torch.stack([part.sum() for part in log_probs.split([len(a) for a in answers])])
    return options[int(sums.argmax())]


# -------------------------------------------------------------------------------- the table

def load_benchmarks(folder: Path, prompts: str | None, at_most: int | None,
                    run_code: bool) -> dict[str, list[Question]]:
    """{benchmark: its first `at_most` questions (None: all)}; UserError where the folder holds
    none; those that run code only with `run_code`."""
    files = [folder / f"{name}.jsonl" for name in READERS if (folder / f"{name}.jsonl").exists()]
    files = [file for file in files if run_code or file.stem not in RUNS_CODE]
    if not files:
        raise UserError(f"{folder} holds none of {', '.join(READERS)} as NAME.jsonl"
                        + ("" if run_code else " (the last two need --run-code)"))
    return {file.stem: load_benchmark(file, prompts)[:at_most] for file in files}


def report_benchmarks(asked: dict[str, list[Question]], folders: list[Path], model: Mistral,
                      tokenizer: Tokenizer, encoder_of: EncoderOf, likelihood: bool,
                      run_code: bool, out: Path) -> str:
    """Print a line for each row, a column for each benchmark; write results_benchmarks.json into
    the folder `out`; returns the one-line result."""
    # What is asked.
    rows = table_rows(folders, encoder_of, model)
    print(f"{'accuracy in %':40}" + "".join(f"{name[:9]:>10}" for name in asked) + "      mean")
    print(f"{'questions (--eval-samples)':40}" + "".join(f"{len(q):10}" for q in asked.values()))

    # What is answered.
    scores = {}
    for row in rows:
        line = {}
        for name, questions in asked.items():
            runs = [accuracy(questions, d if row.in_prompt else "", lora, model, tokenizer,
                             likelihood, run_code) for d, lora in row.adapters(name)]
            line[name] = 100 * sum(runs) / len(runs)
        scores[row.label] = line | {"mean": sum(line.values()) / len(line)}
        print(f"{row.label:40}" + "".join(f"{x:10.1f}" for x in scores[row.label].values()),
              flush=True)

    write_json(out / "results_benchmarks.json", scores)
    return "; ".join(f"{label} {line['mean']:.1f} %" for label, line in scores.items())


# ------------------------------------------------------------------------------- the command

def benchmark_args() -> argparse.Namespace:
    parser = EvalParser("The table of the paper's benchmarks.",
                        "folders of train.py --mode sft or recon, or the authors'",
                        "the committed ones", "questions of each benchmark")
    parser.prog = "python -m experiments.benchmarks"
    add = parser.add_argument
    add("--benchmarks", metavar="DIR", required=True,
        help="a folder of NAME.jsonl, as python -m utils.download --benchmarks makes it"
        "%(default).0s")
    add("--run-code", action="store_true", help="also those that run what the model wrote: with "
        "limits against accidents, but in no jail (experiments/run_code.py)")
    add("--likelihood", action="store_true",
        help="the likeliest letter (or yes, no) is the answer, not what is generated")
    add("--prompts", metavar="FILE", default=None,
        help="a JSON file with other prompts (default: ours)%(default).0s")
    return parser.parse_args()


def main() -> None:
    args = benchmark_args()
    folders = checkpoint_folders(args.ckpt)
    asked = load_benchmarks(Path(args.benchmarks), args.prompts, args.eval_samples, args.run_code)
    model, tokenizer, encoder_of = load_models(args)
    print(report_benchmarks(asked, folders, model, tokenizer, encoder_of, args.likelihood,
                            args.run_code, args.out))


if __name__ == "__main__":
    run(main)
