"""Low-rank adaptation: y = W x + B A x (arXiv 2106.09685; arXiv 2506.06105, section 2).

An adapter is a pair (A, B) of dicts over the adapted modules m:
    A[m] (n, r, d_in) or (b, n, r, d_in)      B[m] (n, d_out, r) or (b, n, d_out, r)
with n layers, rank r and, optionally, one adapter for each of b samples. ΔW is always B A: whatever
scale a method has (alpha / r, alpha / √r) is folded into B where the adapter leaves that method.
The adapter is an argument of the model, never a patch on it: gradients flow and nothing is hidden.
"""
import copy
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from data.files import (UserError, read_json, read_safetensors, read_shards, write_json,
                        written_beside)

TARGETS = ("q_proj", "v_proj")
LoRA = tuple[dict[str, Tensor], dict[str, Tensor]]
KEY = "base_model.model.model.layers.{layer}.self_attn.{module}.lora_{side}.weight"
NAMED = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.self_attn\.(q_proj|v_proj)"
                   r"\.lora_([AB])\.weight")


def linear(x: Tensor, weight: Tensor, adapter: tuple[Tensor, Tensor] | None) -> Tensor:
    """x (b, t, d_in) → (b, t, d_out): the frozen layer, plus the adapter's low-rank detour.

    `adapter` is A (r, d_in), B (d_out, r) for the whole batch, or A (b, r, d_in), B (b, d_out, r)
    for one adapter per sample: then two batched matmuls, and nothing is repeated per token.
    """
    y = F.linear(x, weight)
    if adapter is None:
        return y
    A, B = adapter
    return y + x @ A.transpose(-1, -2) @ B.transpose(-1, -2)


def per_layer(lora: LoRA | None, sizes: dict[str, tuple[int, int]], n_layers: int,
              x: Tensor) -> list[dict]:
    """[{module: (A, B)} for each layer], in the dtype and on the device of the input x (b, t, d).

    `sizes` are the model's (d_out, d_in) by module; UserError where the adapter's are others.
    `unbind` and not indexing: its backward stacks n gradients once, where n slices would each
    allocate a gradient as large as the whole adapter. Layers come first in memory, so that no layer
    has to gather its part again.
    """
    layers: list[dict] = [{} for _ in range(n_layers)]
    if lora:
        check_pairs(lora)
    for module in lora[0] if lora else ():
        A, B = (layers_first(side[module].to(x)) for side in lora)
        found = (*A.shape[:-2], B.shape[-2], A.shape[-1])
        d_out, d_in = sizes.get(module, (0, 0))
        if found not in ((n_layers, d_out, d_in), (len(x), n_layers, d_out, d_in)):
            raise UserError(f"the adapter does not fit the model: its {module} is {found} (layers, "
                            f"d_out, d_in), the model's {(n_layers, d_out, d_in)}, or that for "
                            f"each of {len(x)} samples")
        for layer, pair in zip(layers, zip(A.unbind(-3), B.unbind(-3))):
            layer[module] = pair
    return layers


def check_pairs(lora: LoRA) -> None:
    """UserError unless every A has its B: the same modules, batch, layers and rank."""
    for m in lora[0].keys() | lora[1].keys():
        A, B = (tuple(side[m].shape) if m in side else () for side in lora)
        if len(A) < 3 or A[:-2] != B[:-2] or A[-2] != B[-1]:
            raise UserError(f"{m} has A {A or 'missing'} and B {B or 'missing'}; expected "
                            "(…, n, r, d_in) and (…, n, d_out, r)")


def check_single(lora: LoRA) -> None:
    """UserError for a batch of adapters where one is needed."""
    check_pairs(lora)
    if any(A.dim() != 3 for A in lora[0].values()):
        raise UserError("one adapter is needed here, not a batch of them; "
                        "lora.mapped(adapters, lambda w: w[i]) is number i")


