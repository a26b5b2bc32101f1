"""Train Text-to-LoRA, through a frozen language model or towards a library of LoRAs
(arXiv 2506.06105, section 3).

    python train.py --mode sft                         # the hypernetwork; default model and tasks
    python train.py --mode mtlora                      # one ordinary LoRA for all tasks
    python train.py --mode mtlora --describe prompt    # … with the description in its prompt
    python train.py --mode lora                        # "oracles": one ordinary LoRA for each task
    python train.py --mode recon --loras out/lora      # the hypernetwork learns to give those LoRAs

All modes share one loop: draw samples of mixed tasks, ask the trainee for their adapters, step on
the objective. Only the objective tells the paper's two trainings apart: through the frozen model,
the loss of the answers (sft); or the distance from the adapters of a library (recon).
Reading order: trainees, objectives, the loop, the oracles' best steps, command line, modes.
"""
import argparse
import json
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import lora as lora_ops
import mistral
import t2l as t2l_ops
from data.files import Parser, UserError, read_json, run, write_json
from data.memory import keep_freed_memory, peak_memory
from data.runs import begin, check_flags, check_folder, cut_log, load_state, save_state, settings
from data.suite import drop_too_long, load_suite
from data.tasks import (Batch, Sample, Suite, Task, draw_from_each, draw_samples, draw_tasks,
                        encode)
from encoder import Encoder, OneHot, load_encoder
from library import Library, canonical, fits_model, load_library, sizes_of
from lora import LoRA

MAX_TOKENS = 512                     # of a sample, prompt and answer
PER_TASK = 8                         # --mode lora: samples of each task in a batch, as in the paper
HELD_OUT = 16                        # --mode lora: training instances kept to choose the best step
STEPS = {"sft": 540, "mtlora": 540, "lora": 150, "recon": 600}
PATIENCE = 3
BATCH = {"sft": 32, "mtlora": 32, "lora": 64, "recon": 64}
LR = {"sft": 4e-4, "mtlora": 1e-3, "lora": 2e-3, "recon": 1e-2}


# -------------------------------------------------------------------------- what is trained

class TextToLoRA(nn.Module):
    """--mode sft and recon: every sample's adapter comes from its own description."""

    def __init__(self, t2l: t2l_ops.T2L, encoder: Encoder, tasks: list[Task], fresh: bool = True,
                 z_scores: bool = False):
        super().__init__()
        self.t2l, self.z_scores = t2l, z_scores
        descriptions = sorted({d for task in tasks for d in task.descriptions})
        self.rows = {text: i for i, text in enumerate(descriptions)}
        self.embeddings = t2l_ops.embed(encoder, descriptions, progress="embedding descriptions")
        if fresh:
            self.spread(tasks)

    @torch.no_grad()
    def spread(self, tasks: list[Task]) -> None:
        """Start the task encoder as a linear discriminant analysis (an addition to the paper).

        To a sentence encoder all instructions look alike, and wording moves the embedding as much
        as meaning does. So the first layer starts with the directions in which the tasks' means
        differ most, measured in units of the spread within a task; each output has mean 0 and
        variance 1. Everything is learnt on from there, as usual.
        """
        first, middle = self.t2l.task_encoder.mlp[0], self.embeddings.mean(0)
        own = [self.embeddings[[self.rows[d] for d in t.descriptions]] - middle for t in tasks]
        means = torch.stack([rows.mean(0) for rows in own])                        # (tasks, e)
        within = torch.cat([rows - rows.mean(0) for rows in own])
        cov = within.T @ within / len(within)
        cov += (0.2 * cov.diagonal().mean() + 1e-6) * torch.eye(len(cov))          # shrinkage
        root = torch.linalg.cholesky(cov)
        solve = torch.linalg.solve_triangular
        _, _, axes = torch.linalg.svd(solve(root, means.T, upper=False).T, full_matrices=False)
        axes = solve(root.T, axes[:first.out_features].T, upper=True).T            # (≤ z/2, e)
        sizes = (torch.cat(own) @ axes.T).square().mean(0).sqrt()
        known = sizes > 1e-4                              # few tasks span few directions
        first.weight[:len(axes)][known] = axes[known] / sizes[known, None]
        first.bias.copy_(-first.weight @ middle)

    def adapters(self, samples: list[Sample]) -> LoRA:
        rows = torch.tensor([self.rows[s.description] for s in samples])
        device = next(self.t2l.parameters()).device
        give = self.t2l.emit if self.z_scores else self.t2l.adapters
        return give(self.embeddings[rows].to(device))                    # one for each sample

    def parts(self, samples: list[Sample]) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def save(self, folder: Path, dtype: torch.dtype, about: dict) -> None:
        t2l_ops.save_t2l(self.t2l, folder, dtype, about)


