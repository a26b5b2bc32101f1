"""Weights on disk: safetensors files, sharded folders, strict loading, a fingerprint."""
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from utils.cli import UserError
from utils.files import read_json


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; memory-mapped, so nothing is copied."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); "
                        "fetch or save it again") from None


def read_shards(folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(file name, its tensors) of a Hugging Face folder: one file, or the shards its index names.

    Raises UserError where the index is odd or a shard holds other tensors than it says.
    """
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        yield "model.safetensors", read_safetensors(folder / "model.safetensors")
        return

    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of or \
            any(Path(str(name)).name != name for name in shard_of.values()):
        raise UserError(f"{index}: expected a weight_map, from tensors to the files beside it")

    for shard in sorted(set(shard_of.values())):
        tensors = read_safetensors(folder / shard)
        for name in sorted(tensors.keys() ^ {k for k, file in shard_of.items() if file == shard}):
            raise UserError(f"{folder / shard} {'holds' if name in tensors else 'lacks'} {name}, "
                            f"but {index.name} puts it in {shard_of.get(name, 'no file')}; fetch "
                            "both again")
        yield shard, tensors


def read_model_weights(folder: Path, tied: bool) -> dict[str, Tensor]:
    """All tensors of a language model's folder, without what follows from its config: RoPE's
    frequencies, and the copy of the embeddings where the output head is tied to them."""
    weights = {name: w for _, shard in read_shards(folder) for name, w in shard.items()
               if not name.endswith("rotary_emb.inv_freq")}
    if tied:
        weights.pop("lm_head.weight", None)
    return weights


def read_t2l_folder(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """A checkpoint as train.py writes it: (the fields of its T2LConfig, its tensors in fp32)."""
    fields = read_json(folder / "config.json").get("t2l")
    if fields is None:
        raise UserError(f"{folder}/config.json has no \"t2l\" section; expected a folder written "
                        "by train.py --mode sft or recon")
    tensors = read_safetensors(folder / "t2l.safetensors")
    return fields, {name: w.float() for name, w in tensors.items()}


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Give a module these weights, which must be exactly its own in name and shape and hold no
    infinite entry or NaN; else a UserError that names one."""
    expected = {name: tuple(w.shape) for name, w in module.state_dict().items()}
    found = {name: tuple(w.shape) for name, w in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(f"{path}: {name} is {found.get(name, 'missing')}, the config and the "
                            f"other tensors expect {expected.get(name, 'no such weight')}")
        if not tensors[name].sum(dtype=torch.float32).isfinite():     # faster than every entry
            raise UserError(f"{path}: {name} holds numbers that are not finite; fetch or train it "
                            "again")
    module.load_state_dict(tensors, strict=True, assign=True)


def fingerprint(module: nn.Module) -> str:
    """The sha256 of all weights in bf16, by which an adapter says what made it."""
    digest = hashlib.sha256()
    for name, w in sorted(module.state_dict().items()):
        digest.update(name.encode() + w.bfloat16().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
