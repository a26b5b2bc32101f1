"""Vectors of many texts, kept across runs: 12,400 of them take a quarter of a minute, or minutes.

    rows = embed_cached(encoder, texts)        # encoder.embed(texts), or what that gave before

A file holds one list of texts: how they share batches moves the last bits, so that the same list
gives the same bytes. Its name is a hash of all that decides the vectors: the encoder, the texts,
PyTorch's version and its threads. Any encoder takes part that has `identity()`: the module whose
weights it uses, and a text with all else, tokenizer included. The files are in
~/.cache/text-to-lora/embeddings; beyond a gigabyte the ones that were not used for longest go.
"""
import hashlib
import os
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from utils.cli import UserError, first_line, note
from utils.download import cache_folder
from utils.files import atomic_folder
from utils.ranks import sharded, world
from utils.weights import read_safetensors, safetensors_metadata

LIMIT = 2 ** 30            # bytes of all files together
FEWEST = 500               # texts that are worth a file


def embed_cached(encoder, texts: list[str], progress: str = "") -> Tensor:
    """encoder.embed(texts), (len(texts), d) in fp32. A file that is damaged is made anew; a cache
    that cannot be written is told in a warning."""
    if len(texts) < FEWEST or not hasattr(encoder, "identity") \
            or world() > 1 and sharded(encoder.identity()[0]):        # no rank reads for itself
        return encoder.embed(texts, progress=progress)
    key = cache_key(encoder, texts)
    try:
        path = cache_folder() / "embeddings" / f"{key}.safetensors"
    except UserError:                                        # there is no home folder
        return encoder.embed(texts, progress=progress)

    # What is there.
    if path.exists():
        try:
            rows = read_rows(path, (len(texts), encoder.width))
            note(f"the vectors of {len(texts):,} descriptions are from {path.parent}")
            with suppress(OSError):
                os.utime(path)                               # used now
            return rows
        except UserError as error:
            warnings.warn(f"{first_line(error)}; it is made anew")

    # What is made, and kept.
    rows = encoder.embed(texts, progress=progress)
    try:
        with atomic_folder(path.parent) as scratch:
            save_file({"rows": rows.clone()}, scratch / path.name, {"sha256": digest(rows)})
        make_room(path)
    except (UserError, OSError) as error:
        warnings.warn(f"the vectors of {len(texts):,} descriptions could not be kept for the next "
                      f"run: {first_line(error)}")
    return rows


def cache_key(encoder, texts: list[str]) -> str:
    """A hash of everything that decides the vectors."""
    module, said = encoder.identity()
    found = hashlib.sha256(f"{torch.__version__} {torch.get_num_threads()} {said}".encode())
    for name, w in sorted(module.state_dict().items()):
        found.update(f"{name} {w.dtype} {tuple(w.shape)}".encode())
        found.update(w.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for text in texts:
        data = text.encode("utf-8", "backslashreplace")
        found.update(f"{len(data)} ".encode() + data)
    return found.hexdigest()[:32]


def digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


def read_rows(path: Path, shape: tuple[int, int]) -> Tensor:
    """UserError where the file is not what was written."""
    rows = read_safetensors(path).get("rows", torch.empty(0))
    if rows.shape != shape or rows.dtype != torch.float32 \
            or safetensors_metadata(path).get("sha256") != digest(rows):
        raise UserError(f"{path} is damaged")
    return rows.clone()                                      # not a view of a file that may go


def make_room(newest: Path) -> None:
    """Delete the files that were not used for longest, until the rest is within LIMIT."""
    found = []
    for file in newest.parent.glob("*.safetensors"):
        with suppress(OSError):                              # another process may delete it, too
            found.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total > LIMIT and file != newest:
            with suppress(OSError):
                file.unlink()
                total -= size