class PlainLoRAs(nn.Module):
    """Ordinary LoRAs: --mode mtlora, one for all tasks; --mode lora, one for each, its "oracle".

    Oracles start from the same random A (and B = 0). Each has parameters of its own, which AdamW
    leaves alone when they are not in the batch.
    """

    def __init__(self, cfg: mistral.Config, names: list[str] | None = None):
        super().__init__()
        n, r, modules = cfg.num_hidden_layers, t2l_ops.Config.rank, t2l_ops.adapted_modules(cfg)
        self.scale, self.base_model = t2l_ops.Config.alpha / r ** 0.5, cfg.name
        start = {m: torch.empty(n, r, d_in).uniform_(-1, 1) / d_in ** 0.5
                 for m, (d_in, _) in modules.items()}
        self.rows = {name: i for i, name in enumerate(names or [])}
        self.A = nn.ModuleList(nn.ParameterDict({m: w.clone() for m, w in start.items()})
                               for _ in names or ["one for all"])
        self.B = nn.ModuleList(nn.ParameterDict({m: torch.zeros(n, d_out, r)
                                                 for m, (_, d_out) in modules.items()})
                               for _ in self.A)

    def parts(self, samples: list[Sample]) -> list[list[nn.Parameter]]:
        """The parameters that learn from these samples, apart for each oracle."""
        rows = sorted({self.rows[s.task] for s in samples}) if self.rows else [0]
        return [[*self.A[i].values(), *self.B[i].values()] for i in rows]

    def adapters(self, samples: list[Sample]) -> LoRA:
        if self.rows:
            A, B = ({m: torch.stack([side[self.rows[s.task]][m] for s in samples])
                     for m in side[0]} for side in (self.A, self.B))
        else:
            A, B = dict(self.A[0]), dict(self.B[0])
        return A, {m: w * self.scale for m, w in B.items()}

    def save(self, folder: Path, dtype: torch.dtype, about: dict) -> None:
        lora = lora_ops.mapped(self.adapters([]), lambda w: w.detach().to("cpu", dtype))
        lora_ops.save_peft(folder, *lora, base_model=self.base_model)
        write_json(folder / "config.json", about)


# --------------------------------------------------------------------------- the objectives

def answer_loss(model: mistral.Mistral, batch: Batch, lora: LoRA) -> Tensor:
    """Cross-entropy on the answers' tokens, averaged within each sample, then over samples.

    Only the positions that predict an answer token reach the vocabulary matmul.
    """
    device = model.model["embed_tokens"].weight.device
    return weighted_loss(model(batch.ids.to(device), lora=lora, keep=batch.keep.to(device)), batch)


def weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    """answer_loss from the logits (kept, vocab) of the positions that `batch.keep` marks."""
    targets, weights = batch.targets.to(logits.device), batch.weights.to(logits.device)
    return F.cross_entropy(logits.float(), targets, reduction="none") @ weights


class Answers:
    """--mode sft, mtlora, lora: the samples' loss through the frozen model."""
    unit = "tokens"

    def __init__(self, model: mistral.Mistral, tokenizer: mistral.Tokenizer, describe: str):
        self.model, self.tokenizer, self.describe, self.seen = model, tokenizer, describe, 0

    def __call__(self, samples: list[Sample], adapters: LoRA) -> Tensor:
        batch = encode(samples, self.tokenizer, self.describe)
        self.seen += int((batch.ids != 0).sum())
        return answer_loss(self.model, batch, adapters)


# --------------------------------------------------------------------------------- the loop

def schedule(step: int, steps: int, warmup: float = 0.1) -> float:
    """The learning rate's factor: linear up over the first tenth, linear down to zero."""
    return min((step + 1) / max(1, warmup * steps), (steps - step) / max(1, (1 - warmup) * steps))


