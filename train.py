"""Train Text-to-LoRA through a frozen language model (arXiv 2506.06105, section 3.2).

    python train.py --mode sft                         # the hypernetwork; default model and tasks
    python train.py --mode mtlora                      # one ordinary LoRA for all tasks
    python train.py --mode mtlora --describe prompt    # … with the description in its prompt

All modes share one loop: draw samples of mixed tasks, ask the trainee for their adapters, run the
frozen model with them, and step on the loss of the answer tokens. Reading order: what is trained,
the loop, a run's folder, the command line.
"""
import argparse
import ctypes
import json
import shlex
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import lora as lora_ops
import mistral
import t2l as t2l_ops
from data.files import Parser, UserError, read_json, run, write_json
from data.tasks import Batch, Sample, Suite, Task, draw_samples, encode, fitting, load_suite
from encoder import Encoder, load_encoder
from lora import LoRA

MAX_TOKENS = 512                     # of a sample, prompt and answer
LR = {"sft": 4e-4, "mtlora": 1e-3}


# -------------------------------------------------------------------------- what is trained

class TextToLoRA(nn.Module):
    """--mode sft: every sample's adapter comes from its own description."""

    def __init__(self, t2l: t2l_ops.T2L, encoder: Encoder, tasks: list[Task]):
        super().__init__()
        self.t2l = t2l
        descriptions = sorted({d for task in tasks for d in task.descriptions})
        self.rows = {text: i for i, text in enumerate(descriptions)}
        self.embeddings = t2l_ops.embed(encoder, descriptions, progress="embedding descriptions")
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
        return self.t2l.adapters(self.embeddings[rows].to(device))       # one for each sample

    def save(self, folder: Path, dtype: torch.dtype, about: dict) -> None:
        t2l_ops.save_t2l(self.t2l, folder, dtype, about)


class MultiTaskLoRA(nn.Module):
    """--mode mtlora: one LoRA for all tasks; it knows the task only if the prompt says it."""

    def __init__(self, sizes: t2l_ops.Config):
        super().__init__()
        n, r, self.base_model = sizes.n_layers, sizes.rank, sizes.base_model
        self.scale = sizes.alpha / r ** 0.5
        self.A = nn.ParameterDict({m: torch.empty(n, r, d_in).uniform_(-1, 1) / d_in ** 0.5
                                   for m, (d_in, _) in sizes.modules.items()})
        self.B = nn.ParameterDict({m: torch.zeros(n, d_out, r)
                                   for m, (_, d_out) in sizes.modules.items()})

    def adapters(self, samples: list[Sample]) -> LoRA:
        return dict(self.A), {m: w * self.scale for m, w in self.B.items()}

    def save(self, folder: Path, dtype: torch.dtype, about: dict) -> None:
        A, B = self.adapters([])
        lora_ops.save_peft(folder, *({m: w.detach().to("cpu", dtype) for m, w in side.items()}
                                     for side in (A, B)), base_model=self.base_model)
        write_json(folder / "config.json", about)


# --------------------------------------------------------------------------------- the loop

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


def schedule(step: int, steps: int, warmup: float = 0.1) -> float:
    """The learning rate's factor: linear up over the first tenth, linear down to zero."""
    return min((step + 1) / max(1, warmup * steps), (steps - step) / max(1, (1 - warmup) * steps))


def train(trainee: nn.Module, model: mistral.Mistral, tokenizer: mistral.Tokenizer, suite: Suite,
          args: argparse.Namespace, out: Path) -> int:
    """The training loop. Returns the number of (not padded) tokens it processed."""
    trainee.train()
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=args.lr, weight_decay=1e-2)
    start = load_state(out, trainee, optimizer) if args.resume else 0
    cut_log(out / "log.jsonl", start)
    half = args.dtype == torch.bfloat16
    batches = draw_samples(suite.train, tokenizer, args.batch_size, args.seed, start,
                           args.describe)
    began, tokens = time.perf_counter(), 0
    bar = tqdm(range(start, args.steps), initial=start, total=args.steps, desc=args.mode)
    with open(out / "log.jsonl", "a", encoding="utf-8") as log:
        for step in bar:
            torch.manual_seed(args.seed * 1_000_003 + step)       # dropout: the same when resumed
            samples = next(batches)
            batch = encode(samples, tokenizer, args.describe)
            lr = optimizer.param_groups[0]["lr"] = args.lr * schedule(step, args.steps)

            # ┌─ one training step ────────────────────────────────────────────────────────┐
            with torch.autocast(args.device, torch.bfloat16, enabled=half):
                adapters = trainee.adapters(samples)
            loss = answer_loss(model, batch, adapters)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
            if not torch.isfinite(loss + norm):
                raise UserError(f"step {step}: loss {loss.item()}, gradient norm {norm.item()}; "
                                "try a smaller --lr")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            # └────────────────────────────────────────────────────────────────────────────┘

            tokens += int((batch.ids != 0).sum())
            log.write(json.dumps({"step": step, "loss": round(loss.item(), 5), "lr": lr,
                                  "grad_norm": round(norm.item(), 5)}) + "\n")
            log.flush()
            bar.set_postfix_str(f"loss {loss.item():.2f}, "
                                f"{tokens / (time.perf_counter() - began):.0f} tokens/s")
            if args.save_every and (step + 1) % args.save_every == 0:
                save_state(out, trainee, optimizer, step + 1)
    return tokens


