"""What T2L makes of a description that is reworded, broken or gone (arXiv 2506.06105, Table 5).

    python -m experiments.wordings --ckpt out/s0 out/recon-L

Exact match on unseen and on seen tasks for each T2L when it reads a wording that it was trained on
(of an unseen task: one of those that it would be), a held-out one, that one's words in any order,
another task's, random words, random characters, nothing; and with the mean embedding in their
place.
"""
from dataclasses import replace
from pathlib import Path

from data.controls import Controls
from data.suite import Suite
from eval import EncoderOf, Row, t2l_rows
from experiments.baselines import adapted, questions, report_rows
from experiments.compare import load_asked
from mistral import Mistral
from utils.cli import EvalParser, run
from utils.files import check_unique
from utils.weights import checkpoint_folders


def wording_rows(folder: Path, suite: Suite, controls: Controls, encoder_of: EncoderOf,
                 model: Mistral) -> list[Row]:
    """One T2L with eight kinds of descriptions; its adapters are those of eval.py's rows."""
    own, *others = t2l_rows(folder, suite, controls, encoder_of, model)
    by_end = {row.label.removeprefix(f"{own.t2l}, "): row for row in others}

    def reads(control, said: str) -> Row:
        return replace(own, label=f"{own.t2l}, {said}", control=control, kind="")

    return [reads(controls.training, "training wording"),
            reads(controls.held_out, "held-out wording"),
            reads(controls.shuffled, "its words in any order"),
            by_end["another task's"], by_end["random words"],
            reads(controls.random_characters, "random characters"),
            reads(controls.empty, "nothing"), by_end["mean embedding"]]


def main() -> None:
    parser = EvalParser("What T2L makes of reworded, broken and missing descriptions.",
                        "folders of train.py --mode sft or recon", "the committed ones",
                        "test inputs per unseen task")
    parser.prog = "python -m experiments.wordings"
    parser.tasks()
    args = parser.parse_args()

    folders = check_unique(checkpoint_folders(args.ckpt))
    suite, model, tokenizer, encoder_of = load_asked(args)
    controls = Controls(suite)
    rows = [row for folder in folders
            for row in wording_rows(folder, suite, controls, encoder_of, model)]
    asked = questions(suite, {}, args.eval_samples, "unseen")
    print(report_rows([adapted(row, model, tokenizer) for row in rows], asked,
                      args.out / "wordings", rows[1].label))


if __name__ == "__main__":
    run(main)
