"""JSON, folders that appear whole or not at all, and names that must differ."""
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.cli import UserError


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


def write_json(path: str | Path, value: dict) -> None:
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
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
