"""The folder of a training run: what it was told to do, its state, and going on with it.

config.json says the command line; log.jsonl has a line for every step; train_state.pt is there only
while the run is unfinished. At the end: the memory of this process.
"""
import argparse
import ctypes
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from utils.cli import UserError
from utils.files import read_json, write_json
from utils.peft import same_model


# ---------------------------------------------------------------------------- begin and go on

def settings(args: argparse.Namespace) -> dict:
    """What config.json records of the command line; a resumed run must agree with it."""
    kept = ("mode", "model", "encoder", "tasks", "task", "max_tasks", "loras", "init", "arch",
            "one_hot", "canonical", "recon_space", "steps", "batch_size", "lr", "seed", "describe")
    return {k: getattr(args, k) for k in kept} | {"dtype": str(args.dtype).split(".")[1]}


def is_finished(args: argparse.Namespace, out: Path) -> bool:
    """Whether the run is finished already, and says so; UserError where it cannot be begun or gone
    on with."""
    config, state = out / "config.json", out / "train_state.pt"
    if args.init and Path(args.init).resolve() == out.resolve():
        raise UserError(f"--init {args.init} is the folder that this run writes; choose another "
                        "--out")
    found = read_json(config) if config.exists() else {}
    oracles = found.get("mode") == "lora"

    # A new run overwrites a finished one, but no other.
    if not args.resume:
        if state.exists():
            raise UserError(f"{out} holds an unfinished run; go on with --resume, choose another "
                            f"--out, or delete {state}")
        if oracles:
            raise UserError(f"{out} holds the oracles of an earlier run; go on with --resume, "
                            "choose another --out, or delete it")
        return False

    # A resumed one needs a state, and the same flags.
    if not (found.get("finished") or oracles or state.exists()):
        raise UserError(f"nothing to resume: {state} does not exist; a run writes it with "
                        "--save-every N")
    for key, value in settings(args).items():
        if found.get(key) != value:
            raise UserError(f"{config} says {key} = {found.get(key)!r}, the command line "
                            f"{value!r}; resume with the flags of the first run")
    if found.get("finished"):
        print(f"{out} is finished: {args.steps} steps of {args.mode}")
    return bool(found.get("finished"))


def start_run(args: argparse.Namespace, out: Path, metadata: dict | None = None) -> None:
    """Make the run's folder; of an earlier, finished run nothing is left in it. Nothing to do where
    a run goes on, but with the same library: else UserError."""
    metadata = metadata or {}
    if args.resume:
        if read_json(out / "config.json").get("library") != metadata.get("library"):
            raise UserError(f"{args.loras} holds other LoRAs than when {out} was begun; put them "
                            "back, or begin anew in another --out")
        return

    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("log*.jsonl", "results*.json", "t2l.safetensors", "adapter_config.json",
                    "adapter_model.safetensors"):
        for file in out.glob(pattern):
            file.unlink()
    write_json(out / "config.json", settings(args) | metadata)


def check_same_t2l(path: str, found: dict, wanted: dict) -> None:
    """--init: UserError where the fields of its T2LConfig are not this run's."""
    for key in ("arch", "emb_size", "n_layers", "modules", "rank", "base_model", "encoder",
                "tasks"):
        if found[key] != wanted[key] and not (key == "base_model"
                                              and same_model(found[key], wanted[key])):
            raise UserError(f"--init {path}: its {key} is {found[key]!r}, this run's "
                            f"{wanted[key]!r}")


def run_metadata() -> dict:
    """What config.json says beside the settings once the run is finished."""
    return {"finished": True,
            "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])}


# ----------------------------------------------------------------------------- log and state

class StepLog:
    """log.jsonl, a line a step, and the progress bar.

    Of an earlier start the first `start` lines are kept: steps after the last saved state are run
    again.
    """

    def __init__(self, path: Path, start: int, steps: int, unit: str):
        lines = path.read_text(encoding="utf-8").splitlines(True)[:start] if path.exists() else []
        path.write_text("".join(lines), encoding="utf-8")
        self.file = open(path, "a", encoding="utf-8")
        self.bar = tqdm(initial=start, total=steps)
        self.unit, self.began = unit, time.perf_counter()

    def write(self, step: int, loss: float, lr: float, grad_norm: float, seen: int) -> None:
        """One step; `seen` units since the start, for the speed."""
        self.file.write(json.dumps({"step": step, "loss": round(loss, 5), "lr": lr,
                                    "grad_norm": round(grad_norm, 5)}) + "\n")
        self.file.flush()
        rate = seen / (time.perf_counter() - self.began)
        self.bar.set_postfix_str(f"loss {loss:.2f}, {rate:.0f} {self.unit}/s", refresh=False)
        self.bar.update()

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        self.bar.close()


def save_state(out: Path, lora_source: nn.Module, optimizer: torch.optim.Optimizer,
               step: int) -> None:
    """All that a resumed run needs besides the command line; beside, then renamed."""
    scratch = out / "train_state.pt.part"
    torch.save({"step": step, "lora_source": lora_source.state_dict(),
                "optimizer": optimizer.state_dict()}, scratch)
    scratch.replace(out / "train_state.pt")


def load_state(out: Path, lora_source: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 where there is no saved state."""
    if not (out / "train_state.pt").exists():
        return 0
    state = torch.load(out / "train_state.pt", map_location="cpu", weights_only=True)
    lora_source.load_state_dict(state["lora_source"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


# ------------------------------------------------------------------------------------ memory


def peak_memory() -> float:
    """This process' peak memory so far, GiB; 0 where the system does not tell as Linux does.

    Not getrusage: after a fork and exec its peak begins with that of the parent.
    """
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    return int(text.split("VmHWM:")[1].split()[0]) / 2 ** 20 if "VmHWM:" in text else 0.0


def peak_memory_text() -> str:
    return f", peak memory {peak:.1f} GiB" if (peak := peak_memory()) else ""


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of up to 1 GB: otherwise every step gives its activations back
    to the system and pays for fresh, zeroed pages, a tenth of its time. Elsewhere: nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 1 << 30)                          # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)                    # M_TRIM_THRESHOLD
