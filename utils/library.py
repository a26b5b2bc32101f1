"""A library of LoRAs, one for each task, and how far other adapters are from it
(arXiv 2506.06105, section 3.1).

A folder of PEFT folders; one form for adapters that do the same; distances between adapters.
Shapes as in lora.py: A[m] (…, n, r, d_in), B[m] (…, n, d_out, r).
"""
import math
from collections.abc import Container, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from utils.cli import UserError, composed, select_tasks
from utils.files import read_json
from utils.modules import in_order
from utils.peft import LoRA, load_peft, same_model


def load_library(folder: str | Path, wanted: list[str] | None = None,
                 at_most: int | None = None,
                 rank: int | None = None) -> tuple[dict[str, LoRA], str]:
    """({name: LoRA} of the adapter folders in `folder`, the base model they are for): of all, or of
    the `wanted` ones, or of `at_most` that are drawn.

    Raises UserError for an empty library, for one that holds something else, and for adapters of
    different shapes or models, of another rank than `rank`, or with numbers that are not finite.
    """
    loras, models = {}, {}
    for path in sorted(Path(folder).glob("[!.]*/")):
        name = composed(path.name)
        A, B = loras[name] = load_peft(path)
        models[name] = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        first = next(iter(loras))
        for side, other in zip((A, B), loras[first]):
            found, usual = ({m: tuple(w.shape) for m, w in s.items()} for s in (side, other))
            if found != usual:
                raise UserError(f"{path}: its shapes {found} are not those of {first}, {usual}; a "
                                "library holds adapters of one rank for one model")
        if not same_model(models[name], models[first]):
            raise UserError(f"{path} is for {models[name]!r}, {first} for {models[first]!r}; "
                            "a library holds adapters of one model")
    if not loras:
        raise UserError(f"{folder} holds no adapter folder; train.py --mode lora makes a library")
    if rank not in (None, found := sizes_of(loras[first])[1]):
        raise UserError(f"--rank {rank}: the LoRAs in {folder} have rank {found}, and so will "
                        "what recon trains; leave it out")
    return {name: loras[name] for name in select_tasks(loras, wanted, at_most)}, models[first]


def sizes_of(lora: LoRA) -> tuple[int, int, dict[str, tuple[int, int]]]:
    """(n layers, rank, {module: (d_in, d_out)}) of one adapter."""
    A, B = lora
    n, r, _ = next(iter(A.values())).shape
    return n, r, {m: (A[m].shape[-1], B[m].shape[-2]) for m in A}


def check_library_model(loras: dict[str, LoRA], base_model: str, name: str, n_layers: int,
                        modules: dict[str, tuple[int, int]]) -> None:
    """UserError unless a library is for the language model of this name and these sizes."""
    layers, _, sizes = sizes_of(next(iter(loras.values())))
    if not same_model(base_model, name) or layers != n_layers or \
            any(modules.get(m) != size for m, size in sizes.items()):
        raise UserError(f"the library is for {base_model}, {layers} layers of {sizes}; the "
                        f"language model is {name}, {n_layers} of {modules}")


def check_modules(folder: str, found: Iterable[str], wanted: Iterable[str] | None) -> None:
    """UserError where a library adapts other modules than --modules asks for (None: any)."""
    if wanted and in_order(found) != in_order(wanted):
        raise UserError(f"--loras {folder}: its adapters are of {', '.join(in_order(found))}, "
                        f"--modules asks for {', '.join(in_order(wanted))}; leave it out, and T2L "
                        "learns the library's")


def check_library_tasks(folder: str, names: Iterable[str], known: Container[str]) -> None:
    """UserError unless there is a task for every adapter."""
    for name in names:
        if name not in known:
            raise UserError(f"{folder}/{name}: no task of that name; give its --tasks, or use "
                            "--one-hot")


def stack_loras(loras: list[LoRA]) -> LoRA:
    """One adapter for each of a batch: a leading axis."""
    A, B = ({m: torch.stack([lora[side][m] for lora in loras]) for m in loras[0][side]}
            for side in (0, 1))
    return A, B


def average_lora(loras: dict[str, LoRA]) -> LoRA:
    """The mean of all A and the mean of all B, fp32."""
    A, B = ({m: w.float().mean(0) for m, w in side.items()}
            for side in stack_loras(list(loras.values())))
    return A, B


def canonical(lora: LoRA) -> LoRA:
    """The same ΔW = B A in one form: A's rows orthogonal, B's columns too, as long, sorted.

    (B M) (M⁻¹ A) is the same ΔW for every invertible M (r, r), so A and B alone mean little. With
    B = Q_B R_B and Aᵀ = Q_A R_A, the singular value decomposition of ΔW is that of the small
    R_B R_Aᵀ = U S Vᵀ between Q_B and Q_Aᵀ. Half of S, √S, goes to each side; the largest entry of
    every row of A is made positive. A rank beyond the module's own leaves rows and columns of 0.
    The result is fp32 whatever the library's dtype.
    """
    out: LoRA = ({}, {})
    for m in lora[0]:
        Q_A, R_A = torch.linalg.qr(lora[0][m].double().transpose(-1, -2))
        Q_B, R_B = torch.linalg.qr(lora[1][m].double())
        U, S, Vh = torch.linalg.svd(R_B @ R_A.transpose(-1, -2), full_matrices=False)
        A = S.sqrt()[..., None] * Vh @ Q_A.transpose(-1, -2)
        B = Q_B @ U * S.sqrt()[..., None, :]
        lacking = lora[0][m].shape[-2] - S.shape[-1]
        A = F.pad(A, (0, 0, 0, lacking))                                   # (…, n, r, d_in)
        B = F.pad(B, (0, lacking))                                         # (…, n, d_out, r)
        sign = A.gather(-1, A.abs().argmax(-1, keepdim=True)).sign()       # (…, n, r, 1)
        sign = torch.where(sign == 0, 1.0, sign)
        out[0][m], out[1][m] = (A * sign).float(), (B * sign.transpose(-1, -2)).float()
    return out


