"""What T2L makes of a description that is reworded, broken or gone (arXiv 2506.06105, Table 5).

    python -m experiments.wordings --ckpt out/s0 out/recon-L

Exact match on unseen tasks, and on those that all these T2Ls were trained on, under held-out
wordings: as they are, in place of them a wording that was trained on (of an unseen task: one that
would have been), their words in any order, another task's description, random words, random
characters, nothing; and with the mean embedding. A table for each T2L.
"""
from dataclasses import replace
from pathlib import Path

from data.controls import Controls
from data.tasks import Suite, test_samples
from eval import EncoderOf, Row, load_asked, t2l_rows
from experiments.baselines import adapted, questions, report_rows
from mistral import Mistral
from utils.cli import EvalParser, UserError, run
from utils.files import check_unique
from utils.weights import checkpoint_folders


def wording_rows(folder: Path, suite: Suite, controls: Controls, encoder_of: EncoderOf,
                 model: Mistral) -> list[Row]:
    """One T2L with eight kinds of descriptions; its adapters are those of eval.py's rows."""
    own, other_task, _, random_words, mean = (
        replace(row, kind="") for row in t2l_rows(folder, suite, controls, encoder_of, model))

    def reads(control, said: str) -> Row:
        return replace(own, label=f"{own.t2l}, {said}", control=control)

    return [reads(controls.own, "held-out wording"), reads(controls.training, "training wording"),
            reads(controls.shuffled, "words in any order"), other_task, random_words,
            reads(controls.random_characters, "random characters"),
            reads(controls.empty, "nothing"), mean]


def main() -> None:
    parser = EvalParser("What T2L makes of reworded, broken and missing descriptions.",
                        "folders of train.py --mode sft or recon", "the committed ones",
                        "test inputs per unseen task")
    parser.prog = "python -m experiments.wordings"
    parser.tasks()
    args = parser.parse_args()

    # What is asked: held-out wordings in both columns.
    folders = check_unique(checkpoint_folders(args.ckpt))
    suite, model, tokenizer, encoder_of = load_asked(args)
    if len(suite.by_name()) < 2:
        raise UserError("--tasks has one task; another task's description needs two")
    asked = questions(suite, {}, args.eval_samples, "unseen", folders)
    asked["unseen"] = test_samples(suite.unseen, args.eval_samples, lambda t: t.held_out)

    controls = Controls(suite)
    for folder in folders:
        rows = wording_rows(folder, suite, controls, encoder_of, model)
        print(report_rows([adapted(row, model, tokenizer) for row in rows], asked,
                          args.out / f"wordings_{folder.name}", rows[0].label))


if __name__ == "__main__":
    run(main)
