"""A library of LoRAs, one for each task, and how far other adapters are from it
(arXiv 2506.06105, section 3.1).

Loading, one form for adapters that do the same, distances between adapters, and the objective of
`train.py --mode recon`. Shapes as in lora.py; N adapters in the library.
"""
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import mistral
from data.files import UserError, read_json
from data.tasks import Sample
from lora import LoRA, load_peft, mapped
from t2l import adapted_modules

DELTA_SCALE = 10_000      # of the distance between ΔWs, whose entries are tiny; as the authors'


def load_library(folder: str | Path) -> tuple[dict[str, LoRA], str]:
    """({name: LoRA} of all adapter folders in `folder`, the base model they are for).

    Raises UserError for an empty library, for one that holds something else, and for adapters of
    different shapes or models, or with numbers that are not finite.
    """
    loras, models = {}, {}
    for path in sorted(path for path in Path(folder).glob("*/")):
        A, B = loras[path.name] = load_peft(path)
        models[path.name] = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        first = next(iter(loras))
        for side, other in zip((A, B), loras[first]):
            found, usual = ({m: tuple(w.shape) for m, w in s.items()} for s in (side, other))
            if found != usual:
                raise UserError(f"{path}: its shapes {found} are not those of {first}, {usual}; a "
                                "library holds adapters of one rank for one model")
        if not mistral.same_model(models[path.name], models[first]):
            raise UserError(f"{path} is for {models[path.name]!r}, {first} for {models[first]!r}; "
                            "a library holds adapters of one model")
    if not loras:
        raise UserError(f"{folder} holds no adapter folder; train.py --mode lora makes a library")
    return loras, models[first]


def sizes_of(lora: LoRA) -> tuple[int, int, dict[str, tuple[int, int]]]:
    """(n layers, rank, {module: (d_in, d_out)}) of one adapter."""
    A, B = lora
    n, r, _ = next(iter(A.values())).shape
    return n, r, {m: (A[m].shape[-1], B[m].shape[-2]) for m in A}


def fits_model(loras: dict[str, LoRA], base_model: str, cfg: mistral.Config) -> None:
    """UserError unless a library is for this language model, by its name and its sizes."""
    layers, _, sizes = sizes_of(next(iter(loras.values())))
    wanted = adapted_modules(cfg)
    if not mistral.same_model(base_model, cfg.name) or layers != cfg.num_hidden_layers or \
            any(wanted[m] != size for m, size in sizes.items()):
        raise UserError(f"the library is for {base_model}, {layers} layers of {sizes}; the "
                        f"language model is {cfg.name}, {cfg.num_hidden_layers} of {wanted}")


def stacked(loras: list[LoRA]) -> LoRA:
    """One adapter for each of a batch: a leading axis."""
    return tuple({m: torch.stack([lora[side][m] for lora in loras]) for m in loras[0][side]}
                 for side in (0, 1))


def average_of(loras: dict[str, LoRA]) -> LoRA:
    """The mean of all A and the mean of all B, fp32."""
    return mapped(stacked(list(loras.values())), lambda w: w.float().mean(0))


def canonical(lora: LoRA) -> LoRA:
    """The same ΔW = B A in one form: A's rows orthogonal, B's columns too, as long, sorted.

    (B M) (M⁻¹ A) is the same ΔW for every invertible M (r, r), so A and B alone mean little. With
    B = Q_B R_B and Aᵀ = Q_A R_A, the singular value decomposition of ΔW is that of the small
    R_B R_Aᵀ = U S Vᵀ between Q_B and Q_Aᵀ. Half of S, √S, goes to each side; the largest entry of
    every row of A is made positive. The result is fp32 whatever the library's dtype.
    """
    out: LoRA = ({}, {})
    for m in lora[0]:
        Q_A, R_A = torch.linalg.qr(lora[0][m].double().transpose(-1, -2))
        Q_B, R_B = torch.linalg.qr(lora[1][m].double())
        U, S, Vh = torch.linalg.svd(R_B @ R_A.transpose(-1, -2))
        A = S.sqrt()[..., None] * Vh @ Q_A.transpose(-1, -2)               # (…, n, r, d_in)
        B = Q_B @ U * S.sqrt()[..., None, :]                               # (…, n, d_out, r)
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


def delta_error(lora: LoRA, target: LoRA) -> float:
    """‖ΔW - ΔW*‖ / ‖ΔW*‖ over all layers and modules, Frobenius norms, from the factors:
    ‖L R‖² = trace((Lᵀ L) (R Rᵀ)), products of at most (2 r, 2 r). From a ΔW* of 0 everything but 0
    is infinitely far."""
    def square(left: Tensor, right: Tensor) -> float:
        left, right = left.double(), right.double()
        return ((left.transpose(-1, -2) @ left) * (right @ right.transpose(-1, -2))).sum().item()
    apart = norm = 0.0
    for m in target[0]:
        apart += square(torch.cat([lora[1][m], -target[1][m]], -1),
                        torch.cat([lora[0][m], target[0][m]], -2))
        norm += square(target[1][m], target[0][m])
    if norm == 0:
        return math.inf if apart > 0 else 0.0
    return max(apart / norm, 0.0) ** 0.5


# --------------------------------------------------------------------------- the objective

class Library:
    """--mode recon: the L1 distance from the adapters that a library holds for the tasks.

    In space "factors" (the paper's) it is taken between A and A*, B and B*, every entry in units of
    its standard deviation over the library; where all agree, 1 stands for a deviation of 0, so that
    the entry is learnt as it is. A T2L that emits z-scores is compared with z-scores: the same
    distance, for half of the time. In space "delta" it is taken between B A and B* A*.
    """
    unit = "LoRAs"

    def __init__(self, loras: dict[str, LoRA], space: str, z_scores: bool, dtype: torch.dtype):
        self.rows, self.space, self.seen = {name: i for i, name in enumerate(loras)}, space, 0
        self.targets = mapped(stacked(list(loras.values())), Tensor.float)
        self.mean = average_of(loras)
        self.std = mapped(self.targets, deviation)
        self.z_scores = z_scores
        if z_scores:
            self.targets = tuple({m: ((w - self.mean[i][m]) / self.std[i][m]).to(dtype)
                                  for m, w in side.items()} for i, side in enumerate(self.targets))

    def __call__(self, samples: list[Sample], adapters: LoRA) -> Tensor:
        rows = torch.tensor([self.rows[s.task] for s in samples])
        self.seen += len(rows)
        device = next(iter(adapters[0].values())).device
        targets = mapped(self.targets, lambda w: w[rows].to(device))
        if self.space == "delta":
            return DELTA_SCALE * delta_l1(adapters, targets)
        total = count = 0
        for i, side in enumerate(targets):
            for m, target in side.items():
                apart = (adapters[i][m] - target).abs()
                if not self.z_scores:
                    apart = apart / self.std[i][m].to(device)
                total, count = total + apart.sum(dtype=torch.float32), count + apart.numel()
        return total / count


def deviation(w: Tensor) -> Tensor:
    """The standard deviation over the library, (N, …) → (…); 1 where it is 0, or N is 1."""
    std = w.std(0, correction=0)
    return torch.where(std > 0, std, 1.0)
