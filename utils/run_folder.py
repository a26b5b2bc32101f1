"""The folder of a training run: what it was told to do, its state, and going on with it.

config.json says the command line; log.jsonl has a line for every step; train_state.pt is there only
while the run is unfinished. Between any two writes the process may be killed: what is there then is
either the earlier run, whole, or a state to go on from, or nothing that a new start would not make
again. A run that begins over a finished one logs into log_new.jsonl until it is finished itself.
At the end: the memory of this process.
"""
import argparse
import ctypes
import json
import os
import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from utils.cli import UserError, first_line, note_other_load, on_interrupt, warn
from utils.files import (atomic_folder, clear_scratch, lock_folder, read_json, sync, unlock,
                         write_json)
from utils.modules import TARGETS
from utils.peft import same_model
from utils.ranks import any_rank, rank
from utils.stats import mean
from utils.weights import READER, usual_dtype


# ------------------------------------------------------------------------ what is recorded

SETTINGS = ("mode", "model", "encoder", "tasks", "task", "max_tasks", "loras", "init", "arch",
            "read_with", "one_hot", "canonical", "recon_space", "modules", "rank", "alpha", "steps",
            "batch_size", "lr", "seed", "describe")
LATER = {"modules": list(TARGETS), "rank": 8, "alpha": 16.0}    # what runs had without recording it
WEIGHTS = ("t2l.safetensors", "adapter_model.safetensors")
PICTURE = "log.svg"                                           # of experiments.plots
RESULTS = ("results.json", "results_validation.json", "results_all.json",
           "results_library.json", "results_benchmarks.json")
BESIDE = ("tasks.safetensors", "adapter_config.json", READER)       # what one kind of run has alone
FILES = (*WEIGHTS, *RESULTS, *BESIDE, "config.json", "log.jsonl", "log_new.jsonl")


def settings(args: argparse.Namespace) -> dict:
    """What config.json and the saved state record; a resumed run must agree with it."""
    library = {"library": args.library} if hasattr(args, "library") else {}     # recon's adapters
    return {k: getattr(args, k) for k in SETTINGS} | {"dtype": str(args.dtype).split(".")[1]} \
        | library


def setting(found: dict, key: str) -> object:
    """A setting as a run's config.json or state has it, or as it was before they recorded it."""
    of_library = found.get("mode") == "recon" and key in ("modules", "rank")
    was = found.get(key, None if of_library else LATER.get(key))
    if key == "tasks" and isinstance(was, str):          # before there could be several folders
        was = [was]
    return was


def recorded(out: Path) -> dict:
    """The settings of the run in a folder: an unfinished run's state has them, for its config.json
    may be an earlier run's; {} where there is no run."""
    if (out / "train_state.pt").exists():
        return read_state(out, mmap=True)["settings"]
    return read_json(out / "config.json") if (out / "config.json").exists() else {}


def run_dtype(args: argparse.Namespace, out: Path) -> torch.dtype:
    """--dtype; where --resume goes on, that of the run so far; else what is usual here. recon has
    no language model to ask."""
    found = recorded(out).get("dtype") if args.resume and not args.dtype else args.dtype
    if found in ("bfloat16", "float32"):
        return getattr(torch, found)
    return usual_dtype(args.device, None if args.mode == "recon" else args.model)


