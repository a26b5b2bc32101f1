"""The paper's ten benchmarks, zero-shot, under the adapters of their descriptions (Table 2).

    python data/download.py --benchmarks
    python eval.py --benchmarks ~/.cache/text-to-lora/benchmarks --ckpt out/sft      # comes here

For each benchmark in the folder: the base model, the base model with the description in its prompt,
and each T2L with the benchmark's own descriptions (three, averaged) and with another benchmark's.
Answers are generated and read as data/benchmarks.py says, or, with --likelihood, the option's
letter (or yes, no) that the model finds likeliest counts as its answer.
"""
import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import mistral
import t2l as t2l_ops
from data.benchmarks import LETTERS, NEW_TOKENS, READERS, Question, is_right, load_benchmark
from data.files import UserError, distinct, write_json
from eval import EncoderOf, opened
from lora import LoRA

BATCH, YES_NO = 32, ("yes", "no")
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


def report_benchmarks(folder: Path, folders: list[Path], model: mistral.Mistral,
                      tokenizer: mistral.Tokenizer, encoder_of: EncoderOf,
                      args: argparse.Namespace) -> str:
    """Print a line for each row, a column for each benchmark; write results_benchmarks.json into
    the first checkpoint's folder; returns the one-line result."""
    files = [folder / f"{name}.jsonl" for name in READERS if (folder / f"{name}.jsonl").exists()]
    files = [f for f in files if args.run_code or f.stem not in ("humaneval", "mbpp")]
    if not files:
        raise UserError(f"{folder} holds none of {', '.join(READERS)} as NAME.jsonl (the last two "
                        "need --run-code)")
    asked = {f.stem: load_benchmark(f, args.prompts)[:args.eval_samples] for f in files}
    print(f"{'accuracy in %':40}" + "".join(f"{name[:9]:>10}" for name in asked) + "      mean")
    print(f"{'questions (--eval-samples)':40}" + "".join(f"{len(q):10}" for q in asked.values()))
    scores = {}
    for label, adapters, described in rows(folders, encoder_of, model):
        line = {}
        for name, questions in asked.items():
            runs = [score(questions, d if described else "", lora, model, tokenizer, args)
                    for d, lora in adapters(name)]
            line[name] = 100 * sum(runs) / len(runs)
        scores[label] = line | {"mean": sum(line.values()) / len(line)}
        print(f"{label:40}" + "".join(f"{x:10.1f}" for x in scores[label].values()), flush=True)
    if folders:
        write_json(folders[0] / "results_benchmarks.json", scores)
    return "; ".join(f"{label} {line['mean']:.1f} %" for label, line in scores.items())


def rows(folders: list[Path], encoder_of: EncoderOf, model: mistral.Mistral):
    """(label, benchmark → [(description, adapter)], whether the prompt shows the description: not
    beside an adapter, for these prompts say themselves what to do)."""
    def bare(name: str) -> list[tuple[str, LoRA | None]]:
        return [(d, None) for d in DESCRIPTIONS[name]]
    yield "base model", lambda name: bare(name)[:1], False
    yield "base model, description in its prompt", bare, True
    for folder in distinct(folders):
        t2l, encoder, _ = opened(folder, encoder_of)
        t2l_ops.check_model(t2l, model.cfg)

        def own(name: str) -> list:
            return [(d, t2l_ops.generate_lora(t2l, d, encoder)) for d in DESCRIPTIONS[name]]

        def another(name: str) -> list:
            others = [n for n in DESCRIPTIONS if DESCRIPTIONS[n] != DESCRIPTIONS[name]]
            return own(others[list(DESCRIPTIONS).index(name) % len(others)])
        yield f"T2L {folder.name}, own description", own, False
        yield f"T2L {folder.name}, another's", another, False


def score(questions: list[Question], description: str, lora: LoRA | None, model: mistral.Mistral,
          tokenizer: mistral.Tokenizer, args: argparse.Namespace) -> float:
    """The share of right answers."""
    prompts = [f"{description}\n\n{q.prompt}".strip() for q in questions]
    if args.likelihood and (questions[0].options or questions[0].gold in YES_NO):
        said = [likeliest(model, tokenizer, p, LETTERS[:len(q.options)] or YES_NO, lora)
                for p, q in zip(tqdm(prompts, leave=False), questions)]
        return sum(answer == q.gold for answer, q in zip(said, questions)) / len(questions)
    answers = []
    for start in tqdm(range(0, len(prompts), BATCH), desc=questions[0].benchmark, leave=False):
        answers += mistral.generate(model, tokenizer, prompts[start:start + BATCH], lora,
                                    NEW_TOKENS.get(questions[0].benchmark, 16))
    right = [is_right(q, answer, args.run_code) for q, answer in zip(questions, answers)]
    return sum(right) / len(right)


@torch.inference_mode()
def likeliest(model: mistral.Mistral, tokenizer: mistral.Tokenizer, prompt: str,
              options: Sequence[str], lora: LoRA | None) -> str:
    """The option with the highest log-likelihood as the answer to `prompt`."""
    start, answers = tokenizer.prompt(prompt), [tokenizer.encode(text) for text in options]
    ids = mistral.pad([start + answer for answer in answers])
    ids = ids.to(model.model["embed_tokens"].weight.device)
    keep = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in zip(keep, answers):
        row[len(start) - 1:len(start) - 1 + len(answer)] = True
    logits: Tensor = model(ids, lora=lora, keep=keep).float()            # (tokens, vocab)
    targets = torch.tensor(list(itertools.chain(*answers)), device=ids.device)
    said = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    sums = torch.stack([part.sum() for part in said.split([len(a) for a in answers])])
    return options[int(sums.argmax())]
