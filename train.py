"""Train Text-to-LoRA, through a frozen language model or towards a library of LoRAs
(arXiv 2506.06105, section 3).

    python train.py --mode sft                         # the hypernetwork; default model and tasks
    python train.py --mode mtlora                      # one ordinary LoRA for all tasks
    python train.py --mode mtlora --describe prompt    # … with the description in its prompt
    python train.py --mode lora                        # "oracles": one ordinary LoRA for each task
    python train.py --mode recon --loras out/lora      # the hypernetwork learns to give those LoRAs

All modes share one loop. Two things vary: where adapters come from, a hypernetwork or a table of
ordinary LoRAs; and the loss, that of the answers through the frozen model, or (recon) the distance
from a library's adapters. Reading order: defaults, where adapters come from, the losses, the loop,
what each mode sets up, main.
"""
import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.suite import drop_too_long, load_suite, train_on
from data.tasks import (Batch, Sample, Suite, Task, draw_from_each, draw_samples, draw_tasks,
                        encode, hold_out, mean_length, validation_samples)
from encoder import Encoder, OneHot, embed, init_linear_lda, load_encoder
from eval import Row, exact_match, report
from lora import TARGETS, LoRA, lora_scale, map_lora, save_peft
from mistral import Mistral, MistralConfig, load_model, load_tokenizer
from t2l import (HEADS, T2L, T2LConfig, adapted_modules, generate_lora, load_t2l, save_t2l,
                 t2l_config)
from utils import ranks
from utils.cli import UserError, note, run, train_args
from utils.early_stopping import EarlyStopping
from utils.files import dump_json, write_json
from utils.fused import set_up_layers
from utils.library import (ReconTargets, canonical, check_library_tasks, check_modules, delta_l1,
                           load_library, mean_delta_error, recon_summary, sizes_of)
from utils.neighbours import find_neighbours, save_neighbours
from utils.peft import reading_lora, save_reader
from utils.run_folder import (StepLog, check_same_t2l, diverged, finish_run, keep_freed_memory,
                              load_state, loss_text, open_run, peak_memory_text, run_dtype,
                              run_metadata, save_state, settings, start_run, table_command)
from utils.stats import mean
from utils.tokenizer import Tokenizer
from utils.weights import init_fields

DEFAULTS = {
    "--arch":       {"sft": "bank", "mtlora": "L", "lora": "L", "recon": "L"},
    "--rank":       dict.fromkeys(("sft", "mtlora", "lora"), T2LConfig.rank) | {"recon": None},
    "--alpha":      dict.fromkeys(("sft", "mtlora", "lora", "recon"), T2LConfig.alpha),
    "--steps":      {"sft": 540,  "mtlora": 540,  "lora": 150,  "recon": 600},
    "--batch-size": {"sft": 32,   "mtlora": 32,   "lora": 64,   "recon": 64},
    "--lr":         {"sft": 4e-4, "mtlora": 2e-3, "lora": 2e-3, "recon": 1e-2}}
WARMUP = 0.1                         # share of the steps in which the learning rate rises
MAX_TOKENS = 512                     # of a sample, prompt and answer
SAMPLES_PER_TASK = 8                 # lora: of each task in a batch, as in the paper
HELD_OUT = 16                        # lora: training instances kept to choose the best step
VALIDATIONS = 15                     # lora: in a full run
VALIDATE_EVERY = 25                  # steps, sft and mtlora: a forward pass, 1 % of the time
BASES_LR = 2.5                       # sft, recon: times --lr, for the bases of a bank
DELTA_SCALE = 10_000                 # recon in ΔW, whose entries are tiny; as the authors'


# --------------------------------------------------------------------- where adapters come from

