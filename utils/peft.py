"""PEFT's adapter folders in and out, whether an adapter fits a model, merging into a model folder.

An adapter is a pair of dicts over the adapted modules m: A[m] (n, r, d_in), B[m] (n, d_out, r) with
n layers and rank r. Its scale is always folded into B: ΔW = B A.
"""
import json
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from utils.cli import UserError, warn
from utils.files import atomic_folder, clear_scratch, dump_json, read_json
from utils.modules import MODULES, adapted_modules, layer_name
from utils.schema import (FLAG, TEXT, kind_of, misfits, number, object_of, one_of, optional, short,
                          whole)
from utils.weights import READER, check_numbers, checkpoint_folder, read_safetensors, read_shards

LoRA = tuple[dict[str, Tensor], dict[str, Tensor]]
KEY = "base_model.model.{name}.lora_{side}.weight"
KEY_PATTERN = re.compile(r"base_model\.model\.(model\.layers\.(0|[1-9]\d{0,5})\.("
                         + "|".join(rf"{part}\.{m}" for m, part in MODULES.items())
                         + r"))\.lora_([AB])\.weight")

# What PEFT can do beyond ΔW = scale · B A; and starts for which it changed the base's weights, too.
UNSUPPORTED = ("use_dora", "layer_replication", "use_qalora", "use_bdlora", "modules_to_save",
               "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
               "lora_bias", "fan_in_fan_out", "target_parameters", "trainable_token_indices")
BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
ALPHA = number(0, 1e9)
CONFIG = {"r": whole(1, 2**20), "use_rslora": optional(FLAG),
          "base_model_name_or_path": optional(TEXT), "bias": optional(one_of("none")),
          "rank_pattern": optional(object_of(whole(1, 2**20))),
          "alpha_pattern": optional(object_of(ALPHA))}
NAMES_ONLY = re.compile(r"\^?(\w|\\?\.)+")        # a key of these two: of a name, no wildcards


def lora_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """A's and B's, for a model of this dtype: its own; on a CPU without gradients at least fp32,
    for so thin products are several times slower in bf16."""
    thin = device.type == "cpu" and not torch.is_grad_enabled()
    return torch.promote_types(dtype, torch.float32) if thin else dtype


# -------------------------------------------------------------------------------- what fits

def check_pairs(lora: LoRA) -> None:
    """ValueError unless every A has its B: the same modules, batch, layers and rank."""
    if not (isinstance(lora, tuple | list) and len(lora) == 2
            and all(isinstance(side, dict) for side in lora)):
        raise ValueError(f"expected an adapter (A, B), two dicts by module, found {kind_of(lora)}")
    if not (lora[0] or lora[1]):
        raise ValueError("the adapter has no module, so no layer reads it; None is no adapter")
    for m in lora[0].keys() | lora[1].keys():
        if m not in MODULES:
            raise ValueError(f"the adapter is of {m!r}, so no layer reads it; expected of "
                             f"{', '.join(MODULES)}")
        A, B = (tuple(side[m].shape) if m in side else () for side in lora)
        if len(A) < 3 or A[:-2] != B[:-2] or A[-2] != B[-1]:
            raise ValueError(f"{m} has A {A or 'missing'} and B {B or 'missing'}; expected "
                             "(…, n, r, d_in) and (…, n, d_out, r)")


def check_single(lora: LoRA) -> None:
    """ValueError for a batch of adapters where one is needed."""
    check_pairs(lora)
    if any(A.dim() != 3 for A in lora[0].values()):
        raise ValueError("one adapter is needed here, not a batch of them; "
                         "lora.map_lora(adapters, lambda w: w[i]) is number i")


def check_one_each(lora: LoRA | None, n_prompts: int) -> None:
    """ValueError unless there is one adapter for all prompts, or one for each."""
    if lora is not None:
        check_pairs(lora)
    for w in lora[0].values() if lora else ():
        if w.dim() == 4 and len(w) != n_prompts:
            raise ValueError(f"{len(w)} adapters for {n_prompts} prompts; give one for each, or a "
                             "single one without batch axis for all")


