"""What a T2L was trained on, beside its weights: is a sentence near one of the training tasks?

tasks.safetensors holds a vector for each training task, the mean of its wordings' embeddings, and
in its header the task's name, one wording, and `threshold`: the similarity that all but 2 % of the
training wordings reach, each compared with means from which it is left out. A sentence below that
is far from all tasks. The similarity is the cosine to the nearest task's vector. It is stored in
int8; an embedding wider than 512 is first projected to 512 numbers by fixed random signs.
"""
import hashlib
import json
import math
import random
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from utils.cli import UserError, note, warn
from utils.files import read_json
from utils.stats import mean
from utils.weights import read_safetensors, safetensors_metadata

FILE = "tasks.safetensors"
WIDTH = 512                    # numbers of a stored vector, at most
COMPARED = 20_000              # wordings whose nearest task sets the threshold, at most
FAR = 0.02                     # share of the training wordings below the threshold


@dataclass
class Neighbours:
    """The training tasks of a T2L: vectors (tasks, ≤ WIDTH), each of length 1."""
    names: list[str]
    wordings: list[str]
    vectors: Tensor
    threshold: float
    folder: Path | None = None          # of the checkpoint, where its results lie

    def similarity(self, task_emb: Tensor) -> Tensor:
        """Embeddings (b, e) → the cosine to every task (b, tasks)."""
        return narrow(task_emb.float().cpu()) @ self.vectors.T

    def nearest(self, task_emb: Tensor) -> tuple[list[int], list[float]]:
        """Embeddings (b, e) → each one's nearest task, by its place in `names`, and the cosine."""
        similarity, rows = self.similarity(task_emb).max(1)
        return rows.tolist(), similarity.tolist()

    def closest(self, task_emb: Tensor, k: int) -> list[list[tuple[str, float]]]:
        """Embeddings (b, e) → each one's k nearest tasks: a wording of theirs, and the cosine."""
        found = self.similarity(task_emb).topk(min(k, len(self.names)))
        return [[(self.wordings[row], similarity) for row, similarity in zip(rows, similarities)]
                for rows, similarities in zip(found.indices.tolist(), found.values.tolist())]

    def tell(self, description: str, task_emb: Tensor) -> None:
        """One line with the task nearest to (1, e), and a warning where it is far."""
        (row,), (similarity,) = self.nearest(task_emb)
        kind = task_kind(self.names[row])
        scores = by_kind(measured(self.folder)[1]).get(kind) if self.folder else None
        right = f" ({kind}: {mean(scores):.0f} % right)" if scores else ""
        note(f"nearest training task: {self.names[row]}{right}, similarity {similarity:.2f}: "
             f"{self.wordings[row]}")
        if said := self.far([description], task_emb):
            warn(said)

    def far(self, descriptions: list[str], task_emb: Tensor) -> str:
        """One line for those that are far from every training task, "" where none is."""
        _, similarity = self.nearest(task_emb)
        found = [(text, s) for text, s in zip(descriptions, similarity) if s < self.threshold]
        if not found:
            return ""
        text, nearest = found[0]
        many = "" if len(similarity) == 1 else \
            f"{len(found)} of {len(similarity)} descriptions are far from all, the first: "
        return (f"{many}{text[:60]!r} is far from every training task (similarity {nearest:.2f}, "
                f"usual are {self.threshold:.2f} and more); the adapter is probably unrelated; "
                "t2l.py --list shows what it was trained on")

    def warn(self, descriptions: list[str], task_emb: Tensor) -> None:
        """`far` as a Python warning, which is shown once for the same text."""
        if said := self.far(descriptions, task_emb):
            warnings.warn(said, stacklevel=4)


