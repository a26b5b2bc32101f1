"""Hyperdecoders (arXiv 2203.08304): the hypernetwork reads the input itself, not a description.

    python -m experiments.hyperdecoder --out out/hyper

All else is that of train.py --mode sft, and so are the flags. On inputs that many tasks share it
cannot know which of them is meant: what it reaches is what a hypernetwork gains without reading the
task. Its row is in the table of experiments.baselines.
"""
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

import train
from data.tasks import Sample, Task
from encoder import Encoder
from lora import LoRA
from t2l import T2L, save_t2l
from utils.cli import run
from utils.peft import save_reader


def read_inputs(samples: Iterable[Sample]) -> list[Sample]:
    return [replace(sample, description=sample.input) for sample in samples]


class InputToLoRA(train.TextToLoRA):
    """Every sample's adapter comes from its input."""

    def __init__(self, t2l: T2L, encoder: Encoder, tasks: list[Task], fresh: bool = True,
                 z_scores: bool = False, held_out: Iterable[Sample] = ()):
        inputs = tuple(dict.fromkeys(text for task in tasks for text, _ in task.train))
        whole = replace(tasks[0], name="every input", descriptions=inputs)
        # Of one task there is nothing to tell apart: the first layer starts as it is drawn.
        super().__init__(t2l, encoder, [whole], False, z_scores, read_inputs(held_out))

    def adapters(self, samples: list[Sample]) -> LoRA:
        return super().adapters(read_inputs(samples))

    def save(self, folder: Path, dtype: torch.dtype, metadata: dict) -> None:
        save_t2l(self.t2l, folder, dtype, metadata | {"reads": "input"})
        if self.reader:
            save_reader(folder, self.reader)


def main() -> None:
    # Of flags that stand twice the last counts; eval.py would give it descriptions to read.
    sys.argv[1:] = ["--out", "out/hyper", *sys.argv[1:], "--mode", "sft", "--eval-samples", "0"]
    train.main(InputToLoRA)


if __name__ == "__main__":
    run(main)