def weight_deltas(lora: LoRA) -> dict[str, tuple[Tensor, Tensor]]:
    """{Hugging Face's name of an adapted weight: A (r, d_in), B (d_out, r)}."""
    check_single(lora)
    return {f"{layer_name(i, m)}.weight": (A, B) for m in lora[0]
            for i, (A, B) in enumerate(zip(lora[0][m], lora[1][m]))}


def check_fits(lora: LoRA, shapes: dict[str, torch.Size]) -> None:
    """UserError unless the adapter has a ΔW for each layer's weight, and of its shape."""
    wanted = {name: (len(B), A.shape[-1]) for name, (A, B) in weight_deltas(lora).items()}
    endings = tuple(f".{MODULES[m]}.{m}.weight" for m in lora[0])
    found = {name: tuple(shape) for name, shape in shapes.items() if name.endswith(endings)}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(f"the adapter does not fit the model: its ΔW for {name} is "
                            f"{wanted.get(name, 'missing')}, the model's weight is "
                            f"{found.get(name, 'missing')}")


def hub_name(place: str) -> str:
    """owner/name, where a path leads to a snapshot in the cache of Hugging Face's hub."""
    match = re.search(r"models--([^/\\]+)[/\\]snapshots[/\\][^/\\]+[/\\]?$", place)
    return match[1].replace("--", "/", 1) if match else place


def same_model(name: str | None, other: str | None) -> bool:
    """Whether two names may mean one model: the same after the last "/", or not known."""
    return not name or not other or Path(hub_name(name)).name == Path(hub_name(other)).name


def check_model(t2l, cfg) -> None:
    """UserError unless what a T2L of this T2LConfig makes fits the language model with this
    MistralConfig; a warning where the sizes agree and the names do not."""
    made = t2l.n_layers, t2l.modules
    wanted = cfg.num_hidden_layers, adapted_modules(cfg, t2l.modules)
    if made != wanted:
        raise UserError(f"this T2L makes adapters for {t2l.base_model}, {made} (layers, modules "
                        f"with d_in and d_out); {cfg.name} has {wanted}; give --model the first "
                        "one's folder, or train a T2L for this: python train.py --mode sft "
                        f"--model {shlex.quote(cfg.source)}")
    if not same_model(t2l.base_model, cfg.name):
        warn(f"this T2L makes adapters for {t2l.base_model}, not for {cfg.name}; expect nonsense "
             "unless one is a copy of the other")


# ------------------------------------------------------- the LoRA that a T2L's reader reads with

def save_reader(folder: Path, lora: LoRA) -> None:
    """Write reader.safetensors: A.m (n, r, d_in), B.m (n, d_out, r)."""
    save_file({f"{side}.{m}": w.contiguous() for side, part in zip("AB", lora)
               for m, w in part.items()}, folder / READER)


def read_reader(folder: str | Path) -> LoRA:
    """(A, B) as save_reader left them in a T2L's folder; UserError where they are not there."""
    path = Path(folder) / READER
    tensors = read_safetensors(path)
    lora = tuple({name[2:]: w for name, w in tensors.items() if name[:2] == side + "."}
                 for side in "AB")
    try:
        check_single(lora)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return lora


def reading_lora(folder: str | None, init: str | None, model: nn.Module,
                 modules: list[str]) -> LoRA | None:
    """The LoRA with which a run's language model reads: --read-with's, or that of its --init.
    UserError unless it is for this model, and of the modules of the run."""
    if not folder:
        started = checkpoint_folder(init) if init else None
        return read_reader(started) if started and (started / READER).exists() else None
    lora = load_peft(folder)
    if set(lora[0]) != set(modules):
        raise UserError(f"--read-with {folder} adapts {', '.join(lora[0])}, this run "
                        f"{', '.join(modules)}; --modules {' '.join(lora[0])} trains those")
    try:
        check_fits(lora, {name: weight.shape for name, weight in model.named_parameters()})
    except UserError as error:
        raise UserError(f"--read-with {folder}: {error}") from None
    return lora


# ---------------------------------------------------------------------------- adapter folders