class TextToLoRA(nn.Module):
    """sft, recon: every sample's adapter comes from its own description, the `held_out`'s too."""

    def __init__(self, t2l: T2L, encoder: Encoder, tasks: list[Task], fresh: bool = True,
                 z_scores: bool = False, held_out: Iterable[Sample] = ()):
        super().__init__()
        self.t2l, self.z_scores, self.reader = t2l, z_scores, encoder.lora
        descriptions = sorted({d for task in tasks for d in task.descriptions})
        self.rows = {text: i for i, text in enumerate(descriptions)}
        self.embeddings = embed(encoder, descriptions, progress="embedding descriptions")
        self.wordings = {task.name: list(task.descriptions) for task in tasks}
        if fresh:
            groups = list(self.by_task().values())
            init_linear_lda(t2l.task_encoder.mlp[0], self.embeddings, groups)
        if others := sorted({s.description for s in held_out} - self.rows.keys()):
            self.rows |= {text: len(self.rows) + i for i, text in enumerate(others)}
            self.embeddings = torch.cat([self.embeddings, embed(encoder, others)])

    def by_task(self) -> dict[str, Tensor]:
        """{task: its wordings' embeddings (k, e)}."""
        return {name: self.embeddings[[self.rows[text] for text in texts]]
                for name, texts in self.wordings.items()}

    def adapters(self, samples: list[Sample]) -> LoRA:
        """A[m] (b, n, r, d_in), B[m] (b, n, d_out, r), one for each sample; z-scores if asked."""
        rows = torch.tensor([self.rows[s.description] for s in samples])
        task_emb = self.embeddings[rows].to(next(self.t2l.parameters()).device)
        return self.t2l.raw(task_emb) if self.z_scores else self.t2l.adapters(task_emb)

    def param_groups(self, samples: list[Sample]) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def save(self, folder: Path, dtype: torch.dtype, metadata: dict) -> None:
        save_t2l(self.t2l, folder, dtype, metadata)
        if self.reader:
            save_reader(folder, self.reader)
        if not self.t2l.cfg.tasks:                               # a one-hot T2L reads no sentence
            save_neighbours(folder, find_neighbours(self.by_task(), self.wordings))


class LoRATable(nn.Module):
    """Ordinary LoRAs: mtlora, one row for all tasks; lora, a row for each task, its "oracle".

    Oracles start from the same random A (and B = 0). Each has parameters of its own, which AdamW
    leaves alone when they are not in the batch.
    """

    def __init__(self, cfg: MistralConfig, names: list[str] | None = None,
                 modules: Iterable[str] = TARGETS, rank: int = T2LConfig.rank,
                 alpha: float = T2LConfig.alpha):
        super().__init__()
        n, r, modules = cfg.num_hidden_layers, rank, adapted_modules(cfg, modules)
        self.scale, self.base_model = lora_scale(alpha, r), cfg.name
        start = {m: torch.empty(n, r, d_in).uniform_(-1, 1) / d_in ** 0.5
                 for m, (d_in, _) in modules.items()}
        self.rows = {name: i for i, name in enumerate(names or [])}
        self.A = nn.ModuleList(nn.ParameterDict({m: w.clone() for m, w in start.items()})
                               for _ in names or ["one for all"])
        self.B = nn.ModuleList(nn.ParameterDict({m: torch.zeros(n, d_out, r)
                                                 for m, (_, d_out) in modules.items()})
                               for _ in self.A)

    def adapters(self, samples: list[Sample]) -> LoRA:
        """One adapter for each sample, or one for all of them; alpha / √r is folded into B."""
        if self.rows:
            A, B = ({m: torch.stack([side[self.rows[s.task]][m] for s in samples])
                     for m in side[0]} for side in (self.A, self.B))
        else:
            A, B = dict(self.A[0]), dict(self.B[0])
        return A, {m: w * self.scale for m, w in B.items()}

    def param_groups(self, samples: list[Sample]) -> list[list[nn.Parameter]]:
        """The parameters that learn from these samples, apart for each oracle."""
        rows = sorted({self.rows[s.task] for s in samples}) if self.rows else [0]
        return [[*self.A[i].values(), *self.B[i].values()] for i in rows]

    def save(self, folder: Path, dtype: torch.dtype, metadata: dict) -> None:
        lora = map_lora(self.adapters([]), lambda w: w.detach().to("cpu", dtype))   # mtlora's one
        save_peft(folder, *lora, base_model=self.base_model)
        dump_json(folder / "config.json", metadata)


# ------------------------------------------------------------------------------- the two losses