def peak_memory() -> float:
    """This process' peak memory so far, GiB; 0 where the system does not tell as Linux does.

    Not getrusage: after a fork and exec its peak begins with that of the parent.
    """
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    return int(text.split("VmHWM:")[1].split()[0]) / 2 ** 20 if "VmHWM:" in text else 0.0


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of up to 1 GB: otherwise every step gives its activations back
    to the system and pays for fresh, zeroed pages, a tenth of its time. Elsewhere: nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 1 << 30)                          # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)                    # M_TRIM_THRESHOLD


def compile_layers(model: mistral.Mistral) -> None:
    """One graph for all layers and batch shapes (a second one beyond PLAIN_ATTENTION_UP_TO)."""
    for layer in model.model["layers"]:
        layer.compile(dynamic=True)


# ---------------------------------------------------------------------------- a run's folder

def save_state(out: Path, trainee: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """All that a resumed run needs besides the command line; beside, then renamed."""
    scratch = out / "train_state.pt.part"
    torch.save({"step": step, "trainee": trainee.state_dict(),
                "optimizer": optimizer.state_dict()}, scratch)
    scratch.replace(out / "train_state.pt")


def load_state(out: Path, trainee: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    state = torch.load(out / "train_state.pt", weights_only=True)
    trainee.load_state_dict(state["trainee"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def cut_log(path: Path, start: int) -> None:
    """Keep the log's first `start` lines: steps after the last saved state are run again."""
    lines = path.read_text(encoding="utf-8").splitlines(True)[:start] if path.exists() else []
    path.write_text("".join(lines), encoding="utf-8")


def settings(args: argparse.Namespace) -> dict:
    """What config.json records of the command line; a resumed run must agree with it."""
    kept = ("mode", "model", "encoder", "tasks", "arch", "steps", "batch_size", "lr", "seed",
            "describe")
    return {k: getattr(args, k) for k in kept} | {"dtype": str(args.dtype).split(".")[1]}


def check_folder(args: argparse.Namespace, out: Path) -> bool:
    """Whether the run is finished already; UserError where it cannot be begun or resumed."""
    config, state = out / "config.json", out / "train_state.pt"
    if not args.resume:
        if state.exists():
            raise UserError(f"{out} holds an unfinished run; go on with --resume, choose another "
                            f"--out, or delete {state}")
        return False
    found = read_json(config) if config.exists() else {}
    if not found.get("finished") and not state.exists():
        raise UserError(f"nothing to resume: {state} does not exist; a run writes it with "
                        "--save-every N")
    for key, value in settings(args).items():
        if found.get(key) != value:
            raise UserError(f"{config} says {key} = {found.get(key)!r}, the command line "
                            f"{value!r}; resume with the flags of the first run")
    return bool(found.get("finished"))


def begin(args: argparse.Namespace, out: Path) -> None:
    """Make the run's folder; of an earlier, finished run nothing is left in it."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("log.jsonl", "results.json", "t2l.safetensors", "adapter_config.json",
                 "adapter_model.safetensors"):
        (out / name).unlink(missing_ok=True)
    write_json(out / "config.json", settings(args))


# ----------------------------------------------------------------------------- command line

def parse_args() -> argparse.Namespace:
    parser = Parser("Train Text-to-LoRA.")
    add = parser.add_argument
    add("--mode", choices=["sft", "mtlora"], required=True, help="what to train")
    parser.folder("--model", "a Hugging Face folder", "SmolLM2-135M-Instruct")
    parser.folder("--encoder", "a Hugging Face BERT folder", "all-MiniLM-L6-v2")
    parser.folder("--tasks", "task files", "data/tasks")
    parser.folder("--out", "the run's folder", "out/MODE")
    add("--arch", choices=["L", "M", "S"], default="L", help="the hypernetwork's head")
    add("--steps", type=int, default=540, help="training steps")
    add("--batch-size", type=int, default=32, help="samples a step")
    add("--lr", type=float, default=None,
        help=f"peak learning rate (default: {LR['sft']}; mtlora {LR['mtlora']})%(default).0s")
    add("--seed", type=int, default=0, help="of initialisation, sampling and dropout")
    add("--describe", choices=["lora", "prompt", "both"], default="lora",
        help="where the description goes: only into the hypernetwork, only into the prompt, both")
    add("--save-every", type=int, default=100, metavar="N",
        help="steps between saved states; 0: none")
    add("--resume", action="store_true", help="go on from the last saved state in --out")
    add("--eval-samples", type=int, default=6, metavar="N",
        help="test inputs per unseen task at the end (seen tasks: a twentieth); 0: no evaluation")
    add("--compile", action="store_true",
        help="torch.compile the layers: half a minute first, then faster; needs a C++ compiler")
    add("--recompute", action="store_true",
        help="keep only the layers' inputs and compute them again in the backward pass: a third "
        "slower, a fraction of the memory")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where everything runs")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16",
        help="the language model's precision; the hypernetwork's weights are float32")
    args = parser.parse_args()
    args.dtype, args.lr = getattr(torch, args.dtype), LR[args.mode] if args.lr is None else args.lr
    if min(args.steps, args.batch_size) < 1 or min(args.save_every, args.eval_samples) < 0 \
            or not args.lr > 0:
        raise UserError("--steps, --batch-size and --lr must be positive, --save-every and "
                        "--eval-samples not negative")
    if args.mode == "sft" and args.describe == "prompt":
        raise UserError("--mode sft reads the description in T2L: use --describe lora or both")
    if args.mode == "mtlora" and args.describe == "both":
        raise UserError("--mode mtlora has no hypernetwork: --describe prompt, or leave it out")
    return args


def new_trainee(args: argparse.Namespace, model: mistral.Mistral, encoder: Encoder,
                suite: Suite) -> nn.Module:
    torch.manual_seed(args.seed)
    sizes = t2l_ops.for_model(model.cfg, args.arch, encoder)
    if args.mode == "mtlora":
        return MultiTaskLoRA(sizes).to(args.device)
    return TextToLoRA(t2l_ops.T2L(sizes), encoder, suite.train).to(args.device)


def main() -> None:
    args = parse_args()
    out = Path(args.out or f"out/{args.mode}")
    if check_folder(args, out):
        print(f"{out} is finished: {args.steps} steps of {args.mode}")
        return
    keep_freed_memory()
    began = time.perf_counter()
    model = mistral.load_model(args.model, args.dtype, args.device)
    tokenizer, encoder = mistral.load_tokenizer(args.model), load_encoder(args.encoder)
    limit = min(MAX_TOKENS, model.cfg.max_position_embeddings)
    suite = fitting(load_suite(args.tasks), tokenizer, limit, args.describe)
    print(f"{model.cfg.name}, {encoder.name}, {len(suite.train)} training tasks, "
          f"{len(suite.unseen)} unseen", file=sys.stderr)
    trainee = new_trainee(args, model, encoder, suite)
    print(f"{sum(p.numel() for p in trainee.parameters()):,} trainable parameters", file=sys.stderr)
    if not args.resume:
        begin(args, out)
    model.recompute = args.recompute
    if args.compile:
        compile_layers(model)

    train_began = time.perf_counter()
    tokens = train(trainee, model, tokenizer, suite, args, out)
    seconds = time.perf_counter() - train_began
    trainee.save(out, args.dtype, settings(args) | {
        "finished": True, "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])})
    (out / "train_state.pt").unlink(missing_ok=True)
    line = f"{args.steps} steps in {seconds / 60:.1f} min ({tokens / seconds:.0f} tokens/s)"
    if args.eval_samples:
        from eval import report
        if args.compile:                              # evaluation's many shapes run uncompiled
            del model
            model = mistral.load_model(args.model, args.dtype, args.device)
        line += "; " + report([out], suite, model, tokenizer, encoder, args.eval_samples)
    peak = peak_memory()
    print(f"{out}: {line}; {(time.perf_counter() - began) / 60:.1f} min in all"
          + (f", peak memory {peak:.1f} GiB" if peak else ""))


if __name__ == "__main__":
    run(main)
