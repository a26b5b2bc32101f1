"""Text and JSON, folders that appear whole or not at all, locks, and names that must differ."""
import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from utils.cli import UserError, on_interrupt
from utils.schema import TEXT

try:
    import fcntl
except ImportError:                                      # Windows
    fcntl = None

HALF_PAIR = re.compile("[\ud800-\udfff]")         # half of a UTF-16 pair: no character, no UTF-8


def read_text(path: str | Path) -> str:
    """A UTF-8 file's text, without a byte order mark; UserError says what else it seems to be."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    guess = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:64] else \
        "a code page of Windows, such as cp1252"
    try:
        if guess != "UTF-16":
            return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    raise UserError(f"{path} is not a text file in UTF-8; if it is text, it may be {guess}: save "
                    "it as UTF-8")


def parse_json(text: str, where: str | Path) -> Any:
    """What a JSON text says; ValueError where it is none. Half a surrogate pair, which JSON can
    write and no tokenizer can read, becomes U+FFFD with a warning."""
    try:
        found = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            whole = HALF_PAIR.sub("\ufffd", dumped := json.dumps(found, ensure_ascii=False))
            if whole != dumped:
                warnings.warn(f"{where} has half a surrogate pair (like \\ud83d), which is no "
                              "character; \ufffd takes its place")
                found = json.loads(whole)
        return found
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; UserError when it is missing or not a JSON object."""
    text = read_text(path)
    try:
        found = parse_json(text, path)
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def listed(folder: Path, pattern: str) -> list[Path]:
    """A folder's files of this pattern by name, without those that systems and editors leave beside
    them: ._a.json, .a.json, ~$a.json."""
    return sorted(path for path in folder.glob(pattern)
                  if not path.name.startswith((".", "~")) and not path.is_dir())


def write_json(path: str | Path, value: dict) -> None:
    """Into a folder that is in use: the file is whole, or as it was before."""
    with atomic_folder(Path(path).parent) as scratch:
        dump_json(scratch / Path(path).name, value)


def dump_json(path: Path, value: dict) -> None:
    """Into a scratch folder, which is settled as a whole."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")    # a path that is no UTF-8


PICKLES = (".bin", ".pt", ".pth")


def convert(model: str) -> str:
    """The way out of a model with an old format: `model` is a folder, or its name on the hub."""
    return ("convert it with transformers: python -c \"from transformers import "
            "AutoModelForCausalLM, AutoTokenizer; AutoModelForCausalLM.from_pretrained("
            f"{model!r}, dtype='auto').save_pretrained('converted'); AutoTokenizer.from_pretrained("
            f"{model!r}).save_pretrained('converted')\", then --model converted")


def weight_files(folder: Path) -> dict[str, set[str] | None]:
    """{file of weights in a Hugging Face folder: the tensors that the index puts into it}; of a
    single file, whatever it holds: None. Of both the single file, as transformers does, with a
    warning. UserError where the index is odd."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if not index.exists():
        pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
        if pickles and not single.exists():
            raise UserError(f"{folder} has no model.safetensors, only {pickles[0]}, which may run "
                            f"any code when it is opened and is not read here; "
                            f"{convert(str(folder))}")
        return {single.name: None}

    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of or \
            not all(TEXT.fits(name) and Path(name).name == name for name in shard_of.values()):
        raise UserError(f"{index}: expected a weight_map, from tensors to the files beside it")
    if single.exists() and single.name not in shard_of.values():
        warnings.warn(f"{folder} holds both model.safetensors and {index.name} with its shards; "
                      "the single file is read, delete what is old")
        return {single.name: None}
    return {shard: {name for name, file in shard_of.items() if file == shard}
            for shard in sorted(set(shard_of.values()))}


# ------------------------------------------------------------------ all of it or nothing

SCRATCH = ".text-to-lora-part-"         # and twelve hex digits; lists of folders pass over "."


@contextmanager
def atomic_folder(folder: str | Path, stale: Iterable[str] = ()) -> Iterator[Path]:
    """A scratch folder whose files are in `folder` at the end, or nothing if anything fails before.

    A new folder appears by one rename. In one that exists each file is replaced by one, for that
    folder alone may be on its disk, or writable: a config.json, which describes the others, is
    taken away first and comes last; files named in `stale` go when the new ones are there. All is
    on the disk before the first rename, and as readable by others as the umask says.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise UserError(f"{folder} is a file; give the name of a folder to write into")
    folder = Path(os.path.realpath(folder))              # of a link: where it leads
    place = folder if folder.exists() else folder.parent
    place.mkdir(parents=True, exist_ok=True)
    clear_scratch(place)
    held = None
    while held is None:                                  # another process may clear it before that
        scratch = place / f"{SCRATCH}{uuid.uuid4().hex[:12]}"
        scratch.mkdir()
        held = lock_folder(scratch)                      # until it ends, no other clears it
    try:
        yield scratch
        settle(scratch)
        if place == folder:
            stopped: list = []                           # a moment that must not be broken off
            with on_interrupt(lambda *_: stopped.append(True)):
                replace_files(scratch, folder, stale)
            if stopped:
                raise KeyboardInterrupt
        else:
            scratch.rename(folder)
        sync(place)
    except SafetensorError as error:                     # a full disk, mostly
        raise UserError(f"{folder} could not be written: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        unlock(held)


def settle(folder: Path) -> None:
    """Its files get the permissions of any new file, and are on the disk, not only on the way."""
    os.umask(umask := os.umask(0))
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)
            sync(file)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    if path.is_dir() and os.name == "nt":                # folders cannot be opened there
        return
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def replace_files(scratch: Path, folder: Path, stale: Iterable[str]) -> None:
    """Move a scratch folder's files over those in `folder`, see atomic_folder."""
    files = sorted(scratch.iterdir())
    configs = [file for file in files if file.name.endswith("config.json")]
    others = [file for file in files if file not in configs]
    if others:
        for file in reversed(configs):
            (folder / file.name).unlink(missing_ok=True)
    for file in others:
        os.replace(file, folder / file.name)
    for name in set(stale) - {file.name for file in files}:
        (folder / name).unlink(missing_ok=True)
    for file in configs:
        os.replace(file, folder / file.name)


def clear_scratch(folder: Path) -> None:
    """Delete what killed processes left of their scratch folders; a living one locks its own. Where
    there are no locks, nothing is deleted."""
    for path in folder.glob(f"{SCRATCH}{'[0-9a-f]' * 12}/"):
        if held := lock_folder(path):
            shutil.rmtree(path, ignore_errors=True)
            unlock(held)


def lock_folder(folder: Path) -> int | None:
    """Lock a folder for this process, until unlock(), or its death however it comes. None where
    another process holds it, 0 where the system or the disk knows no such locks."""
    if not fcntl:
        return 0
    file = None
    try:
        file = os.open(folder, os.O_RDONLY)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except OSError as error:
        if file is not None:
            os.close(file)
        return None if isinstance(error, BlockingIOError | FileNotFoundError) else 0


def unlock(held: int | None) -> None:
    if held:
        os.close(held)


def check_unique(folders: list[Path]) -> list[Path]:
    """UserError where two folders would have the same name in a table."""
    for name in {folder.name for folder in folders}:
        if len(same := [str(folder) for folder in folders if folder.name == name]) > 1:
            raise UserError(f"{' and '.join(same)} have the same name in the table; rename one")
    return folders
