"""Weights on disk: safetensors files, sharded folders, strict loading, a fingerprint; the precision
they are computed with."""
import argparse
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from utils.cli import UserError
from utils.download import model_folder
from utils.files import read_json, weight_files
from utils.schema import FLAG, LAYERS, TEXT, WIDTH, list_of, misfits, number, object_of, whole

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"       # the committed ones
READER = "reader.safetensors"            # beside a T2L's weights: the LoRA that it reads with
SMALL_MODEL = 2 << 30             # bytes as stored: a laptop has room for it in fp32, too
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
T2L = {"arch": TEXT, "emb_size": WIDTH, "n_layers": LAYERS,
       "modules": object_of(list_of(WIDTH, 2)), "rank": WIDTH, "alpha": number(0, 1e9),
       "latent": whole(4, 2**20, 4), "head_in": WIDTH, "bases": WIDTH, "dropout": number(0, 1),
       "head_bias": FLAG, "base_model": TEXT, "encoder": TEXT, "reader": TEXT, "z_scored": FLAG,
       "tasks": list_of(TEXT)}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; memory-mapped, so nothing is copied."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); "
                        "fetch or save it again") from None


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors; {} where it says nothing."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_shards(folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(file name, its tensors) for the files of weights in a Hugging Face folder.

    Raises UserError where the index is odd or a shard holds other tensors than it says.
    """
    files = weight_files(folder)
    home = {name: shard for shard, names in files.items() for name in names or ()}
    for shard, names in files.items():
        tensors = read_safetensors(folder / shard)
        for name in sorted(tensors.keys() ^ (tensors.keys() if names is None else names)):
            raise UserError(f"{folder / shard} {'holds' if name in tensors else 'lacks'} {name}, "
                            "but model.safetensors.index.json puts it in "
                            f"{home.get(name, 'no file')}; fetch both again")
        yield shard, tensors


def read_model_weights(folder: Path, tied: bool, n_layers: int) -> dict[str, Tensor]:
    """All tensors of a language model's folder, without what follows from its config: RoPE's
    frequencies, and the copy of the embeddings where the output head is tied to them.

    UserError where that is no copy, or where there are more or fewer than `n_layers` layers: this
    is told before a model of that size is built.
    """
    weights = {name: w for _, shard in read_shards(folder) for name, w in shard.items()
               if not name.endswith("rotary_emb.inv_freq")}
    check_layer_count(weights, "model.layers", n_layers, folder)
    head, embedded = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    if tied and head is not None and embedded is not None:
        if head.dtype != embedded.dtype or not torch.equal(head, embedded):
            raise UserError(f"{folder}: config.json ties the head to the embeddings, but another "
                            "lm_head.weight is stored; say \"tie_word_embeddings\": false to use "
                            "it, or delete it")
        del weights["lm_head.weight"]
    return weights


def check_layer_count(names: Iterable[str], prefix: str, expected: int, path: str | Path) -> None:
    """UserError unless the layers among these names, "prefix.0.…" and so on, are as many."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,9})\.")
    found = 1 + max((int(match[1]) for match in map(pattern.match, names) if match), default=-1)
    if found != expected:
        raise UserError(f"{path}: config.json says num_hidden_layers {expected}, the weights hold "
                        f"{found} layers")


def committed() -> dict[str, Path]:
    """{name: folder} of CHECKPOINTS."""
    return {path.name: path for path in sorted(CHECKPOINTS.glob("[!.]*/"))}


def checkpoint_folder(given: str | Path) -> Path:
    """A folder, or one of CHECKPOINTS by its name; UserError for what is neither."""
    known = committed()
    if not (folder := Path(given)).exists():
        folder = known.get(str(given))
    if folder is None:
        raise UserError(f"{given} does not exist; expected a folder that train.py wrote, or a "
                        f"committed checkpoint's name: {', '.join(known)}")
    return folder


def checkpoint_folders(given: list[str] | None) -> list[Path]:
    """What --ckpt names; all committed ones where it is left out."""
    return [checkpoint_folder(one) for one in given or committed().values()]