def train(trainee: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[list[Sample]],
          objective: Answers | Library, args: argparse.Namespace, log_file: Path, start: int = 0,
          done: Callable[[int], bool] = lambda step: False) -> None:
    """The training loop, from step `start` to the last, or until `done` says so after a step."""
    trainee.train()
    cut_log(log_file, start)
    half = args.dtype == torch.bfloat16
    began, seen = time.perf_counter(), objective.seen
    bar = tqdm(range(start, args.steps), initial=start, total=args.steps, desc=args.mode)
    with open(log_file, "a", encoding="utf-8") as log:
        for step in bar:
            torch.manual_seed(args.seed * 1_000_003 + step)       # dropout: the same when resumed
            samples = next(batches)
            lr = optimizer.param_groups[0]["lr"] = args.lr * schedule(step, args.steps)

            # ┌─ one training step ────────────────────────────────────────────────────────┐
            with torch.autocast(args.device, torch.bfloat16, enabled=half):
                adapters = trainee.adapters(samples)
            loss = objective(samples, adapters)
            parts = trainee.parts(samples)            # oracles: each learns as if it were alone
            (loss * len(parts)).backward()
            norm = torch.stack([nn.utils.clip_grad_norm_(part, 1.0) for part in parts]).max()
            if not torch.isfinite(loss + norm):
                raise UserError(f"step {step}: loss {loss.item()}, gradient norm {norm.item()}; "
                                "try a smaller --lr")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            # └────────────────────────────────────────────────────────────────────────────┘

            log.write(json.dumps({"step": step, "loss": round(loss.item(), 5), "lr": lr,
                                  "grad_norm": round(norm.item(), 5)}) + "\n")
            log.flush()
            rate = (objective.seen - seen) / (time.perf_counter() - began)
            bar.set_postfix_str(f"loss {loss.item():.2f}, {rate:.0f} {objective.unit}/s")
            if args.save_every and (step + 1) % args.save_every == 0:
                save_state(log_file.parent, trainee, optimizer, step + 1)
            if done(step):
                break


def compile_layers(model: mistral.Mistral) -> None:
    """One graph for all layers and batch shapes (a second one beyond PLAIN_ATTENTION_UP_TO)."""
    for layer in model.model["layers"]:
        layer.compile(dynamic=True)


# ------------------------------------------------------------------- the oracles' best steps

class BestSteps:
    """--mode lora: every oracle as it was when its held-out instances liked it best.

    Looks every `every` steps; a task whose loss fell by less than 0.001 in `PATIENCE` looks leaves
    `in_play`, and with it the batches.
    """

    def __init__(self, trainee: PlainLoRAs, tasks: list[Task], objective: Answers, every: int):
        self.trainee, self.objective, self.every = trainee, objective, every
        self.in_play, self.held_out = [], {}
        self.best: dict[str, dict] = {}
        self.weights: dict[str, list[Tensor]] = {}
        for task in tasks:
            n = n_held_out(task)
            self.in_play.append(replace(task, train=task.train[:-n]))
            self.held_out[task.name] = [Sample(task.name, task.descriptions[0], text, answers)
                                        for text, answers in task.train[-n:]]
        self.look(0)                                   # B = 0: the base model
        self.base = {name: best["validation_loss"] for name, best in self.best.items()}

    @torch.no_grad()
    def look(self, step: int) -> None:
        for task in list(self.in_play):
            samples = self.held_out[task.name]
            batch = encode(samples, self.objective.tokenizer)
            loss = answer_loss(self.objective.model, batch, self.trainee.adapters(samples)).item()
            best = self.best.setdefault(task.name, {"validation_loss": torch.inf, "marked": 0,
                                                    "mark": torch.inf})
            if loss < best["validation_loss"]:
                best |= {"validation_loss": loss, "best_step": step}
                self.weights[task.name] = [w.clone() for w in self.trainee.parts(samples)[0]]
            if loss < best["mark"] - 1e-3:
                best |= {"mark": loss, "marked": step}
            elif step - best["marked"] >= PATIENCE * self.every:
                self.in_play.remove(task)

    def done(self, step: int) -> bool:
        if (step + 1) % self.every == 0:
            self.look(step + 1)
        return not self.in_play

    @torch.no_grad()
    def save(self, out: Path, dtype: torch.dtype) -> None:
        """A PEFT folder for each task, its scores on the held-out instances in the metadata."""
        from eval import Row, mean, right_answers
        for name, samples in self.held_out.items():
            for parameter, w in zip(self.trainee.parts(samples)[0], self.weights[name]):
                parameter.copy_(w)
            lora = self.trainee.adapters(samples[:1])
            row = Row("", "lora", lambda sample, rng: sample.description, self.trainee.adapters)
            with torch.compiler.set_stance("force_eager"):          # many shapes: uncompiled
                right = right_answers(row, samples, self.objective.model, self.objective.tokenizer)
            lora_ops.save_peft(out / name, *lora_ops.mapped(lora, lambda w: w[0].to("cpu", dtype)),
                               self.trainee.base_model, task=name,
                               base_loss=f"{self.base[name]:.4f}",
                               validation_loss=f"{self.best[name]['validation_loss']:.4f}",
                               validation_exact_match=f"{100 * mean(right[name]):.1f}",
                               best_step=str(self.best[name]["best_step"]))


