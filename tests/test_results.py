"""Seeds joined into one row, paired differences, and what is printed of them."""
import random
import re

import pytest

from eval import Row
from utils.cli import UserError
from utils.results import (add_joined, difference, find_label, join_seeds, print_differences,
                           print_joined, verdict)
from utils.stats import interval, mean, seed_interval

pytestmark = pytest.mark.quick
PARTS = ("own description", "random words")


def tables(levels: dict[str, tuple[float, float]], n: int = 40, spread: float = 5.0):
    """Rows and scores of T2L folders, {folder: % right with its own description, with random
    words}, for each a multi-task LoRA with half of its own score, and the base model at 1 %."""
    rng, rows, scores = random.Random(2), [Row("base model", "lora", None, None)], {}
    for run in levels:
        rows.append(Row(f"multi-task LoRA m{run}", "lora", None, None, "", f"m{run}",
                        "multi-task LoRA"))
    for run in levels:
        rows += [Row(f"T2L {run}, {part}", "lora", None, None, f"T2L {run}", run,
                     f"T2L bank, {part}") for part in PARTS]
    for row in rows:
        level = levels[row.run][PARTS.index(row.kind.split(", ")[1])] if row.t2l else \
            levels[row.run[1:]][0] / 2 if row.kind else 1.0
        scores[row.label] = {f"t{i}": level + rng.gauss(0, spread) for i in range(n)}
    return rows, scores


def test_one_run_has_the_interval_over_tasks_and_seeds_widen_it():
    values = [0.0, 10.0, 10.0, 50.0, 80.0]
    rng = random.Random(0)
    means = sorted(mean(rng.choices(values, k=5)) for _ in range(2000))
    assert seed_interval([values]) == interval(values) == (means[50], means[1949])
    assert seed_interval([[20.0] * 9] * 3) == (20, 20)
    assert seed_interval([[level] * 9 for level in (10.0, 30.0, 50.0)]) == (10, 50)   # 1/27 each
    low, high = seed_interval([[10.0] * 9, [50.0] * 9], [[10.0] * 9, [50.0] * 9])
    assert (low, high) == (-40, 40)                         # each of the two has seeds of its own
    hard, easy = [0.0, 10.0, 40.0, 80.0], [10.0, 20.0, 50.0, 90.0]
    assert seed_interval([easy] * 2, [hard] * 3) == (10, 10)               # but the same tasks


def test_rows_are_joined_by_their_kind():
    rows, scores = tables({"a": (60, 5), "b": (40, 5), "c": (20, 5)})
    shown, joined = join_seeds(rows)
    assert [row.label for row in shown] == [
        "base model", "multi-task LoRA (3 seeds)", "T2L bank (3 seeds), own description",
        "T2L bank (3 seeds), random words"]
    assert {row.t2l for row in shown} == {"", "T2L bank (3 seeds)"}
    before = {label: dict(row) for label, row in scores.items()}
    add_joined({"unseen": scores}, joined)
    assert scores.items() > before.items() and len(scores) == len(before) + 3
    assert scores["T2L bank (3 seeds), own description"]["t7"] == pytest.approx(
        sum(scores[f"T2L {run}, own description"]["t7"] for run in "abc") / 3)


def test_what_is_alone_of_its_kind_stays_as_it_is():
    """It is no row of seeds, and seeds differ from it as from the base model."""
    rows, scores = tables({"a": (15, 10), "b": (55, 50)}, spread=0)
    rows = [row for row in rows if row.label != "multi-task LoRA mb"]
    shown, joined = join_seeds(rows)
    labels = ["base model", "multi-task LoRA ma", "T2L bank (2 seeds), own description",
              "T2L bank (2 seeds), random words"]
    assert [row.label for row in shown] == labels and list(joined) == labels[2:]
    assert shown[1] is rows[1]
    add_joined({"unseen": scores}, joined)
    assert difference(scores, labels[2], labels[1], joined) == (27.5, 7.5, 47.5)


def test_runs_are_paired_with_their_own_controls_only():
    """What all seeds have in common is certain, however much they differ; but not between a T2L
    and a multi-task LoRA, whose seeds have nothing to do with each other."""
    rows, scores = tables({"a": (15, 10), "b": (35, 30), "c": (55, 50)}, spread=0)
    shown, joined = join_seeds(rows)
    base, lora, own, words = (row.label for row in shown)
    add_joined({"unseen": scores}, joined)
    assert difference(scores, own, words, joined) == (5, 5, 5)
    assert difference(scores, own, base, joined) == (34, 14, 54)
    assert difference(scores, base, own, joined) == (-34, -54, -14)
    apart, low, high = difference(scores, own, lora, joined)        # run by run it is 7.5 to 27.5
    assert apart == 17.5 and low < 2 and high > 33
    assert difference(scores, "T2L a, own description", "T2L b, own description", {})[0] == -20


def test_a_difference_is_the_verdicts():
    rows, scores = tables({"a": (40, 30)}, n=30, spread=9)
    own, words = "T2L a, own description", "T2L a, random words"
    apart, low, high = difference(scores, own, words, {})
    assert (low, high) == interval([scores[own][t] - scores[words][t] for t in scores[own]])
    assert low < apart < high and f"difference [{low:.1f}, {high:.1f}]" in verdict(rows, scores)


@pytest.mark.parametrize("third, shown_to_read", [(60, True), (4, False)])
def test_a_verdict_over_seeds_minds_the_seeds(third, shown_to_read):
    """On average own is far above its control in both cases; in one a seed of three is not."""
    rows, scores = tables({"a": (30, 5), "b": (30, 5), "c": (third, 5)}, spread=1)
    shown, joined = join_seeds(rows)
    add_joined({"unseen": scores}, joined)
    said = verdict(shown, scores, joined)
    assert ("NOT SHOWN" not in said) == shown_to_read and said.count("T2L bank (3 seeds), ") == 2
    assert "NOT SHOWN" not in verdict(shown, scores)                   # over tasks alone


def test_what_is_printed(capsys):
    rows, scores = tables({"a": (60, 5), "b": (50, 6)}, spread=0)
    print_differences("unseen tasks", rows, scores, {}, None)
    head, *lines = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("unseen tasks: differences") and "seeds" not in head
    assert len(lines) == 10 and not any("random words" in line for line in lines)      # 5 main rows
    assert lines[-1] == "  T2L b, own description − T2L a, own description: -10.0 [-10.0, -10.0]"

    print_differences("unseen tasks", rows, scores, {}, "multi-task LoRA ma")
    lines = capsys.readouterr().out.strip().splitlines()[1:]
    assert len(lines) == len(rows) - 1
    assert "  T2L a, random words − multi-task LoRA ma: -25.0 [-25.0, -25.0]" in lines

    _, joined = join_seeds(rows)
    add_joined({"unseen": scores}, joined)
    print_joined({"unseen": scores}, joined)
    line = next(x for x in capsys.readouterr().out.splitlines() if "own" in x)
    assert re.sub(" +", " ", line) == \
        "T2L bank (2 seeds), own description 55.0, sd 7.1 [50.0, 60.0]"


def test_a_row_by_its_beginning():
    labels = ["base model", "base model, description in its prompt", "T2L x, own description"]
    assert find_label(labels, "base model") == "base model"               # not two
    assert find_label(labels, "base model,") == labels[1] and find_label(labels, "T") == labels[2]
    for wrong in ("", "base", "x"):
        with pytest.raises(UserError, match="one of: base model; base model, desc.*; T2L x, own"):
            find_label(labels, wrong)