def delta_l1(lora: LoRA, target: LoRA, rows: int = 64) -> Tensor:
    """The mean of |B A - B* A*| over all entries, without a d_out × d_in matrix in memory.

    B A - B* A* = [B, -B*] [A; A*]: one product of rank 2 r. Its entries are made for `rows` of
    d_out at a time, and once more in the backward pass.
    """
    def total(left: Tensor, right: Tensor) -> Tensor:
        return (left @ right).abs().sum()
    sums, entries = [], 0
    for m in target[0]:
        left = torch.cat([lora[1][m], -target[1][m]], -1).float()          # (…, n, d_out, 2 r)
        right = torch.cat([lora[0][m], target[0][m]], -2).float()          # (…, n, 2 r, d_in)
        entries += left[..., 0].numel() * right.shape[-1]
        sums += [checkpoint(total, part, right, use_reentrant=False)
                 for part in left.split(rows, -2)]
    return sum(sums) / entries


def square_norm(left: Tensor, right: Tensor) -> Tensor:
    """(…, i, r), (…, r, j) → ‖left right‖² (…), Frobenius, as trace((Lᵀ L) (R Rᵀ)): products of
    (r, r) alone."""
    return ((left.transpose(-1, -2) @ left) * (right @ right.transpose(-1, -2))).sum((-1, -2))


def delta_error(lora: LoRA, target: LoRA) -> float:
    """‖ΔW - ΔW*‖ / ‖ΔW*‖ over all layers and modules, Frobenius norms, from the factors. From a ΔW*
    of 0 everything but 0 is infinitely far."""
    def square(left: Tensor, right: Tensor) -> float:
        return square_norm(left.double(), right.double()).sum().item()
    apart = norm = 0.0
    for m in target[0]:
        apart += square(torch.cat([lora[1][m], -target[1][m]], -1),
                        torch.cat([lora[0][m], target[0][m]], -2))
        norm += square(target[1][m], target[0][m])
    if norm == 0:
        return math.inf if apart > 0 else 0.0
    return max(apart / norm, 0.0) ** 0.5


def mean_delta_error(loras: LoRA, target: LoRA) -> float:
    """The mean of delta_error over a batch of adapters, (b, n, …)."""
    A, B = loras
    b = len(next(iter(A.values())))
    errors = [delta_error(({m: w[i] for m, w in A.items()}, {m: w[i] for m, w in B.items()}),
                          target) for i in range(b)]
    return sum(errors) / b


# ----------------------------------------------------------------- what --mode recon learns

class ReconTargets:
    """A library's adapters, a row for each; as z-scores where T2L's heads emit z-scores."""

    def __init__(self, loras: dict[str, LoRA], z_scores: bool, dtype: torch.dtype,
                 device: str = "cpu"):
        self.rows = {name: i for i, name in enumerate(loras)}
        stacked = stack_loras(list(loras.values()))
        rows = tuple({m: w.float() for m, w in side.items()} for side in stacked)   # A[m] (N, n, …)
        self.mean = tuple({m: w.mean(0) for m, w in side.items()} for side in rows)
        self.std = tuple({m: standard_deviation(w) for m, w in side.items()} for side in rows)
        if not all(w.isfinite().all() for side in (*self.mean, *self.std) for w in side.values()):
            raise UserError("the library's numbers are too large for their mean and standard "
                            "deviation in float32; train or save it again")
        if z_scores:
            rows = tuple({m: ((w - mean[m]) / std[m]).to(dtype) for m, w in side.items()}
                         for side, mean, std in zip(rows, self.mean, self.std))
        self.loras = on_device(rows, device)
        # The units in which the loss is taken; None: the rows are in these units already.
        self.loss_std = None if z_scores else on_device(self.std, device)

    def select(self, names: list[str]) -> LoRA:
        """The adapters of these names: A[m] (b, n, r, d_in), B[m] (b, n, d_out, r)."""
        rows = torch.tensor([self.rows[name] for name in names])
        A, B = ({m: w[rows] for m, w in side.items()} for side in self.loras)
        return A, B


def on_device(lora: LoRA, device: str) -> LoRA:
    A, B = ({m: w.to(device) for m, w in side.items()} for side in lora)
    return A, B


def recon_summary(error: float, loras: dict[str, LoRA], command: str) -> str:
    """The last line of --mode recon: the error of ΔW, beside that of the average LoRA."""
    average = average_lora(loras)
    usual = sum(delta_error(average, lora) for lora in loras.values()) / len(loras)
    return (f"error of ΔW {error:.3f} from the oracles' (average LoRA: {usual:.3f}); for the "
            f"table: {command}")


class LoRABuffers(nn.Module):
    """Where a T2L keeps a library's mean or standard deviation: A.m (n, r, d_in), B.m (n, d_out, r)
    for every module m with its (d_in, d_out)."""

    def __init__(self, n_layers: int, rank: int, modules: dict[str, tuple[int, int]]):
        super().__init__()
        self.A, self.B = nn.Module(), nn.Module()
        for module, (d_in, d_out) in modules.items():
            self.A.register_buffer(module, torch.zeros(n_layers, rank, d_in))
            self.B.register_buffer(module, torch.zeros(n_layers, d_out, rank))


def standard_deviation(w: Tensor) -> Tensor:
    """Over the library, (N, …) → (…); 1 where it is 0, or N is 1: the entry is learnt as it is."""
    std = w.std(0, correction=0)
    return torch.where(std > 0, std, 1.0)
