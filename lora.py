"""Low-rank adaptation: y = W x + B A x (arXiv 2106.09685; arXiv 2506.06105, section 2).

An adapter is a pair (A, B) of dicts over the adapted modules m:

    A[m] (n, r, d_in) or (b, n, r, d_in)        B[m] (n, d_out, r) or (b, n, d_out, r)

with n layers, rank r and, optionally, one adapter for each of b samples. It is an argument of the
model, never a patch on it: gradients flow through it, and nothing is hidden.

One rule for the scale: outside of T2L and of train.py's LoRATable ΔW is always B A. Their
`adapters` multiply B by alpha / √r (below); nothing after that needs to know of it.
"""
import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.modules import MODULES, TARGETS, in_order      # noqa: F401, to be imported from here
from utils.peft import LoRA, check_fits, check_pairs, lora_dtype, weight_deltas
from utils.peft import load_peft, save_peft                # noqa: F401, to be imported from here
from utils.schema import check_types


def lora_scale(alpha: float, rank: int) -> float:
    """alpha / √r, not the usual alpha / r, which slows learning as r grows (arXiv 2312.03732)."""
    return alpha / math.sqrt(rank)


# ----------------------------------------------------------------------------- apply

def lora_linear(x: Tensor, linear: nn.Module, adapter: tuple[Tensor, Tensor] | None) -> Tensor:
    """x (b, t, d_in) → (b, t, d_out): the frozen layer, plus the adapter's low-rank detour.

    `adapter` is one layer's A (r, d_in), B (d_out, r), shared by the whole batch, or one for each
    sample, A (b, r, d_in), B (b, d_out, r). In the second case @ is a batched matmul: x[i] (t,
    d_in) meets A[i] and B[i], and no adapter is copied for every token.
    """
    y = linear(x)
    if adapter is None:
        return y

    A, B = adapter
    down = x.to(A.dtype) @ A.transpose(-1, -2)                        # (b, t, r)
    return y + (down @ B.transpose(-1, -2)).to(y.dtype)               # (b, t, d_out)


def split_layers(lora: LoRA | None, sizes: dict[str, tuple[int, int]], n_layers: int,
                 x: Tensor) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """[{module: (A, B)} for each layer], on the device of the input x (b, t, d), in lora_dtype.

    `sizes` are the model's (d_out, d_in) by module; ValueError where the adapter's are others.
    """
    layers: list[dict] = [{} for _ in range(n_layers)]
    if lora is None:
        return layers

    check_pairs(lora)
    dtype = lora_dtype(x.device, x.dtype)
    for module in lora[0]:
        A, B = (contiguous_by_layer(side[module].to(x.device, dtype)) for side in lora)

        # Does it fit? One adapter for all samples, or one for each.
        found = (*A.shape[:-2], B.shape[-2], A.shape[-1])
        expected = (n_layers, *sizes.get(module, (0, 0)))
        if found not in (expected, (len(x), *expected)):
            raise ValueError(f"the adapter does not fit the model: its {module} is {found} "
                             f"(layers, d_out, d_in), the model's {expected}, or that for each of "
                             f"{len(x)} samples")

        # unbind and not indexing: its backward stacks n gradients once, where each of n slices
        # would allocate a gradient as large as the whole adapter.
        for layer, pair in zip(layers, zip(A.unbind(-3), B.unbind(-3))):
            layer[module] = pair
    return layers


# --------------------------------------------------------------------- change, lay out

def map_lora(lora: LoRA, change: Callable[[Tensor], Tensor]) -> LoRA:
    """`change` of every A[m] and B[m]; lambda w: w[i] gives adapter i of a batch."""
    A, B = ({m: change(w) for m, w in side.items()} for side in lora)
    return A, B


def contiguous_by_layer(w: Tensor) -> Tensor:
    """The same (…, n, i, j) with n outermost in memory: a layer's matmul need not copy its part."""
    return w.movedim(-3, 0).contiguous().movedim(0, -3)


def mix_loras(weighed: list[tuple[LoRA, float]]) -> LoRA:
    """Adapters and what each counts → the one whose ΔW is w₁ ΔW₁ + w₂ ΔW₂ + …: their ranks side by
    side, [w₁ B₁, w₂ B₂, …] [A₁; A₂; …]. Of a single one, w is its strength."""
    (A, B), _ = weighed[0]
    return ({m: torch.cat([lora[0][m] for lora, _ in weighed], -2) for m in A},
            {m: torch.cat([w * lora[1][m] for lora, w in weighed], -1) for m in B})


# ----------------------------------------------------------------------------- merge

def add_delta(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """W + B A, computed in fp32, returned in W's dtype."""
    return (W.float() + (B.float() @ A.float()).to(W.device)).to(W.dtype)


def merge(model: nn.Module, lora: LoRA) -> nn.Module:
    """A model with W + B A in place of W; all other weights are shared with `model`, not copied.

    Raises UserError where the adapter's layers or shapes are not the model's.
    """
    check_types(model=(model, nn.Module))
    weights, deltas = dict(model.named_parameters()), weight_deltas(lora)
    check_fits(lora, {name: weight.shape for name, weight in weights.items()})

    # deepcopy does not copy what its memo holds: there we put all weights that stay.
    shared = {id(weight): weight for name, weight in weights.items() if name not in deltas}
    merged = copy.deepcopy(model, shared)
    with torch.no_grad():
        for name, pair in deltas.items():
            merged.get_parameter(name).copy_(add_delta(weights[name], *pair))
    return merged