def n_held_out(task: Task) -> int:
    """How many of the training instances an oracle is chosen by: a fifth, at most HELD_OUT."""
    if len(task.train) < 5:
        raise UserError(f"{task.name} has {len(task.train)} training instances; an oracle needs at "
                        "least 5, a fifth of them to choose its best step")
    return min(HELD_OUT, len(task.train) // 5)


# ----------------------------------------------------------------------------- command line

def flags() -> Parser:
    parser = Parser("Train Text-to-LoRA.")
    add = parser.add_argument

    def by_mode(flag: str, kind: type, values: dict, text: str) -> None:
        said = ", ".join(f"{mode} {value}" for mode, value in values.items())
        add(flag, type=kind, default=None, help=f"{text} (default: {said})%(default).0s")

    add("--mode", choices=list(STEPS), required=True, help="what to train")
    parser.models(encoder="all-MiniLM-L6-v2")
    parser.folder("--tasks", "task files", "the built-in suite")
    parser.folder("--out", "the run's folder", "out/MODE")
    parser.folder("--loras", "recon: the library, a folder of PEFT folders named as tasks", "none")
    parser.folder("--init", "sft, recon: start from this T2L", "a fresh one")
    add("--task", nargs="+", metavar="NAME", default=None, help="lora, recon: these tasks only")
    add("--max-tasks", type=int, default=None, metavar="N",
        help="lora, recon: as many tasks, of a fixed draw (default: lora 64, recon all)"
        "%(default).0s")
    add("--arch", choices=["L", "M", "S"], default="L", help="the hypernetwork's head")
    add("--one-hot", action="store_true",
        help="recon: a task's number in place of its description's embedding")
    add("--canonical", action="store_true",
        help="recon: bring the library's A and B into one form first; B A stays the same")
    add("--recon-space", choices=["factors", "delta"], default="factors",
        help="recon: the distance between A and A*, B and B*; or between B A and B* A*")
    by_mode("--steps", int, STEPS, "training steps; lora: of each task at most")
    by_mode("--batch-size", int, BATCH, "samples a step, lora: 8 of each task; recon: LoRAs a step")
    by_mode("--lr", float, LR, "peak learning rate")
    add("--seed", type=int, default=0, help="of initialisation, sampling and dropout")
    add("--describe", choices=["lora", "prompt", "both"], default="lora",
        help="where the description goes: only into the hypernetwork, only into the prompt, both")
    add("--save-every", type=int, default=100, metavar="N",
        help="steps between saved states, 0: none; lora saves every task when it is done")
    add("--resume", action="store_true", help="go on from the last saved state in --out")
    add("--eval-samples", type=int, default=6, metavar="N",
        help="test inputs per unseen task at the end (seen tasks: a twentieth; recon: per task of "
        "the library); 0: no evaluation")
    add("--compile", action="store_true",
        help="torch.compile the layers: half a minute first, then faster; needs a C++ compiler")
    add("--recompute", action="store_true",
        help="keep only the layers' inputs and compute them again in the backward pass: a third "
        "slower, a fraction of the memory")
    return parser


def parse_args() -> argparse.Namespace:
    """The flags, with the mode's own defaults; UserError where they make no sense together."""
    args = flags().parse_args()
    args.dtype = getattr(torch, args.dtype)
    for key, values in (("steps", STEPS), ("batch_size", BATCH), ("lr", LR)):
        if getattr(args, key) is None:
            setattr(args, key, values[args.mode])
    if args.mode == "lora":
        args.save_every = 0                          # every task is saved when it is done
        if args.max_tasks is None and not args.task:
            args.max_tasks = 64
    check_flags(args, PER_TASK)
    return args


def chosen(names: list[str], args: argparse.Namespace) -> list[str]:
    """--task's names, or the first --max-tasks of one fixed draw: 8 tasks are among the 16."""
    for name in set(args.task or ()) - set(names):
        raise UserError(f"there is no {name!r} to train on; there are {', '.join(names[:5])} … "
                        f"({len(names)} in all)")
    names = list(dict.fromkeys(args.task or ())) or \
        random.Random(0).sample(sorted(names), len(names))
    return names[:args.max_tasks]


# -------------------------------------------------------------------------------- the modes

def load_all(args: argparse.Namespace, suite: Suite | None = None
             ) -> tuple[mistral.Mistral, mistral.Tokenizer, Suite]:
    model = mistral.load_model(args.model, args.dtype, args.device)
    tokenizer = mistral.load_tokenizer(args.model)
    limit = min(MAX_TOKENS, model.cfg.max_position_embeddings)
    suite = drop_too_long(suite or load_suite(args.tasks), tokenizer, limit, args.describe)
    if args.eval_samples and not any(task.test for task in suite.train + suite.unseen):
        raise UserError("no task has test instances; --eval-samples 0 trains without a table")
    print(f"{model.cfg.name}, {len(suite.train)} training tasks, {len(suite.unseen)} unseen",
          file=sys.stderr)
    model.recompute = args.recompute
    if args.compile:
        compile_layers(model)
    return model, tokenizer, suite


def mean_length(task: Task) -> float:
    """Characters of an instance: neighbours in this order share a batch with little padding."""
    return sum(len(text) + len(answers[0]) for text, answers in task.train) / len(task.train)


def train_oracles(args: argparse.Namespace, out: Path) -> str:
    """--mode lora: as many tasks side by side as a batch holds, then the next ones."""
    model, tokenizer, suite = load_all(args)
    tasks = {task.name: task for task in suite.train}
    tasks = [tasks[name] for name in chosen(list(tasks), args)]
    tasks.sort(key=mean_length)
    for task in tasks:
        n_held_out(task)                                     # before the first is trained
    if not args.resume:
        begin(args, out)
    began, trained = time.perf_counter(), 0
    objective, together = Answers(model, tokenizer, "lora"), args.batch_size // PER_TASK
    for i in range(0, len(tasks), together):
        side_by_side = tasks[i:i + together]
        if all((out / task.name).exists() for task in side_by_side):
            continue                                         # resumed
        torch.manual_seed(args.seed)
        trainee = PlainLoRAs(model.cfg, [task.name for task in side_by_side]).to(args.device)
        best = BestSteps(trainee, side_by_side, objective, every=max(1, args.steps // 15))
        batches = draw_from_each(best.in_play, PER_TASK, args.seed)
        train(trainee, new_optimizer(trainee, args), batches, objective, args,
              out / f"log_{i // together:03}.jsonl", done=best.done)
        best.save(out, args.dtype)
        trained += len(side_by_side)
    write_json(out / "config.json", settings(args) | finished())
    seconds = time.perf_counter() - began
    rate = objective.seen / seconds
    return f"{trained} oracles in {seconds / 60:.1f} min ({rate:.0f} tokens/s)"


def through_the_model(args: argparse.Namespace):
    """--mode sft, mtlora: (trainee, draw(start), objective, evaluate(out) → one line)."""
    model, tokenizer, suite = load_all(args)
    encoder = None if args.mode == "mtlora" else load_encoder(args.encoder, args.model)
    torch.manual_seed(args.seed)
    if args.mode == "mtlora":
        trainee = PlainLoRAs(model.cfg)
    else:
        t2l = start_from(args, t2l_ops.for_model(model.cfg, args.arch, encoder))
        trainee = TextToLoRA(t2l, encoder, suite.train, fresh=not args.init)

    def draw(start: int) -> Iterator[list[Sample]]:
        return draw_samples(suite.train, tokenizer, args.batch_size, args.seed, start,
                            args.describe)

    def evaluate(out: Path) -> str:
        from eval import report
        with torch.compiler.set_stance("force_eager"):              # many shapes: uncompiled
            return report([out], suite, model, tokenizer, lambda cfg: encoder, args.eval_samples)
    return trainee.to(args.device), draw, Answers(model, tokenizer, args.describe), evaluate


def from_a_library(args: argparse.Namespace):
    """--mode recon: the same four things; the language model is only needed to evaluate."""
    loras, base_model = load_library(args.loras)
    loras = {name: loras[name] for name in chosen(list(loras), args)}
    if args.eval_samples:                                   # before hours, not after them
        fits_model(loras, base_model, mistral.read_config(args.model))
    if args.eval_samples or not args.one_hot:
        suite = load_suite(args.tasks)
        known = suite.by_name()
        for name in loras:
            if name not in known or args.eval_samples and not known[name].test:
                raise UserError(f"{args.loras}/{name}: no task of that name with test inputs; give "
                                "its --tasks, or use --one-hot and --eval-samples 0")
    targets = {name: canonical(lora) if args.canonical else lora for name, lora in loras.items()}
    if args.one_hot:
        encoder = OneHot(list(loras))
        tasks = [Task(name, (), (), (name,), ()) for name in loras]
    else:
        encoder, tasks = load_encoder(args.encoder, args.model), [known[name] for name in loras]
    n, rank, modules = sizes_of(loras[tasks[0].name])
    sizes = t2l_ops.Config(
        args.arch, encoder.width, n, modules, rank,
        base_model=base_model, encoder=encoder.name, z_scored=not args.init, dropout=0.0,
        tasks=list(loras) if args.one_hot else [])
    torch.manual_seed(args.seed)
    t2l, z_scores = start_from(args, sizes), not args.init and args.recon_space == "factors"
    objective = Library(targets, args.recon_space, z_scores, args.dtype)
    if not args.init:
        t2l.emit_z_scores_of(objective.mean, objective.std)

    def evaluate(out: Path) -> str:
        from compare import report_library
        model, tokenizer, fitted = load_all(args, suite)
        return report_library(loras, base_model, [out], fitted, model, tokenizer,
                              lambda cfg: encoder, args.eval_samples)
    trainee = TextToLoRA(t2l, encoder, tasks, not args.init, z_scores).to(args.device)
    return (trainee, lambda start: draw_tasks(tasks, args.batch_size, args.seed, start), objective,
            evaluate)


def start_from(args: argparse.Namespace, sizes: t2l_ops.Config) -> t2l_ops.T2L:
    """A fresh hypernetwork of these sizes, or --init's if it is for the same models."""
    if not args.init:
        return t2l_ops.T2L(sizes)
    t2l = t2l_ops.load_t2l(args.init)
    for key in ("arch", "emb_size", "n_layers", "modules", "rank", "base_model", "encoder",
                "tasks"):
        found, wanted = getattr(t2l.cfg, key), getattr(sizes, key)
        if found != wanted and not (key == "base_model" and mistral.same_model(found, wanted)):
            raise UserError(f"--init {args.init}: its {key} is {found!r}, this run's {wanted!r}")
    t2l.cfg.dropout = sizes.dropout                         # recon has none, sft has the paper's
    for module in t2l.modules():
        if isinstance(module, nn.Dropout):
            module.p = sizes.dropout
    return t2l


def new_optimizer(trainee: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trainee.parameters(), lr=args.lr, weight_decay=1e-2)


def train_one(args: argparse.Namespace, out: Path) -> str:
    """--mode sft, mtlora, recon: one trainee from the first step to its evaluation."""
    setup = from_a_library if args.mode == "recon" else through_the_model
    trainee, draw, objective, evaluate = setup(args)
    print(f"{sum(p.numel() for p in trainee.parameters()):,} trainable parameters", file=sys.stderr)
    optimizer = new_optimizer(trainee, args)
    about = {"library": list(objective.rows)} if args.mode == "recon" else {}
    if not args.resume:
        begin(args, out, about)
    elif about and read_json(out / "config.json").get("library") != about["library"]:
        raise UserError(f"{args.loras} holds other LoRAs than when {out} was begun; put them back, "
                        "or begin anew in another --out")
    start = load_state(out, trainee, optimizer) if args.resume else 0
    began = time.perf_counter()
    train(trainee, optimizer, draw(start), objective, args, out / "log.jsonl", start)
    seconds = time.perf_counter() - began
    trainee.save(out, args.dtype, settings(args) | about | finished())
    (out / "train_state.pt").unlink(missing_ok=True)
    line = (f"{args.steps} steps in {seconds / 60:.1f} min ({objective.seen / seconds:.0f} "
            f"{objective.unit}/s)")
    return line + ("; " + evaluate(out) if args.eval_samples else "")


def finished() -> dict:
    return {"finished": True,
            "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])}


def main() -> None:
    args = parse_args()
    out = Path(args.out or f"out/{args.mode}")
    if check_folder(args, out):
        print(f"{out} is finished: {args.steps} steps of {args.mode}")
        return
    keep_freed_memory()
    began = time.perf_counter()
    line = (train_oracles if args.mode == "lora" else train_one)(args, out)
    peak = peak_memory()
    print(f"{out}: {line}; {(time.perf_counter() - began) / 60:.1f} min in all"
          + (f", peak memory {peak:.1f} GiB" if peak else ""))


if __name__ == "__main__":
    run(main)
