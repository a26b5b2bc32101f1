"""How often a T2L warns that a sentence is far from its training tasks: of held-out wordings of
seen and unseen tasks, and of off_topic.txt, which was written before any similarity was looked at.

    python -m experiments.distance --ckpt DIR                # a minute; with --tasks DIR, its tasks

The threshold stands in the checkpoint, from its training wordings alone (utils/neighbours.py).
"""
from pathlib import Path

import torch

from data.suite import load_suite
from encoder import embed, encoder_for
from t2l import CHECKPOINT, load_t2l
from utils.cli import Parser, run
from utils.files import read_text
from utils.neighbours import check_warns

OFF_TOPIC = Path(__file__).parent / "off_topic.txt"


def main() -> None:
    parser = Parser("How often a T2L warns of sentences that are, and are not, like its tasks.")
    parser.prog = "python -m experiments.distance"
    parser.folder("--ckpt", "a trained T2L folder", "the committed one for SmolLM2-135M-Instruct")
    parser.folder("--model", "a Hugging Face folder", "SmolLM2-135M-Instruct")
    parser.tasks()
    args = parser.parse_args()
    folder = Path(args.ckpt or CHECKPOINT)
    t2l = load_t2l(folder)
    check_warns(t2l.neighbours, folder)
    encoder, suite = encoder_for(t2l.cfg, args.model), load_suite(args.tasks)

    groups = {"held-out wordings of seen tasks": [d for t in suite.train for d in t.held_out],
              "held-out wordings of unseen tasks": [d for t in suite.unseen for d in t.held_out],
              "all wordings of unseen tasks":
                  [d for t in suite.unseen for d in t.descriptions + t.held_out],
              "off-topic sentences": read_text(OFF_TOPIC).splitlines()}
    print(f"{'threshold ' + format(t2l.neighbours.threshold, '.3f'):36}{'sentences':>10}"
          f"{'warned of':>12}{'median':>9}")
    for name, texts in groups.items():
        _, similarity = t2l.neighbours.nearest(embed(encoder, texts))
        values = torch.tensor(similarity)
        far = values < t2l.neighbours.threshold
        print(f"{name:36}{len(texts):10}{100 * far.float().mean():10.1f} %{values.median():9.2f}")
    print("not warned of: " + " ".join(t for t, f in zip(texts, far) if not f))


if __name__ == "__main__":
    run(main)
