"""What every command shares: a user's mistakes as one line, files that are never half-written."""
import argparse
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tokenizers
from safetensors import SafetensorError, safe_open


class UserError(Exception):
    """A mistake the user can mend: names the file, what was found, what was expected."""


class Parser(argparse.ArgumentParser):
    """Every option shows its default in --help; a wrong command line is a UserError."""

    def __init__(self, description: str):
        super().__init__(description=description,
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def folder(self, flag: str, text: str, default: str) -> None:
        """A folder that is None unless given; `default` says what then is used."""
        self.add_argument(flag, metavar="DIR", default=None,
                          help=f"{text} (default: {default})%(default).0s")

    def models(self, encoder: str) -> None:
        """Which two models, where and how precisely; `encoder` says what is used unless given."""
        self.folder("--model", "a Hugging Face folder", "SmolLM2-135M-Instruct")
        self.folder("--encoder", "a Hugging Face encoder folder, or base: the language model",
                    encoder)
        self.add_argument("--device", choices=["cpu", "cuda"], default="cpu",
                          help="where the language model runs and training happens")
        self.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16",
                          help="the language model's precision; what is trained is float32")

    def error(self, message: str):
        raise UserError(f"{message}; see --help")


def run(main: Callable[[], None]) -> None:
    """Run a command: a UserError becomes one line on stderr and exit code 2, without traceback; a
    warning becomes one line, too."""
    warnings.formatwarning = lambda message, *where: f"warning: {message}\n"
    try:
        main()
    except (UserError, OSError) as error:           # a full disk, a folder that is not yours …
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted")


@contextmanager
def written_beside(folder: str | Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` at the end, or nothing if anything fails before.

    A new folder appears by one rename; in one that exists, each file is replaced by one.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give the name of a folder to write into")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
        scratch.chmod(0o755)                                  # mkdtemp makes private folders
        if folder.exists():
            for file in sorted(scratch.iterdir()):
                os.replace(file, folder / file.name)
        else:
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def distinct(folders: list[Path]) -> list[Path]:
    """UserError where two folders would have the same name in the table."""
    for name in {folder.name for folder in folders}:
        if len(same := [str(folder) for folder in folders if folder.name == name]) > 1:
            raise UserError(f"{' and '.join(same)} have the same name in the table; rename one")
    return folders


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; UserError when it is missing or not a JSON object."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def read_tokenizer(path: str | Path) -> tokenizers.Tokenizer:
    """A Hugging Face tokenizer.json; UserError when it is missing or broken."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:                      # the library raises nothing more precise
        raise UserError(f"{path} is not a readable tokenizer.json ({error})") from None


def read_shards(folder: Path) -> Iterator[tuple[str, dict]]:
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


def check_vocabulary(tokenizer: tokenizers.Tokenizer, size: int, folder: Path) -> None:
    """UserError where a tokenizer can give ids that a model with `size` embeddings lacks."""
    if (last := max(tokenizer.get_vocab().values())) >= size:
        raise UserError(f"{folder}: tokenizer.json has ids up to {last}, config.json {size} "
                        "embeddings; they belong to different models")


def write_json(path: str | Path, value: dict) -> None:
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def load_strictly(module, tensors: dict, path: str | Path) -> None:
    """A torch module's weights, from tensors that are exactly its own in name and shape and have no
    infinite entry or NaN; else a UserError that names one."""
    import torch                                   # slow to import; data/download.py needs none
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


def read_safetensors(path: str | Path) -> dict:
    """The tensors of a safetensors file by name; memory-mapped, so nothing is copied."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); "
                        "fetch or save it again") from None