def narrow(embeddings: Tensor) -> Tensor:
    """(b, e) → (b, ≤ WIDTH), each of length 1."""
    width = embeddings.shape[-1]
    if width > WIDTH:
        # The signs come from a hash: the same on every machine and in every version.
        bits = np.frombuffer(hashlib.shake_256(b"text-to-lora").digest(width * WIDTH // 8), "u1")
        signs = torch.from_numpy(np.unpackbits(bits)).view(width, WIDTH) * 2.0 - 1
        embeddings = embeddings @ signs
    return F.normalize(embeddings, dim=-1)


# --------------------------------------------------------------------------------- in and out

def find_neighbours(wordings: dict[str, Tensor], texts: dict[str, list[str]]) -> Neighbours:
    """From each task's wordings: embeddings (k, e), and the texts themselves."""
    groups = [narrow(embeddings.float().cpu()) for embeddings in wordings.values()]
    vectors = F.normalize(torch.stack([group.mean(0) for group in groups]), dim=-1)
    typical = [int((group @ vector).argmax()) for group, vector in zip(groups, vectors)]

    # Each wording's nearest task; its own without it: a single wording has none. Of very many
    # wordings some tasks' are enough: all with all would grow with the square of the tasks.
    nearest, share = [], COMPARED / max(COMPARED, sum(map(len, groups)))
    for i in random.Random(0).sample(range(len(groups)), math.ceil(share * len(groups))):
        group = groups[i]
        similarity = group @ vectors.T                                     # (k, tasks)
        without = F.normalize(group.sum(0) - group, dim=-1)
        similarity[:, i] = (group * without).sum(-1) if len(group) > 1 else -2
        nearest.append(similarity.max(1).values)
    return Neighbours(list(texts), [lines[i] for lines, i in zip(texts.values(), typical)], vectors,
                      torch.cat(nearest).quantile(FAR).item())


def save_neighbours(folder: Path, found: Neighbours) -> None:
    """Write tasks.safetensors into a folder that is being made."""
    vectors = (found.vectors / found.vectors.abs().amax(1, keepdim=True) * 127).round()
    header = {"names": found.names, "wordings": found.wordings,
              "threshold": round(found.threshold, 4)}
    save_file({"vectors": vectors.to(torch.int8)}, folder / FILE,
              {"tasks": json.dumps(header, ensure_ascii=False)})


def read_header(folder: Path) -> dict | None:
    """What tasks.safetensors says beside its vectors; None where there is none. UserError for a
    file that is none of ours."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        header = json.loads(safetensors_metadata(path)["tasks"])
        if not all(isinstance(name, str) for name in header["names"]):
            raise ValueError("no list of names")
        return header
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise not_ours(path, error) from None


def check_warns(found: Neighbours | None, folder: Path) -> None:
    """UserError where a checkpoint knows nothing of its training tasks."""
    if not found:
        raise UserError(f"{folder} has no {FILE}, so it warns of nothing")


def not_ours(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not what train.py writes ({error}); delete it to go without "
                     "its warnings, or train again")


def training_names(folder: Path) -> list[str] | None:
    """The names of the tasks that a checkpoint was trained on; None where it does not say."""
    return (read_header(folder) or {}).get("names")


def read_neighbours(folder: Path, width: int) -> Neighbours | None:
    """What a checkpoint's folder says of its training tasks, for embeddings of `width` numbers;
    None where it is an older one. UserError for a file that is none of ours."""
    if (header := read_header(folder)) is None:
        return None
    path = folder / FILE
    try:
        vectors = read_safetensors(path)["vectors"]
        found = Neighbours(header["names"], header["wordings"],
                           F.normalize(vectors.float(), dim=-1), float(header["threshold"]), folder)
        sizes = (len(found.names), min(width, WIDTH))
        if tuple(vectors.shape) != sizes or len(found.wordings) != sizes[0]:
            raise ValueError(f"vectors of {tuple(vectors.shape)}, expected {sizes}")
        return found
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise not_ours(path, error) from None


# ------------------------------------------------------------------------------------- --list

def task_kind(task: str) -> str:
    """What stands before the first "_" of a task's name."""
    return task.split("_")[0]


def by_kind(scores: dict[str, float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, score in scores.items():
        found.setdefault(task_kind(name), []).append(score)
    return found


def listing(folder: Path, found: Neighbours | None) -> str:
    """The table of t2l.py --list: the kinds of the training tasks, how well each does as the
    results.json beside says, one wording each."""
    if found is None:
        raise UserError(f"{folder} does not say what it was trained on: it has no {FILE}, which "
                        "train.py writes beside the weights")

    kinds: dict[str, list[int]] = {}
    for row, name in enumerate(found.names):
        kinds.setdefault(task_kind(name), []).append(row)
    split, scores = measured(folder)
    right_of = by_kind(scores)

    # The example is the task nearest to the kind's middle.
    lines = [f"{'kind':14}{'tasks':>6}{split or 'unseen':>8}{'right':>8}   for example"]
    for kind in sorted(kinds | dict.fromkeys(right_of, [])):
        rows, right = kinds.get(kind, []), right_of.get(kind)
        score = f"{len(right):8}{mean(right):6.0f} %" if right else f"{'-':>8}{'-':>8}"
        example = ""
        if rows:
            middle = found.vectors[rows].mean(0)
            example = found.wordings[max(rows, key=lambda row: float(found.vectors[row] @ middle))]
        lines.append(f"{kind:14}{len(rows):6}{score}   {example}")

    # All together.
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    tasks, model = config.get("tasks"), config.get("model")
    command = shlex.join(["python", "eval.py", "--ckpt", str(folder), "--out", str(folder),
                          *(["--model", str(model)] if model else []),
                          *(["--tasks", *map(str, tasks)] if isinstance(tasks, list) else [])])
    summary = f"{folder.name}: {len(found.names)} training tasks of {len(kinds)} kinds; "
    summary += f"{mean(scores.values()):.1f} % right on {len(scores)} {split} tasks" \
        if scores else f"not measured, which {command} does"
    if not tasks:
        summary += "\npython -m data.generate --show TASK shows a built-in task's inputs"
    return "\n".join([*lines, summary])


def measured(folder: Path) -> tuple[str, dict[str, float]]:
    """("unseen", {task: exact match in percent}) with its own description, as eval.py and train.py
    leave it in results.json; "seen" where no task is unseen; ("", {}) where nothing is measured, or
    of another T2L."""
    path = folder / "results.json"
    results = read_json(path) if path.exists() else {}
    split = next((name for name in ("unseen", "seen") if results.get(name)), "")
    own = {label: scores for label, scores in results.get(split, {}).items()
           if label.endswith("own description")}
    named = {label: scores for label, scores in own.items()
             if label.startswith((f"T2L {folder.resolve().name},",
                                  f"T2L {folder.resolve().name} + prompt,"))} or own
    return (split, next(iter(named.values()))) if len(named) == 1 else ("", {})