def mapped(lora: LoRA, change: Callable[[Tensor], Tensor]) -> LoRA:
    """`change` of every A[m] and B[m]; lambda w: w[i] gives adapter i of a batch."""
    return tuple({m: change(w) for m, w in side.items()} for side in lora)


def layers_first(w: Tensor) -> Tensor:
    """The same (…, n, i, j), each layer's part of the batch contiguous in memory."""
    return w.movedim(-3, 0).contiguous().movedim(0, -3)


def deltas_of(lora: LoRA) -> dict[str, tuple[Tensor, Tensor]]:
    """{Hugging Face's name of an adapted weight: A (r, d_in), B (d_out, r)}."""
    check_single(lora)
    return {f"model.layers.{i}.self_attn.{m}.weight": (A, B) for m in lora[0]
            for i, (A, B) in enumerate(zip(lora[0][m], lora[1][m]))}


def check_fits(lora: LoRA, shapes: dict[str, torch.Size]) -> None:
    """UserError unless the adapter has a ΔW for each layer's weight, and of its shape."""
    wanted = {name: (len(B), A.shape[-1]) for name, (A, B) in deltas_of(lora).items()}
    endings = tuple(f".self_attn.{m}.weight" for m in lora[0])
    found = {name: tuple(shape) for name, shape in shapes.items() if name.endswith(endings)}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(f"the adapter does not fit the model: its ΔW for {name} is "
                            f"{wanted.get(name, 'missing')}, the model's weight is "
                            f"{found.get(name, 'missing')}")


def plus(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """W + B A, added in fp32, in W's dtype."""
    return (W.float() + (B.float() @ A.float()).to(W.device)).to(W.dtype)


def merge(model: nn.Module, lora: LoRA) -> nn.Module:
    """A model with W + B A in place of W; all other weights are shared with `model`, not copied.

    Raises UserError where the adapter's layers or shapes are not the model's.
    """
    weights, deltas = dict(model.named_parameters()), deltas_of(lora)
    check_fits(lora, {name: weight.shape for name, weight in weights.items()})
    shared = {id(weight): weight for name, weight in weights.items() if name not in deltas}
    merged = copy.deepcopy(model, shared)
    with torch.no_grad():
        for name, pair in deltas.items():
            merged.get_parameter(name).copy_(plus(weights[name], *pair))
    return merged


def merge_folder(source: str | Path, lora: LoRA, out: str | Path) -> None:
    """Write a Hugging Face folder like `source` with W + B A in place of W, file by file.

    Config and tokenizer come along, weights in other formats do not. Raises UserError where
    `source` is no such folder, `out` is not empty, or the adapter's layers or shapes are not its.
    """
    source, out, deltas = Path(source), Path(out), deltas_of(lora)
    if out.is_dir() and any(out.iterdir()):             # shards of another model would be mixed in
        raise UserError(f"{out} is not empty; give a new folder for the merged model")
    check_fits(lora, {k: w.shape for _, part in read_shards(source) for k, w in part.items()})
    with written_beside(out) as scratch:
        for file in source.iterdir():
            if file.suffix in (".json", ".txt", ".model", ".jinja") and "adapter" not in file.name:
                shutil.copy(file, scratch)
        for name, weights in read_shards(source):
            weights |= {k: plus(weights[k], *deltas[k]) for k in weights.keys() & deltas.keys()}
            save_file(weights, scratch / name, metadata={"format": "pt"})


def save_peft(folder: str | Path, lora_A: dict[str, Tensor], lora_B: dict[str, Tensor],
              base_model: str = "", **metadata: str) -> None:
    """Write a PEFT adapter folder: A[m] (n, r, d_in), B[m] (n, d_out, r), lora_alpha = r.

    The scale is already in B, so an engine that ignores `use_rslora` is right as well.
    `metadata` (description, checkpoint …) is kept in the header of the safetensors file.
    """
    check_single((lora_A, lora_B))
    tensors = {}
    for module in lora_A:
        for side, stack in (("A", lora_A[module]), ("B", lora_B[module])):
            for i, weight in enumerate(stack):
                tensors[KEY.format(layer=i, module=module, side=side)] = weight.contiguous()
    rank = next(iter(lora_A.values())).shape[-2]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model,
              "r": rank, "lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0,
              "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
              "target_modules": list(lora_A)}
    with written_beside(folder) as scratch:
        write_json(scratch / "adapter_config.json", config)
        save_file(tensors, scratch / "adapter_model.safetensors",
                  metadata={"format": "pt", **metadata})


