"""The folder of a training run: what it was told to do, its state, and going on with it.

config.json says the command line; log.jsonl has a line for every step; train_state.pt is there only
while the run is unfinished.
"""
import argparse
from pathlib import Path

import torch
from torch import nn

from data.files import UserError, read_json, write_json


def check_flags(args: argparse.Namespace, per_task: int) -> None:
    """UserError for numbers that make no sense, and for flags that the mode would ignore where
    that can be told from their defaults."""
    if min(args.steps, args.batch_size) < 1 or min(args.save_every, args.eval_samples) < 0 \
            or not args.lr > 0 or (args.max_tasks is not None and args.max_tasks < 1):
        raise UserError("--steps, --batch-size, --max-tasks and --lr must be positive, "
                        "--save-every and --eval-samples not negative")
    uses = {"--loras": ["recon"], "--one-hot": ["recon"], "--canonical": ["recon"],
            "--recon-space": ["recon"], "--init": ["sft", "recon"], "--task": ["lora", "recon"],
            "--max-tasks": ["lora", "recon"], "--compile": ["sft", "mtlora", "lora"],
            "--recompute": ["sft", "mtlora", "lora"]}
    for flag, modes in uses.items():
        given = getattr(args, flag[2:].replace("-", "_")) not in (None, False, "factors")
        if given and args.mode not in modes:
            raise UserError(f"--mode {args.mode} has no use for {flag}; leave it out")
    if args.mode == "recon" and not args.loras:
        raise UserError("--mode recon needs --loras DIR, a library as --mode lora writes it")
    if args.mode == "sft" and args.describe == "prompt":
        raise UserError("--mode sft reads the description in T2L: use --describe lora or both")
    if args.mode == "mtlora" and args.describe == "both":
        raise UserError("--mode mtlora has no hypernetwork: --describe prompt, or leave it out")
    if args.mode in ("lora", "recon") and args.describe != "lora":
        raise UserError(f"--mode {args.mode} has no description in the prompt: leave out "
                        "--describe")
    if args.mode == "lora" and args.batch_size % per_task:
        raise UserError(f"--batch-size {args.batch_size} is no multiple of {per_task}, the samples "
                        "of each task in a batch")


def save_state(out: Path, trainee: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """All that a resumed run needs besides the command line; beside, then renamed."""
    scratch = out / "train_state.pt.part"
    torch.save({"step": step, "trainee": trainee.state_dict(),
                "optimizer": optimizer.state_dict()}, scratch)
    scratch.replace(out / "train_state.pt")


def load_state(out: Path, trainee: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    state = torch.load(out / "train_state.pt", map_location="cpu", weights_only=True)
    trainee.load_state_dict(state["trainee"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def cut_log(path: Path, start: int) -> None:
    """Keep the log's first `start` lines: steps after the last saved state are run again."""
    lines = path.read_text(encoding="utf-8").splitlines(True)[:start] if path.exists() else []
    path.write_text("".join(lines), encoding="utf-8")


def settings(args: argparse.Namespace) -> dict:
    """What config.json records of the command line; a resumed run must agree with it."""
    kept = ("mode", "model", "encoder", "tasks", "task", "max_tasks", "loras", "init", "arch",
            "one_hot", "canonical", "recon_space", "steps", "batch_size", "lr", "seed", "describe")
    return {k: getattr(args, k) for k in kept} | {"dtype": str(args.dtype).split(".")[1]}


def check_folder(args: argparse.Namespace, out: Path) -> bool:
    """Whether the run is finished already; UserError where it cannot be begun or resumed."""
    config, state = out / "config.json", out / "train_state.pt"
    if args.init and Path(args.init).resolve() == out.resolve():
        raise UserError(f"--init {args.init} is the folder that this run writes; choose another "
                        "--out")
    found = read_json(config) if config.exists() else {}
    oracles = found.get("mode") == "lora"
    if not args.resume:
        if state.exists():
            raise UserError(f"{out} holds an unfinished run; go on with --resume, choose another "
                            f"--out, or delete {state}")
        if oracles:
            raise UserError(f"{out} holds the oracles of an earlier run; go on with --resume, "
                            "choose another --out, or delete it")
        return False
    if not (found.get("finished") or oracles or state.exists()):
        raise UserError(f"nothing to resume: {state} does not exist; a run writes it with "
                        "--save-every N")
    for key, value in settings(args).items():
        if found.get(key) != value:
            raise UserError(f"{config} says {key} = {found.get(key)!r}, the command line "
                            f"{value!r}; resume with the flags of the first run")
    return bool(found.get("finished"))


def begin(args: argparse.Namespace, out: Path, about: dict = {}) -> None:
    """Make the run's folder; of an earlier, finished run nothing is left in it."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("log*.jsonl", "results*.json", "t2l.safetensors", "adapter_config.json",
                    "adapter_model.safetensors"):
        for file in out.glob(pattern):
            file.unlink()
    write_json(out / "config.json", settings(args) | about)