def run_metadata() -> dict:
    """What config.json says beside the settings once the run is finished."""
    return {"finished": True,
            "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])}


# ------------------------------------------------------------------- begin, go on, and end

LOCKS: dict[Path, int] = {}             # the folders that this process trains into


@contextmanager
def open_run(args: argparse.Namespace, out: Path) -> Iterator[bool]:
    """Whether the run is finished already, and says so. Its folder is locked as long; a run that is
    interrupted says what is saved and how to go on. UserError where it cannot be begun or gone on
    with."""
    before = config_time(out)
    try:
        if not (finished := is_finished(args, out)):
            note_other_load(torch.get_num_threads())
        yield finished
    except KeyboardInterrupt:
        raise KeyboardInterrupt(way_on(args, out, config_time(out) != before)) from None
    finally:
        for held in LOCKS.values():
            unlock(held)
        LOCKS.clear()


def config_time(out: Path) -> int:
    config = out / "config.json"
    return config.stat().st_mtime_ns if config.exists() else 0


def lock_run(out: Path) -> None:
    """UserError where another process trains into the folder; what a dead one left is cleared."""
    if out.is_dir() and out not in LOCKS:
        if (held := lock_folder(out)) is None:
            raise UserError(f"another process trains into {out} now; wait until it has ended, or "
                            "choose another --out")
        LOCKS[out] = held
        clear_scratch(out)


def is_finished(args: argparse.Namespace, out: Path) -> bool:
    lock_run(out)
    for folder in args.tasks or []:
        if Path(folder).resolve() == out.resolve():
            raise UserError(f"--tasks {folder} is the folder that this run would write into; "
                            "choose another --out")
    if args.init and Path(args.init).resolve() == out.resolve():
        raise UserError(f"--init {args.init} is the folder that this run writes; choose another "
                        "--out")
    if not args.resume:
        check_new(args, out)
        if mode := recorded(out).get("mode"):
            warn(f"{out} holds a run of --mode {mode}; this one takes its place at the end, --out "
                 "ANOTHER keeps both")
        return False
    check_resumable(args, out)
    finished = not (out / "train_state.pt").exists() and recorded(out).get("finished")
    if finished:
        print(f"{out} is finished: {args.steps} steps of {args.mode}"
              + ("" if args.mode == "lora" or any((out / name).exists() for name in RESULTS) else
                 f"; for the table: {table_command(args, out)}"))
    return bool(finished)


def check_new(args: argparse.Namespace, out: Path) -> None:
    """UserError unless nothing is lost: a new run overwrites a finished one, but no unfinished one,
    no library, and nothing that no run wrote."""
    state = out / "train_state.pt"
    if state.exists():
        raise UserError(f"{out} holds an unfinished run; go on with --resume, choose another "
                        f"--out, or delete {state}")
    mode = recorded(out).get("mode")
    if mode == "lora":
        raise UserError(f"{out} holds the oracles of an earlier run; go on with --resume, "
                        "choose another --out, or delete it")
    if mode and args.mode == "lora":
        raise UserError(f"{out} holds a run of --mode {mode}; choose another --out for the oracles")
    others = [out / name for name in FILES if (out / name).exists()]
    if args.mode == "lora":
        others += [*sorted(out.glob("log_*.jsonl")),
                   *(path.parent for path in sorted(out.glob("*/adapter_config.json")))]
    cut_off = not (out / "config.json").exists() and step_lines(out / "log.jsonl")   # a run's end
    if others and not mode and not cut_off:
        raise UserError(f"{others[0]} is there, but no run wrote it; choose another --out, or "
                        "move it away")


def check_resumable(args: argparse.Namespace, out: Path) -> None:
    """UserError unless there is something to go on from, of a run with the same flags."""
    state, found = out / "train_state.pt", recorded(out)
    if not (found.get("finished") or found.get("mode") == "lora" or state.exists()):
        raise UserError(f"nothing to resume: {state} does not exist; a run writes it with "
                        "--save-every N")
    for key, value in settings(args).items():
        if (was := setting(found, key)) != value:
            where = state if state.exists() else out / "config.json"
            raise UserError(f"{where} says {key} = {was!r}, the command line {value!r}; "
                            + (other_steps(found, out) if key == "steps" else
                               "resume with the flags of the first run"))
    if found.get("finished") and found["mode"] != "lora" \
            and not any((out / name).exists() for name in WEIGHTS):
        raise UserError(f"{out}/config.json says that the run is finished, but its weights are not "
                        "there; leave out --resume to begin anew")


def check_seeds(folders: list[Path]) -> None:
    """eval.py --seeds: UserError unless of some kind (T2L; multi-task LoRA by its --describe) there
    are two runs or more, and those of a kind have the same settings but for the seed."""
    kinds: dict[str, dict[Path, dict]] = {}
    for folder in folders:
        official = (folder / "hypermod.pt").exists()     # the authors' have no config.json
        config = {} if official else read_json(folder / "config.json")
        lora = (folder / "adapter_model.safetensors").exists()
        kind = f"multi-task LoRA, --describe {config.get('describe')}" if lora else "T2L"
        kinds.setdefault(kind, {})[folder] = config

    if not any(len(configs) > 1 for configs in kinds.values()):
        alone = "; ".join(f"{folder} ({kind})" for kind, found in kinds.items() for folder in found)
        raise UserError(f"--seeds joins two runs or more of a kind (T2L; multi-task LoRA by its "
                        f"--describe); of each kind there is one: {alone}")
    for configs in kinds.values():
        if len(configs) > 1:
            check_same_but_seed(configs)


def check_same_but_seed(configs: dict[Path, dict]) -> None:
    """UserError unless these runs' settings are the same but for the seed, which none shares."""
    (first, config), *others = configs.items()
    for key in (k for k in (*SETTINGS, "dtype", "library") if k != "seed"):
        for folder, other in others:
            if (was := setting(config, key)) != (found := setting(other, key)):
                raise UserError(f"--seeds joins runs that differ in their seed alone: {first} has "
                                f"{key} = {was!r:.99}, {folder} {found!r:.99}")

    taken: dict[int, Path] = {}
    for folder, config in configs.items():
        if not isinstance(seed := config.get("seed"), int):
            raise UserError(f"{folder}/config.json says no seed; --seeds joins runs of train.py")
        if seed in taken:
            raise UserError(f"{taken[seed]} and {folder} have the same seed, {seed}; --seeds "
                            "counts each once")
        taken[seed] = folder


def other_steps(found: dict, out: Path) -> str:
    """What to do in place of resuming with another number of steps."""
    way = f"to train on from what it gives: --init {out} --out ANOTHER"
    if found.get("mode") not in ("sft", "recon"):
        way = "begin anew in another --out (--init is for sft and recon)"
    elif not found.get("finished"):
        way = f"finish it with --steps {found.get('steps')}; {way}"
    return f"the learning rate's schedule depends on the steps; {way}"


def start_run(args: argparse.Namespace, out: Path, library: list[str] | None = None) -> Path:
    """Make the run's folder; returns where its steps are logged. A finished run that is there stays
    whole until finish_run. UserError where a run goes on with another library."""
    if library:
        args.library = library
    log, new_log = out / "log.jsonl", out / "log_new.jsonl"
    if args.resume:
        if recorded(out).get("library") != settings(args).get("library"):
            raise UserError(f"{args.loras} holds other LoRAs than when {out} was begun; put them "
                            "back, or begin anew in another --out")
        return new_log if new_log.exists() else log

    out.mkdir(parents=True, exist_ok=True)
    lock_run(out)
    check_new(args, out)                                 # it may have changed since it was locked
    new_log.unlink(missing_ok=True)
    if recorded(out).get("finished"):
        return new_log
    write_json(out / "config.json", settings(args))
    return log


@contextmanager
def finish_run(out: Path, lora_source: nn.Module) -> Iterator[Path]:
    """A scratch folder for the run's weights and config.json. At the end they and the log take the
    place of an earlier run's, whose results go; and last the state goes. UserError where the last
    step made the weights infinite."""
    if not all(w.isfinite().all() for w in lora_source.parameters()):
        raise smaller_lr(out, "after the last step the weights hold numbers that are not finite")
    with atomic_folder(out, stale=(*WEIGHTS, *BESIDE, *RESULTS, PICTURE)) as scratch:
        yield scratch
        if (out / "log_new.jsonl").exists():
            shutil.copy(out / "log_new.jsonl", scratch / "log.jsonl")
    (out / "log_new.jsonl").unlink(missing_ok=True)
    (out / "train_state.pt").unlink(missing_ok=True)


def way_on(args: argparse.Namespace, out: Path, written: bool) -> str:
    """What is saved of an interrupted run, and the command that goes on; `written`: config.json is
    new, which at the end says that the run is finished."""
    if (out / "train_state.pt").exists():
        return (f"{out} holds the state after step {read_state(out, mmap=True)['step']} of "
                f"{args.steps}; the same command with --resume goes on from there")
    if written and recorded(out).get("finished"):
        return f"the weights are in {out}; for the table: {table_command(args, out)}"
    if recorded(out).get("mode") == args.mode == "lora":
        done = len(list(out.glob("[!.]*/adapter_config.json")))
        return f"{out} holds {done} finished oracles; the same command with --resume goes on"
    return "no state of this run is saved, see --save-every; the same command begins anew"


def table_command(args: argparse.Namespace, out: Path) -> str:
    """The command that gives a finished run's table."""
    words = ["python", "eval.py"] if args.mode != "recon" else \
        ["python", "-m", "experiments.compare", "--loras", args.loras]
    words += ["--ckpt", out, "--out", out]
    words += ["--device", args.device, "--dtype", str(args.dtype).split(".")[1]]
    if args.eval_samples and args.mode != "recon":
        words += ["--eval-samples", args.eval_samples]
    for name in ("model", "tasks"):
        if given := getattr(args, name):
            words += [f"--{name}", *(given if isinstance(given, list) else [given])]
    return shlex.join(map(str, words))


def diverged(out: Path, step: int, loss: float, norm: float) -> UserError:
    """The loss is no number any more."""
    return smaller_lr(out, f"step {step}: loss {loss}, gradient norm {norm}")


def smaller_lr(out: Path, what: str) -> UserError:
    """`what` is wrong, and what to do about it: that depends on what the run has saved."""
    state = out / "train_state.pt"
    way = f"delete {state}, which holds this run, or choose another --out" if state.exists() else \
        "choose another --out" if recorded(out).get("mode") == "lora" else ""
    return UserError(f"{what}; try a smaller --lr" + (f"; for that, {way}" if way else ""))


def check_same_t2l(path: str, found: dict, wanted: dict) -> None:
    """--init: UserError where the fields of its T2LConfig are not this run's."""
    if set(found["modules"]) != set(wanted["modules"]):
        raise UserError(f"--init {path}: it adapts {', '.join(found['modules'])}, this run "
                        f"{', '.join(wanted['modules'])}; --modules {' '.join(found['modules'])} "
                        "trains it on")
    for key in ("arch", "emb_size", "n_layers", "modules", "rank", "alpha", "base_model",
                "encoder", "tasks"):
        if found[key] != wanted[key] and not (key == "base_model"
                                              and same_model(found[key], wanted[key])):
            raise UserError(f"--init {path}: its {key} is {found[key]!r}, this run's "
                            f"{wanted[key]!r}"
                            + (f"; give --{key} {found[key]}"
                               if key in ("arch", "encoder", "rank", "alpha") else ""))


# ----------------------------------------------------------------------------- log and state

def step_lines(path: Path) -> list[tuple[int, str]]:
    """(step, line) of the whole lines in a log; what a power loss or somebody else made of the
    rest is passed over."""
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    found = []
    for line in text.splitlines(True):
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            row = json.loads(line)
            if line.endswith("\n") and "grad_norm" in row and type(row["step"]) is int:
                found.append((row["step"], line))
    return found


MEAN_OF = 20               # steps: the loss of one depends on which tasks are in its batch


def loss_text(log_file: Path) -> str:
    """How the loss went, by means of the first and the last steps: ", loss from 4.21 to 1.30 …"."""
    losses = losses_of([line for _, line in step_lines(log_file)])
    n = min(MEAN_OF, len(losses) // 2)
    return f", loss from {mean(losses[:n]):.2f} to {mean(losses[-n:]):.2f} (means of {n} steps)" \
        if n else ""


def losses_of(lines: list[str]) -> list[float]:
    found = (json.loads(line).get("loss") for line in lines)
    return [loss for loss in found if isinstance(loss, int | float)]


class StepLog:
    """log.jsonl, a line a step, and the progress bar.

    Of an earlier start the lines before step `start` are kept: steps after the last saved state are
    run again. A signal that would end the process waits for the end of a step, `interrupted` says
    so, and leaving the log then raises KeyboardInterrupt; a second one does not wait.
    """

    def __init__(self, path: Path, start: int, steps: int, unit: str):
        lines = [line for step, line in step_lines(path) if step < start]
        if len(lines) < start:
            warn(f"{path} has {len(lines)} of the {start} steps that are done; the others are lost "
                 "from the log, not from the weights")
        with atomic_folder(path.parent) as scratch:
            (scratch / path.name).write_text("".join(lines), encoding="utf-8")
        self.recent = deque(losses_of(lines), MEAN_OF)                   # losses, for the bar
        self.file = open(path, "a", encoding="utf-8")
        self.bar = tqdm(initial=start, total=steps)
        self.unit, self.began = unit, time.perf_counter()
        self.interrupted, self.signals = False, on_interrupt(self.interrupt)

    def interrupt(self, *_) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        os.write(2, b"\ninterrupted: this step is finished first\n")    # safe within a print

    def write(self, step: int, loss: float, lr: float, grad_norm: float, seen: int,
              validation_loss: float | None = None) -> None:
        """One step; `seen` units since the start, for the speed. The bar has the mean loss of the
        last MEAN_OF steps."""
        row = {"step": step, "loss": round(loss, 5), "lr": lr, "grad_norm": round(grad_norm, 5)}
        if validation_loss is not None:
            row["validation_loss"] = round(validation_loss, 5)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        self.recent.append(loss)
        rate = seen / (time.perf_counter() - self.began)
        self.bar.set_postfix_str(f"mean loss {mean(self.recent):.2f}, "
                                 f"{rate:.0f} {self.unit}/s", refresh=False)
        self.bar.update()
        self.interrupted = any_rank(self.interrupted)

    def __enter__(self) -> "StepLog":
        self.signals.__enter__()
        return self

    def __exit__(self, kind, *_) -> None:
        self.signals.__exit__(None, None, None)
        self.bar.close()
        self.file.close()
        if self.interrupted and not kind:
            raise KeyboardInterrupt


def save_state(out: Path, lora_source: nn.Module, optimizer: torch.optim.Optimizer,
               step: int, args: argparse.Namespace) -> None:
    """All that a resumed run needs, and whose it is; the log so far is on the disk, too. Of several
    ranks the first writes it."""
    if rank():
        return
    for log in (out / "log.jsonl", out / "log_new.jsonl"):
        if log.exists():
            sync(log)
    with atomic_folder(out) as scratch:
        try:
            torch.save({"step": step, "settings": settings(args),
                        "lora_source": lora_source.state_dict(),
                        "optimizer": optimizer.state_dict()}, scratch / "train_state.pt")
        except RuntimeError as error:                    # what torch makes of a full disk
            raise UserError(f"{out}/train_state.pt could not be written, is the disk full? What "
                            f"was saved before is still there ({first_line(error)})") from None


def read_state(out: Path, mmap: bool = False) -> dict:
    """A saved state; `mmap`: its tensors are not read until they are used."""
    path = out / "train_state.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:                           # of a damaged file it may be anything
        raise broken_state(path, error) from None
    if not isinstance(state, dict) or not isinstance(state.get("settings"), dict) or \
            state.get("step") not in range(1, 1 + state["settings"].get("steps", 0)):
        raise broken_state(path, "no settings, or no step of theirs")
    return state


def broken_state(path: Path, why: Exception | str) -> UserError:
    return UserError(f"{path} is not a whole state of this run ({first_line(why)}); put the right "
                     "one back, or delete it and begin anew without --resume")


def load_state(out: Path, lora_source: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 where there is no saved state."""
    path = out / "train_state.pt"
    if not path.exists():
        return 0
    state = read_state(out)
    try:
        lora_source.load_state_dict(state["lora_source"])
        optimizer.load_state_dict(state["optimizer"])
        for parameter, found in optimizer.state.items():
            shapes = {name: found[name].shape for name in ("exp_avg", "exp_avg_sq")}
            if set(shapes.values()) != {parameter.shape} or found["step"].numel() != 1:
                raise ValueError(f"moments of {shapes} for {tuple(parameter.shape)}")
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise broken_state(path, error) from None
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