def t2l_fields(folder: Path) -> dict:
    """The fields of a checkpoint's T2LConfig; UserError where they are none."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder it is in, {folder.parent}")
    fields = read_json(folder / "config.json").get("t2l")
    if not isinstance(fields, dict):
        raise UserError(f"{folder}/config.json has no \"t2l\" section; expected a folder written "
                        "by train.py --mode sft or recon")
    check_t2l(fields, f"{folder}/config.json, section \"t2l\"")
    return fields


def init_fields(given: str) -> dict:
    """What --init fixes unless flags say it: its T2LConfig's fields; {} for the authors' folder and
    for a one-hot T2L, of which load_t2l and check_same_t2l say what does not fit."""
    folder = checkpoint_folder(given)
    fields = {} if (folder / "hypermod.pt").exists() else t2l_fields(folder)
    return {} if fields.get("tasks") else fields


def read_t2l_folder(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """A checkpoint as train.py writes it: (the fields of its T2LConfig, its tensors)."""
    fields = t2l_fields(folder)
    if fields.get("reader"):
        if not (folder / READER).exists():
            raise UserError(f"{folder / READER} is missing: this T2L was trained with --read-with, "
                            "and reads with the LoRA in it; copy the whole folder")
        fields["reader"] = str(folder)
    return fields, read_safetensors(folder / "t2l.safetensors")


def check_t2l(fields: dict, where: str | Path) -> None:
    """UserError for fields of a T2LConfig that are not of their kind."""
    if wrong := misfits(fields, T2L):
        raise UserError(f"{where}: found {wrong}")
    if not fields.get("modules"):
        raise UserError(f"{where}: expected modules, from names to their d_in and d_out")
    if (tasks := fields.get("tasks")) and len(tasks) != fields.get("emb_size"):
        raise UserError(f"{where}: {len(tasks)} tasks, but an emb_size of {fields.get('emb_size')}")


def check_numbers(w: Tensor, what: str) -> None:
    """UserError for a weight that cannot be computed with: quantised, or not finite."""
    if w.dtype not in FLOATS or w.layout != torch.strided:
        raise UserError(f"{what} is stored as {str(w.dtype).removeprefix('torch.')}; "
                        "expected float32, bfloat16 or float16, not a quantised model")
    if not w.sum(dtype=torch.float32).isfinite():                     # faster than every entry
        raise UserError(f"{what} holds numbers that are not finite, or too large to add up in "
                        "float32; fetch or train it again")


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Give a module these weights, which must be exactly its own in name and shape and hold no
    infinite entry or NaN; else a UserError that names one."""
    expected = {name: tuple(w.shape) for name, w in module.state_dict().items()}
    found = {name: tuple(w.shape) for name, w in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(f"{path}: {name} is {found.get(name, 'missing')}, the config and the "
                            f"other tensors expect {expected.get(name, 'no such weight')}")
        check_numbers(tensors[name], f"{path}: {name}")
    module.load_state_dict(tensors, strict=True, assign=True)


def usual_dtype(device: str, path: str | Path | None = None) -> torch.dtype:
    """A language model's precision where none is given: bf16; fp32 for a small model on a CPU
    without instructions for bf16, which emulates them and multiplies at a third of fp32's speed."""
    cpu = torch.cpu.get_capabilities()
    if device != "cpu" or any(cpu.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return torch.bfloat16
    files = [] if path is None else model_folder(path).glob("*.safetensors")
    n_bytes = sum(file.stat().st_size for file in files if file.is_file())
    return torch.float32 if n_bytes <= SMALL_MODEL else torch.bfloat16


def chosen_dtype(args: argparse.Namespace) -> torch.dtype:
    """--dtype, or what is usual for --model on --device."""
    return getattr(torch, args.dtype) if args.dtype else usual_dtype(args.device, args.model)


def fingerprint(module: nn.Module) -> str:
    """The sha256 of all weights in bf16, by which an adapter says what made it."""
    digest = hashlib.sha256()
    for name, w in sorted(module.state_dict().items()):
        digest.update(name.encode() + w.bfloat16().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
