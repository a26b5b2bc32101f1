"""Many processes, by torch.distributed: torchrun --nproc_per_node=N train.py --mode sft …

N ranks with --batch-size b do what one process does with N · b: each takes its part of the batch
that the one would draw, and DistributedDataParallel averages the hypernetwork's gradients. Every
rank holds the whole language model, or with --shard its part of every layer. Once a run has begun,
rank 0 alone prints and writes its folder; the others write into scratch folders. eval.py divides
what is asked. gloo on CPUs, nccl on GPUs. In a single process all of this does nothing.
"""
import argparse
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from utils.cli import UserError, check_device, first_line

PATIENCE = timedelta(minutes=30)       # for the slowest rank: embedding, validation, evaluation
LOST = ("gloo", "nccl", "connection", "socket", "process group")    # in errors of a lost rank


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


# --------------------------------------------------------------------------- begin, and end

@contextmanager
def joined(args: argparse.Namespace, out: Path) -> Iterator[Path]:
    """The folder that this rank writes into: `out` itself on rank 0, and without torchrun. From
    here on args.batch_size is that of all ranks together, as a run records it.

    UserError where another rank has ended, and for a mode that is not for ranks.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        if getattr(args, "shard", False):
            raise UserError("--shard is for several processes: torchrun --nproc_per_node=N "
                            "train.py …")
        yield out
        return
    if getattr(args, "mode", "sft") not in ("sft", "mtlora"):
        raise UserError(f"torchrun is for --mode sft and mtlora, and for eval.py; start --mode "
                        f"{args.mode} with python")
    if args.device.startswith("cuda:"):
        raise UserError(f"--device {args.device} is one GPU for all; under torchrun --device cuda "
                        "gives every process its own")
    if args.device == "cuda":
        args.device = f"cuda:{os.environ['LOCAL_RANK']}"
        check_device(args.device)
        torch.cuda.set_device(args.device)
    try:
        dist.init_process_group("nccl" if args.device.startswith("cuda") else "gloo",
                                timeout=PATIENCE)
        if hasattr(args, "batch_size"):
            args.batch_size *= world()
        with tempfile.TemporaryDirectory() as scratch, quiet(rank() > 0):
            yield out if rank() == 0 else follower(Path(scratch), out, getattr(args, "resume", 0))
            dist.barrier()                               # nobody leaves while others write
    except (RuntimeError, KeyboardInterrupt) as error:
        lost = any(word in str(error).lower() for word in LOST)
        if rank() and (lost or isinstance(error, KeyboardInterrupt)):
            raise SystemExit(1) from None                # rank 0 says it
        if not lost:
            raise
        way = "; the same command with --resume goes on from what was saved last" \
            if (out / "train_state.pt").exists() else ""
        raise UserError(f"another rank has ended, so this run ends ({first_line(error)}){way}"
                        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def follower(scratch: Path, out: Path, resume: bool) -> Path:
    """A folder with links to what rank 0 resumes from; a file that is written takes the link's
    place."""
    if resume and out.is_dir():
        for path in out.iterdir():
            if path.is_file():
                (scratch / path.name).symlink_to(path.resolve())
    return scratch


@contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Prints nothing meanwhile; an error that ends it is printed after it."""
    if not wanted:
        yield
        return
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def shard(model: nn.Module, device: str) -> nn.Module:
    """--shard: of every layer's weights a rank keeps its part, on `device`; it fetches the others'
    when the layer runs, forward and backward, and drops them again (FSDP). `model` is on the CPU:
    no device need hold it whole."""
    mesh = init_device_mesh(device.split(":")[0], (world(),))
    for layer in model.model["layers"]:
        fully_shard(layer, mesh=mesh)
    model.fused = False                                  # that would pass the layers' forward by
    return model.to(device)


# ------------------------------------------------------------------------------- a training step

class Adapters(nn.Module):
    """A source of adapters as DistributedDataParallel wants it: forward is `adapters`."""

    def __init__(self, lora_source: nn.Module):
        super().__init__()
        self.lora_source = lora_source

    def forward(self, samples: list):
        return self.lora_source.adapters(samples)


def share(lora_source: nn.Module, batches: Iterator[list]) -> tuple[Callable, Iterator[list]]:
    """(samples → adapters, whose gradients are averaged over ranks; this rank's part of each
    batch). Every rank drops out other numbers."""
    if world() == 1:
        return lora_source.adapters, batches

    def own() -> Iterator[list]:
        for samples in batches:
            seed = torch.initial_seed() + (rank() << 40)                 # rank 0: as without ranks
            torch.manual_seed(seed % 2 ** 64)
            yield samples[rank()::world()]                               # of a similar length
    return DistributedDataParallel(Adapters(lora_source)), own()


def parts(adapters: Callable, samples: list, n: int) -> Iterator[tuple[list, float]]:
    """--accumulate: the batch in n parts, and what each one's mean loss counts; ranks exchange
    gradients at the last."""
    n = min(n, len(samples))
    for i in range(n):
        if isinstance(adapters, DistributedDataParallel):
            adapters.require_backward_grad_sync = i == n - 1
        part = samples[i::n]
        yield part, len(part) / len(samples)


def joint(loss: Tensor, seen: int, more: int) -> tuple[Tensor, int]:
    """The mean loss of all ranks; `seen`, and the `more` of this step of each."""
    if world() == 1:
        return loss, seen + more
    both = torch.stack([loss.double() / world(), torch.tensor(more, dtype=torch.double,
                                                              device=loss.device)])
    dist.all_reduce(both)
    return both[0], seen + int(both[1])


def any_rank(so: bool) -> bool:
    """Whether it is so on any rank: then all stop after the same step."""
    if world() == 1:
        return so
    flag = torch.tensor(float(so), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flag)
    return flag.item() > 0


# ---------------------------------------------------------------------------------- evaluation

def own_part(work: list, model: nn.Module) -> list:
    """What of the list this rank does; all of it where the model is sharded, for then every rank
    has a part in every forward pass."""
    return work if sharded(model) else work[rank()::world()]


def gathered(found: list, model: nn.Module) -> list:
    """What all ranks have found."""
    if world() == 1 or sharded(model):
        return found
    every: list = [None] * world()
    dist.all_gather_object(every, found)
    return [one for of_rank in every for one in of_rank]


def sharded(model: nn.Module) -> bool:
    return world() > 1 and any(isinstance(module, FSDPModule) for module in model.modules())
