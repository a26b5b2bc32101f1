"""What every command shares: a user's mistakes as one line, files that are never half-written."""
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open


class UserError(Exception):
    """A mistake the user can mend: names the file, what was found, what was expected."""


def run(main: Callable[[], None]) -> None:
    """Run a command: a UserError becomes one line on stderr and exit code 2, without traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted")


@contextmanager
def written_beside(folder: str | Path) -> Iterator[Path]:
    """A scratch folder whose files move into `folder` at the end, each by one rename.

    Whatever fails in between leaves `folder` as it was.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give the name of a folder to write into")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
        folder.mkdir(exist_ok=True)
        for file in sorted(scratch.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_safetensors(path: str | Path) -> tuple[dict, dict[str, str]]:
    """(tensors by name, metadata) of a safetensors file; memory-mapped, so nothing is copied."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); "
                        "fetch or save it again") from None