def save_peft(folder: str | Path, lora_A: dict[str, Tensor], lora_B: dict[str, Tensor],
              base_model: str = "", **metadata: str) -> None:
    """Write a PEFT adapter folder: A[m] (n, r, d_in), B[m] (n, d_out, r), lora_alpha = r.

    The scale is already in B, so an engine that ignores `use_rslora` is right as well.
    `metadata` (description, checkpoint …) is kept in the header of the safetensors file. A pair of
    tensors does not know its model: `base_model` says it, for example t2l.cfg.base_model.
    """
    check_single((lora_A, lora_B))
    if not base_model:
        warnings.warn(f"{folder} will not say which model it is for; save_peft takes base_model=…, "
                      "for example t2l.cfg.base_model", stacklevel=2)
    tensors = {KEY.format(name=layer_name(i, module), side=side): weight.contiguous()
               for module in lora_A
               for side, stack in (("A", lora_A[module]), ("B", lora_B[module]))
               for i, weight in enumerate(stack)}

    rank = next(iter(lora_A.values())).shape[-2]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model,
              "r": rank, "lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0,
              "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
              "target_modules": list(lora_A)}

    with atomic_folder(folder) as scratch:
        dump_json(scratch / "adapter_config.json", config)
        save_file(tensors, scratch / "adapter_model.safetensors",
                  metadata={"format": "pt", **metadata})
        sort_metadata(scratch / "adapter_model.safetensors")


def sort_metadata(path: Path) -> None:
    """Order the metadata in a safetensors file's header, which safetensors writes in a random
    order: the same command shall write the same bytes."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        assert len(text) == size, path                    # the same characters, spaces at the end
        file.seek(8)
        file.write(text)


def load_peft(folder: str | Path) -> LoRA:
    """(A, B) of any PEFT LoRA of any of MODULES; its own scale is folded into B.

    Where a rank_pattern makes ranks differ, rows of A and columns of B are filled up with 0. What
    else it adapts is left out with a warning. Raises UserError where the folder is no such adapter,
    one without some layers, or with numbers that are not finite.
    """
    # A plain LoRA?
    folder = Path(folder)
    config = read_json(folder / "adapter_config.json")
    refused, alpha = [key for key in UNSUPPORTED if config.get(key)], config.get("lora_alpha")
    if str(config.get("init_lora_weights")).startswith(BASE_CHANGING_INITS):
        refused.append(f"init_lora_weights={config['init_lora_weights']!r}, for a base it changed")
    if config.get("layers_to_transform") is not None:
        refused.append(f"layers_to_transform={short(config['layers_to_transform'])}; an adapter of "
                       "all layers is needed")
    refused += [f"{field}={short(config[field])}; only names of modules and layers are read"
                for field in ("rank_pattern", "alpha_pattern")
                if isinstance(config.get(field), dict)
                and not all(map(NAMES_ONLY.fullmatch, config[field]))]
    if wrong := misfits(config, CONFIG):
        refused.append(wrong)
    if config.get("peft_type") != "LORA" or not ALPHA.fits(alpha) or refused:
        raise UserError(f"{folder}/adapter_config.json: expected a plain LoRA with lora_alpha, "
                        f"found peft_type {short(config.get('peft_type'))}, lora_alpha "
                        f"{short(alpha)} " + ", ".join(refused))

    # Its tensors: "Aq_proj" … → layer → tensor.
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    found: dict[str, dict[int, Tensor]] = {side + m: {} for side in "AB" for m in MODULES}
    for key in list(tensors):
        if match := KEY_PATTERN.fullmatch(key):
            _, layer, module, side = match.groups()
            found[side + module.split(".")[1]][int(layer)] = tensors.pop(key)

    # Every layer from 0 on, in A and in B.
    modules = [m for m in MODULES if found["A" + m] or found["B" + m]]
    layers = {tuple(sorted(found[side + m])) for m in modules for side in "AB"}
    if len(layers) != 1 or layers != {tuple(range(len(next(iter(layers)))))}:
        raise UserError(f"{folder}: expected LoRA pairs of any of {', '.join(MODULES)}, for every "
                        f"layer, found {'gaps' if layers else next(iter(tensors), 'nothing')}")
    if tensors:
        warnings.warn(f"{folder}: left out {len(tensors)} tensors such as {next(iter(tensors))}; "
                      f"only a layer's {', '.join(MODULES)} are adapted here, so it does less than "
                      "it did")
    return stack_and_scale(folder, {m: [(found["A" + m][i], found["B" + m][i])
                                        for i in range(len(found["A" + m]))] for m in modules},
                           config)


def stack_and_scale(folder: Path, pairs: dict[str, list[tuple[Tensor, Tensor]]],
                    config: dict) -> LoRA:
    """Each layer's A and B, by module, as one LoRA with its scale in B."""
    # Shapes that fit each other.
    sides = [w for part in pairs.values() for w in zip(*part)]                # A, B, A, B …
    ranks = {w.shape[i % 2] if w.dim() == 2 else "none" for i, side in enumerate(sides)
             for w in side}
    one_rank = len(ranks) == 1 or config.get("rank_pattern")
    if "none" in ranks or not one_rank or any(len({w.shape[1 - i % 2] for w in side}) > 1
                                              for i, side in enumerate(sides)):
        raise UserError(f"{folder}: expected A (r, d_in) and B (d_out, r), in all layers alike; "
                        f"found ranks {', '.join(sorted(map(str, ranks)))}")
    if any(w.numel() == 0 for side in sides for w in side):
        raise UserError(f"{folder}: holds tensors without numbers, as of training in shards; save "
                        "it again, gathered")

    # Each layer's own scale.
    lora: LoRA = ({}, {})
    for module, part in pairs.items():
        scaled = [scale_pair(folder, config, layer_name(i, module), A, B, max(ranks))
                  for i, (A, B) in enumerate(part)]
        for side, rows in zip(lora, zip(*scaled)):
            side[module] = torch.stack(rows)
    return lora