def sft_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy on the answers' tokens, averaged within each sample, then over samples.

    logits (kept, vocab): only the positions that predict an answer token reach the vocabulary.
    """
    return F.cross_entropy(logits.float(), batch.targets, reduction="none") @ batch.weights


@torch.no_grad()
def validation_loss(lora_source: "TextToLoRA | LoRATable", samples: list[Sample], model: Mistral,
                    tokenizer: Tokenizer, describe: str = "lora") -> float:
    """sft_loss without dropout; nothing is drawn at random: training goes on as if without it."""
    lora = lora_source.eval().adapters(samples)
    lora_source.train()
    batch = encode(samples, tokenizer, describe).to(model.device)
    return sft_loss(model(batch.ids, lora=lora, keep=batch.keep), batch).item()


def recon_loss(lora: LoRA, target: LoRA, std: LoRA | None, space: str) -> Tensor:
    """The mean absolute difference from the library's adapters; both (b, n, …).

    In space "factors" (the paper's) of A and A*, B and B*, every entry in units of its `std` over
    the library (None: both are z-scores already); in space "delta" 10,000 times that of B A, B* A*.
    """
    if space == "delta":
        return DELTA_SCALE * delta_l1(lora, target)
    gaps = [(lora[i][m] - wanted).abs() / (std[i][m] if std else 1)
            for i, side in enumerate(target) for m, wanted in side.items()]
    return sum(gap.sum(dtype=torch.float32) for gap in gaps) / sum(gap.numel() for gap in gaps)


# --------------------------------------------------------------------------------- the loop

@dataclass
class Setup:
    """What a mode gives the loop."""
    lora_source: TextToLoRA | LoRATable
    draw: Callable[[int], Iterator[list[Sample]]]       # batches from that step on
    model: Mistral | None = None                        # sft, mtlora, lora
    tokenizer: Tokenizer | None = None
    targets: ReconTargets | None = None                 # recon
    evaluate: Callable[[Path], str] = lambda out: ""    # the finished run's folder → one line
    validate: Callable[[], float] | None = None         # sft, mtlora: a loss for the log
    unit: str = "tokens"                                # what speed counts


def lr_schedule(step: int, steps: int) -> float:
    """The learning rate's factor: linear up over the first tenth, linear down to zero."""
    return min((step + 1) / max(1, WARMUP * steps), (steps - step) / max(1, (1 - WARMUP) * steps))


def make_optimizer(lora_source: nn.Module) -> torch.optim.AdamW:
    """AdamW; a bank's bases learn faster than what reads and weighs them."""
    groups = [{"params": [parameter], "lr_factor":
               BASES_LR if name.startswith(("t2l.bank.A", "t2l.bank.B")) else 1.0}
              for name, parameter in lora_source.named_parameters()]
    return torch.optim.AdamW(groups, weight_decay=1e-2)


def train(setup: Setup, args: argparse.Namespace, log_file: Path,
          should_stop: Callable[[int], bool] = lambda step: False) -> int:
    """The training loop, to the last step or the first after which `should_stop(step)`; goes on
    from a saved state beside the log. Returns the tokens (recon: LoRAs) seen since this start."""
    lora_source = setup.lora_source.to(args.device).train()
    optimizer = make_optimizer(lora_source)
    start = load_state(log_file.parent, lora_source, optimizer)
    adapters, batches = ranks.share(lora_source, setup.draw(start))
    seen, bf16 = 0, args.dtype == torch.bfloat16

    with StepLog(log_file, start, args.steps, setup.unit) as log:
        for step in range(start, args.steps):
            torch.manual_seed(args.seed * 1_000_003 + step)       # dropout: the same when resumed
            lr = args.lr * lr_schedule(step, args.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_factor"]

            # ┌─ one training step, of --accumulate parts ─────────────────────────────────┐
            losses, count = [], 0
            for samples, weight in ranks.parts(adapters, next(batches), args.accumulate):
                with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=bf16):
                    lora = adapters(samples)                     # one a sample; mtlora: one for all
                if setup.targets:                                 # recon: no language model
                    target = setup.targets.select([s.task for s in samples])
                    loss = recon_loss(lora, target, setup.targets.loss_std, args.recon_space)
                    count += len(samples)
                else:                                             # sft, mtlora, lora
                    batch = encode(samples, setup.tokenizer, args.describe).to(args.device)
                    logits = setup.model(batch.ids, lora=lora, keep=batch.keep)    # (kept, vocab)
                    loss = sft_loss(logits, batch)
                    count += int((batch.ids != 0).sum())
                # Oracles share a batch: k times their mean loss gives each the gradient of its own.
                groups = lora_source.param_groups(samples)
                (loss * weight * len(groups)).backward()
                losses.append(loss.detach() * weight)
            loss, seen = ranks.joint(sum(losses), seen, count)
            norm = torch.stack([nn.utils.clip_grad_norm_(group, 1.0) for group in groups]).max()
            if not torch.isfinite(loss + norm):
                raise diverged(log_file.parent, step, loss.item(), norm.item())
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            # └────────────────────────────────────────────────────────────────────────────┘

            due = setup.validate and ((step + 1) % VALIDATE_EVERY == 0 or step + 1 == args.steps)
            log.write(step, loss.item(), lr, norm.item(), seen, setup.validate() if due else None)
            if args.save_every and ((step + 1) % args.save_every == 0 or log.interrupted):
                save_state(log_file.parent, lora_source, optimizer, step + 1, args)
            if log.interrupted or should_stop(step):
                break
    return seen


# ------------------------------------------------------------------------ what each mode sets up

def load_model_and_tasks(args: argparse.Namespace) -> tuple[Mistral, Tokenizer, Suite]:
    model = load_model(args.model, args.dtype, "cpu" if args.shard else args.device)
    model = ranks.shard(model, args.device) if args.shard else model
    tokenizer = load_tokenizer(args.model)
    set_up_layers(model, args)

    limit = min(MAX_TOKENS, model.cfg.max_position_embeddings)
    suite = train_on(drop_too_long(load_suite(args.tasks), tokenizer, limit, args.describe),
                     args.task, args.max_tasks)
    if args.eval_samples and not any(task.test for task in suite.train + suite.unseen):
        raise UserError("no task has test instances (a fifth of a task's, so give it 5); "
                        "--eval-samples 0 trains without a table")
    note(f"{model.cfg.name}, {len(suite.train)} training tasks, {len(suite.unseen)} unseen")
    return model, tokenizer, suite


def init_t2l(args: argparse.Namespace, cfg: T2LConfig) -> T2L:
    """A fresh hypernetwork of these sizes, or --init's if it is for the same models."""
    if not args.init:
        return T2L(cfg)
    found = load_t2l(args.init)
    check_same_t2l(args.init, vars(found.cfg), vars(cfg))
    t2l = T2L(replace(found.cfg, dropout=cfg.dropout, reader=cfg.reader))   # recon has no dropout
    t2l.load_state_dict(found.state_dict())
    return t2l


def setup_through_model(args: argparse.Namespace, source: Callable[..., TextToLoRA]) -> Setup:
    """sft: the hypernetwork; mtlora: one ordinary LoRA. Both through the language model."""
    model, tokenizer, suite = load_model_and_tasks(args)
    encoder = None if args.mode == "mtlora" else load_encoder(
        args.encoder, model, reading_lora(args.read_with, args.init, model, args.modules))
    torch.manual_seed(args.seed)
    held_out = validation_samples(suite)
    if args.mode == "sft":
        config = t2l_config(model.cfg, args.arch, encoder, args.modules, args.rank, args.alpha)
        lora_source = source(init_t2l(args, config), encoder, suite.train, not args.init,
                             held_out=held_out)
    else:
        lora_source = LoRATable(model.cfg, None, args.modules, args.rank, args.alpha)

    draw = partial(draw_samples, suite.train, tokenizer, args.batch_size, args.seed,
                   describe=args.describe)

    def evaluate(out: Path) -> str:
        return report([out], suite, model, tokenizer, lambda cfg: encoder, args.eval_samples, out)
    validate = partial(validation_loss, lora_source, held_out, model, tokenizer, args.describe)
    return Setup(lora_source, draw, model, tokenizer, None, evaluate, held_out and validate)


def setup_recon(args: argparse.Namespace) -> Setup:
    """recon: the hypernetwork, towards the adapters of a library; needs no language model."""
    # The library, and the tasks whose descriptions T2L reads.
    loras, base_model = load_library(args.loras, args.task, args.max_tasks, args.rank)
    goal = {name: canonical(lora) if args.canonical else lora for name, lora in loras.items()}
    if args.one_hot:                                        # a task's one description is its name
        encoder, tasks = OneHot(list(loras)), [Task(name, (), (), (name,), ()) for name in loras]
    else:
        encoder, known = load_encoder(args.encoder, args.model), load_suite(args.tasks).by_name()
        check_library_tasks(args.loras, loras, known)
        tasks = [known[name] for name in loras]

    # A fresh hypernetwork emits z-scores and starts at the mean; "factors" compares z-scores.
    n, rank, modules = sizes_of(next(iter(loras.values())))
    check_modules(args.loras, modules, args.modules)
    torch.manual_seed(args.seed)
    t2l = init_t2l(args, T2LConfig(
        args.arch, encoder.width, n, modules, rank, args.alpha, base_model=base_model,
        encoder=encoder.name, z_scored=not args.init, dropout=0.0,
        tasks=list(loras) if args.one_hot else []))
    z_scores = not args.init and args.recon_space == "factors"
    targets = ReconTargets(goal, z_scores, args.dtype, args.device)
    if not args.init:
        t2l.set_output_stats(targets.mean, targets.std)

    draw = partial(draw_tasks, tasks, args.batch_size, args.seed)

    def evaluate(out: Path) -> str:
        made = load_t2l(out)
        errors = [mean_delta_error(generate_lora(made, list(task.descriptions[:4]), encoder),
                                   goal[task.name]) for task in tasks]
        return recon_summary(mean(errors), goal, table_command(args, out))
    return Setup(TextToLoRA(t2l, encoder, tasks, not args.init, z_scores), draw, targets=targets,
                 evaluate=evaluate, unit="LoRAs")


def train_oracles(args: argparse.Namespace, out: Path) -> str:
    """lora: as many tasks side by side as a batch holds, then the next ones."""
    model, tokenizer, suite = load_model_and_tasks(args)
    tasks = sorted(suite.train, key=mean_length)             # neighbours need little padding
    [hold_out(task, HELD_OUT) for task in tasks]             # refuses short ones before any trains
    start_run(args, out)

    trained, seen, began = 0, 0, time.perf_counter()
    side_by_side = args.batch_size // SAMPLES_PER_TASK
    for i in range(0, len(tasks), side_by_side):
        group = tasks[i:i + side_by_side]
        if all((out / task.name / "adapter_config.json").exists() for task in group):
            continue                                         # resumed
        torch.manual_seed(args.seed)
        table = LoRATable(model.cfg, [task.name for task in group], args.modules, args.rank,
                          args.alpha).to(args.device)
        split = {task.name: hold_out(task, HELD_OUT) for task in group}
        held_out = {name: samples for name, (_, samples) in split.items()}
        stopping = EarlyStopping(
            [shorter for shorter, _ in split.values()],
            lambda name: validation_loss(table, held_out[name], model, tokenizer),
            lambda name: table.param_groups(held_out[name])[0], max(1, args.steps // VALIDATIONS))

        draw = partial(draw_from_each, stopping.active_tasks, SAMPLES_PER_TASK, args.seed)
        seen += train(Setup(table, draw, model, tokenizer), args,
                      out / f"log_{i // side_by_side:03}.jsonl", stopping.should_stop)
        for name, samples in held_out.items():
            save_oracle(out / name, table, samples, stopping.restore(name), model, tokenizer)
        trained += len(group)

    write_json(out / "config.json", settings(args) | run_metadata())
    seconds = time.perf_counter() - began
    return f"{trained} oracles in {seconds / 60:.1f} min ({seen / seconds:.0f} tokens/s)"


@torch.no_grad()
def save_oracle(folder: Path, table: LoRATable, held_out: list[Sample], best: dict,
                model: Mistral, tokenizer: Tokenizer) -> None:
    """A PEFT folder, with its scores on the held-out instances in the metadata."""
    row = Row("", "lora", lambda sample, rng: "", table.adapters)        # reads nothing
    right = exact_match(row, held_out, model, tokenizer)[folder.name]
    dtype = model.model["embed_tokens"].weight.dtype
    lora = map_lora(table.adapters(held_out[:1]), lambda w: w[0].to("cpu", dtype))
    save_peft(folder, *lora, table.base_model, task=folder.name,
              base_loss=f"{best['base_loss']:.4f}", best_step=str(best["step"]),
              validation_loss=f"{best['loss']:.4f}",
              validation_exact_match=f"{100 * mean(right):.1f}")


def train_one(args: argparse.Namespace, out: Path, source: Callable[..., TextToLoRA]) -> str:
    """sft, mtlora, recon: one source of adapters, from the first step to its evaluation."""
    setup = setup_recon(args) if args.mode == "recon" else setup_through_model(args, source)
    note(f"{sum(p.numel() for p in setup.lora_source.parameters()):,} trainable parameters")
    log_file = start_run(args, out, list(setup.targets.rows) if setup.targets else None)

    began = time.perf_counter()
    seen = train(setup, args, log_file)
    seconds = time.perf_counter() - began

    with finish_run(out, setup.lora_source) as scratch:
        setup.lora_source.save(scratch, args.dtype, settings(args) | run_metadata())
    line = (f"{args.steps} steps in {seconds / 60:.1f} min ({seen / seconds:.0f} {setup.unit}/s)"
            + loss_text(out / "log.jsonl"))
    return line + ("; " + setup.evaluate(out) if args.eval_samples else "")


# ------------------------------------------------------------------------------ the command

def main(source: Callable[..., TextToLoRA] = TextToLoRA) -> None:
    args = train_args(DEFAULTS, HEADS, SAMPLES_PER_TASK, init_fields)
    out = Path(args.out or f"out/{args.mode}")
    args.dtype = run_dtype(args, out)
    with ranks.joined(args, out) as out, open_run(args, out) as finished:
        if not finished:
            keep_freed_memory()
            began = time.perf_counter()
            line = train_oracles(args, out) if args.mode == "lora" else train_one(args, out, source)
            minutes = (time.perf_counter() - began) / 60
            print(f"{out}: {line}; {minutes:.1f} min in all{peak_memory_text()}")


if __name__ == "__main__":
    run(main)
