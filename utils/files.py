"""Text and JSON, folders that appear whole or not at all, and names that must differ."""
import json
import os
import re
import shutil
import tempfile
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.cli import UserError


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


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC); macOS hands out decomposed ones."""
    return unicodedata.normalize("NFC", name)


def write_json(path: str | Path, value: dict) -> None:
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8",
                    errors="backslashreplace")         # a path that is no UTF-8: \\udce9 is JSON
    part.replace(path)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
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


def check_unique(folders: list[Path]) -> list[Path]:
    """UserError where two folders would have the same name in a table."""
    for name in {folder.name for folder in folders}:
        if len(same := [str(folder) for folder in folders if folder.name == name]) > 1:
            raise UserError(f"{' and '.join(same)} have the same name in the table; rename one")
    return folders