def scale_pair(folder: Path, config: dict, name: str, A: Tensor, B: Tensor,
               rank: int) -> tuple[Tensor, Tensor]:
    """One layer's A and scaled B, filled up to `rank`; UserError where its scale is not certain."""
    def said(field: str, usual: float) -> float:
        patterns = config.get(field) or {}
        return next((value for pattern, value in patterns.items()       # the first, as in PEFT
                     if re.match(rf"(.*\.)?({pattern})$", name)), usual)

    r = said("rank_pattern", config.get("r", len(A)))
    if not r == len(A) == B.shape[1]:
        raise UserError(f"{folder}: adapter_config.json says r {r}, its tensors have rank "
                        f"{len(A)} in {name}, so its scale is not certain")
    scale = said("alpha_pattern", config["lora_alpha"]) / (r ** 0.5 if config.get("use_rslora")
                                                           else r)
    for w in (A, B):
        check_numbers(w, f"{folder}:")
    B = B * scale
    check_numbers(B, f"{folder}: B times its scale of {scale:g}")
    return F.pad(A, (0, 0, 0, rank - r)), F.pad(B, (0, rank - r))


# ------------------------------------------------------------------------------ model folders

def merge_folder(source: str | Path, lora: LoRA, out: str | Path,
                 add_delta: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Write a Hugging Face folder like `source`, file by file: add_delta(W, A, B) in place of W.

    Config and tokenizer come along, weights in other formats do not. Raises UserError where
    `source` is no such folder, `out` is not empty, or the adapter's layers or shapes are not its.
    """
    source, out, deltas = Path(source), Path(out), weight_deltas(lora)
    clear_scratch(out)
    if out.is_dir() and any(out.iterdir()):             # shards of another model would be mixed in
        raise UserError(f"{out} is not empty; give a new folder for the merged model")
    check_fits(lora, {k: w.shape for _, part in read_shards(source) for k, w in part.items()})

    with atomic_folder(out) as scratch:
        for file in source.iterdir():
            if file.suffix in (".json", ".txt", ".model", ".jinja") and "adapter" not in file.name:
                shutil.copy(file, scratch)
        for name, weights in read_shards(source):
            for k in weights.keys() & deltas.keys():
                check_numbers(weights[k], f"{source / name}: {k}")
                weights[k] = add_delta(weights[k], *deltas[k])
                check_numbers(weights[k], f"{source / name} with the adapter: {k}")
            save_file(weights, scratch / name, metadata={"format": "pt"})
        if (scratch / "model.safetensors").exists():              # an old index was not read
            (scratch / "model.safetensors.index.json").unlink(missing_ok=True)
