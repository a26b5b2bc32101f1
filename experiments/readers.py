"""Hypernetworks that read something else than a description (arXiv 2506.06105, Tables 2 and 4).

    python -m experiments.readers input --out out/hyper       # a Hyperdecoder (arXiv 2203.08304)
    python -m experiments.readers random --out out/random     # a random vector for each wording
    python -m experiments.readers number --out out/number     # one-hot: a number for each task

All else is that of train.py --mode sft, and so are the flags, but no table is made at the end. A
Hyperdecoder reads the input itself: where many tasks share an input it cannot know which of them is
meant. Random vectors tell wordings apart and say nothing of what they mean: meant as the floor. A
number says which training task it is, and nothing of any other: meant as the ceiling on those.
experiments.baselines has a row for each; no other command reads with them.
"""
import hashlib
import shlex
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import train
from data.tasks import Sample, Task
from encoder import INSTEAD, Encoder
from lora import LoRA
from t2l import T2L, save_t2l
from utils.cli import UserError, run
from utils.peft import save_reader

READS = {"input": lambda sample: sample.input, "random": lambda sample: sample.description,
         "number": lambda sample: sample.task}           # what stands in for the description


class Vectors:
    """Stands in for an encoder: vectors as wide as its, of "random" numbers drawn by the text's
    characters, or, if `names` are given, with a 1 at the place of the task of this name."""
    parts, lora = None, None

    def __init__(self, encoder: Encoder, names: list[str] | None = None):
        self.name, self.width, self.names = encoder.name, encoder.width, names
        if len(names or ()) > self.width:
            raise UserError(f"{len(names)} tasks, but vectors of {self.width} numbers: --max-tasks "
                            f"{self.width}, or a wider --encoder")

    def embed(self, texts: list[str], progress: str = "") -> Tensor:
        """(len(texts), width); of a task that has no number, zeros."""
        return torch.stack([self.one_hot(text) if self.names else self.random(text)
                            for text in texts])

    def one_hot(self, text: str) -> Tensor:
        row, name = torch.zeros(self.width), text.removesuffix(".")      # which `embed` appends
        if name in self.names:
            row[self.names.index(name)] = 1
        return row

    def random(self, text: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        return torch.randn(self.width, generator=torch.Generator().manual_seed(seed))


def stand_in(encoder: Encoder, reads: str, names: list[str]) -> Encoder | Vectors:
    """What turns into vectors what is read in place of descriptions; `names` of training tasks."""
    return encoder if reads == "input" else Vectors(encoder, names if reads == "number" else None)


def read_instead(samples: Iterable[Sample], reads: str) -> list[Sample]:
    return [replace(sample, description=READS[reads](sample)) for sample in samples]


class OtherReader(train.TextToLoRA):
    """Every sample's adapter comes from what READS has for `reads`; `command` trains it."""

    def __init__(self, reads: str, command: str, t2l: T2L, encoder: Encoder, tasks: list[Task],
                 fresh: bool = True, z_scores: bool = False, held_out: Iterable[Sample] = ()):
        names = [task.name for task in tasks]
        if reads == "input":
            # Of one task there is nothing to tell apart: the first layer starts as it is drawn.
            inputs = tuple(dict.fromkeys(text for task in tasks for text, _ in task.train))
            tasks, fresh = [replace(tasks[0], name="every input", descriptions=inputs)], False
        if reads == "number":
            tasks = [replace(task, descriptions=(task.name,)) for task in tasks]
        super().__init__(t2l, stand_in(encoder, reads, names), tasks, fresh, z_scores,
                         read_instead(held_out, reads))
        self.said = {"reads": reads, "library": names, "command": command}
        self.register_buffer(f"reads_{reads}", torch.empty(0))   # no --resume with another reader
        t2l.cfg.encoder = INSTEAD + reads                        # which encoder_for refuses

    def adapters(self, samples: list[Sample]) -> LoRA:
        return super().adapters(read_instead(samples, self.said["reads"]))

    def save(self, folder: Path, dtype: torch.dtype, metadata: dict) -> None:
        save_t2l(self.t2l, folder, dtype, metadata | self.said)
        if self.reader:
            save_reader(folder, self.reader)


def main() -> None:
    given = sys.argv[1:] or [""]
    if given[0] in ("-h", "--help"):
        print(__doc__)
    elif given[0] not in READS:
        raise UserError(f"what is read comes first, one of {', '.join(READS)}; then the flags of "
                        f"train.py; found {given[0]!r}")

    # Of flags that stand twice the last counts: no table, for eval.py would give it descriptions.
    command = shlex.join(["python", "-m", "experiments.readers", *given])
    sys.argv[1:] = ["--out", f"out/{given[0]}", *given[given[0] in READS:],
                    "--mode", "sft", "--eval-samples", "0"]
    train.main(partial(OtherReader, given[0], command))


if __name__ == "__main__":
    run(main)