# What PEFT can do beyond ΔW = scale · B A; and starts for which it changed the base's weights, too.
ODD = ("use_dora", "rank_pattern", "alpha_pattern", "layer_replication", "use_qalora", "use_bdlora",
       "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config")
MOVED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def load_peft(folder: str | Path) -> LoRA:
    """(A, B) of any PEFT LoRA of q_proj and/or v_proj; its own scale is folded into B.

    What it adapts besides is left out with a warning. Raises UserError where the folder is no such
    adapter, one without some layers, of several ranks, or with numbers that are not finite.
    """
    folder = Path(folder)
    config = read_json(folder / "adapter_config.json")
    odd, alpha = [key for key in ODD if config.get(key)], config.get("lora_alpha")
    if str(config.get("init_lora_weights")).startswith(MOVED_BASE):
        odd.append(f"init_lora_weights={config['init_lora_weights']!r}, for a base it changed")
    if config.get("peft_type") != "LORA" or not isinstance(alpha, int | float) or odd:
        raise UserError(f"{folder}/adapter_config.json: expected a plain LoRA with lora_alpha, "
                        f"found peft_type {config.get('peft_type')!r}, lora_alpha {alpha!r} "
                        + ", ".join(odd))
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    found: dict[str, dict] = {side + m: {} for side in "AB" for m in TARGETS}
    for key in list(tensors):
        if match := NAMED.fullmatch(key):
            layer, module, side = match.groups()
            found[side + module][int(layer)] = tensors.pop(key)
    modules = [m for m in TARGETS if found["A" + m] or found["B" + m]]
    layers = {tuple(sorted(found[side + m])) for m in modules for side in "AB"}
    if len(layers) != 1 or layers != {tuple(range(len(next(iter(layers)))))}:
        raise UserError(f"{folder}: expected LoRA pairs of self_attn.q_proj or v_proj for every "
                        f"layer, found {'gaps' if layers else next(iter(tensors), 'nothing')}")
    if tensors:
        warnings.warn(f"{folder}: left out {len(tensors)} tensors such as {next(iter(tensors))}; "
                      "only q_proj and v_proj are adapted here, so it does less than it did")
    rows = {key: [part[i] for i in sorted(part)] for key, part in found.items() if part}
    return folded(folder, rows, alpha, config)


def folded(folder: Path, rows: dict[str, list[Tensor]], alpha: float, config: dict) -> LoRA:
    """Each layer's A and B, under "Aq_proj", "Bq_proj" …, as one LoRA with its scale in B."""
    ranks = {w.shape[side == "B"] if w.dim() == 2 else "none"
             for (side, *_), part in rows.items() for w in part}
    if len(ranks) != 1 or any(len({w.shape for w in part}) > 1 for part in rows.values()):
        raise UserError(f"{folder}: expected A (r, d_in) and B (d_out, r), in all layers alike; "
                        f"found ranks {', '.join(sorted(map(str, ranks)))}")
    if not all(w.isfinite().all() for part in rows.values() for w in part):
        raise UserError(f"{folder}: holds numbers that are not finite; train or save it again")
    rank = ranks.pop()
    scale = alpha / (rank ** 0.5 if config.get("use_rslora") else rank)
    return ({key[1:]: torch.stack(part) for key, part in rows.items() if key[0] == "A"},
            {key[1:]: torch.stack(part) * scale for key, part in rows.items() if key[0] == "B"})
