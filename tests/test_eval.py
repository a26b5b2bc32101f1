"""The evaluation's own logic, without a model: exercises, controls, scores, intervals, verdict."""
import random
import sys

import pytest
from conftest import GOLDEN, task_file

import eval as eval_ops
import train as train_ops
from data.files import UserError
from data.suite import load_suite
from data.tasks import Sample


@pytest.fixture
def suite():
    return load_suite()


def test_exercises_are_test_inputs_with_the_wordings_asked_for(suite):
    samples = eval_ops.exercises(suite.train, 2, lambda t: t.held_out)
    by_name = {t.name: t for t in suite.train}
    assert len(samples) == 2 * len(suite.train)
    for s in samples:
        task = by_name[s.task]
        assert s.description in task.held_out and s.description not in task.descriptions
        assert (s.input, s.answers) in task.test
    assert samples == eval_ops.exercises(suite.train, 2, lambda t: t.held_out)


def test_controls_are_what_their_names_say(suite):
    swaps, rng = eval_ops.Swaps(suite), random.Random(0)
    tasks = suite.train + suite.validation + suite.unseen
    owner = {d: t.name for t in tasks for d in t.descriptions}
    for s in eval_ops.exercises(suite.unseen, 5, lambda t: t.descriptions):
        assert swaps.own(s, rng) == s.description
        assert owner[swaps.another(s, rng)] != s.task
        neighbour = owner[swaps.neighbour(s, rng)]
        assert neighbour != s.task and neighbour in swaps.mates[s.task]
        assert neighbour in swaps.users[s.input] or swaps.users[s.input] == {s.task}
        assert len(swaps.words_at_random(s, rng).split()) == 12


def test_exact_match_counts_any_accepted_answer_and_nothing_else(monkeypatch):
    answers = {"a": "right", "b": "Right", "c": "second ", "d": "right or second"}
    seen = []

    def generate(model, tokenizer, prompts, lora, max_new_tokens):
        seen.append(lora)
        return [answers[p] for p in prompts]
    monkeypatch.setattr(eval_ops.mistral, "generate", generate)
    samples = [Sample("t", "own", text, ("right", "second")) for text in answers]
    row = eval_ops.Row("row", "lora", lambda s, rng: "swapped", lambda batch: batch)
    tokenizer = eval_ops.mistral.load_tokenizer(GOLDEN / "llama")
    right = eval_ops.right_answers(row, samples, None, tokenizer)
    assert right == {"t": [True, False, True, False]}
    assert [s.description for s in seen[0]] == ["swapped"] * 4         # what T2L reads


def test_interval_covers_the_mean_and_shrinks():
    rng = random.Random()
    values = [rng.gauss(50, 10) for _ in range(400)]
    few, many = eval_ops.interval(values[:25]), eval_ops.interval(values)
    assert many[0] < eval_ops.mean(values) < many[1]
    assert 0.5 < (many[1] - many[0]) < 0.5 * (few[1] - few[0])
    assert 1.5 < many[1] - many[0] < 2.5                   # 2 × 1.96 × 10 / √400 = 1.96


@pytest.mark.parametrize("own, shown", [(60.0, True), (31.0, False), (20.0, False)])
def test_verdict_is_loud_when_the_margin_is_not_there(own, shown):
    labels = ["T2L x, own", "T2L x, random words", "T2L x, mean embedding"]
    rows = [eval_ops.Row(label, "lora", None, None, "T2L x") for label in labels]
    rng = random.Random(1)
    level = dict(zip(labels, (own, 10.0, 30.0)))
    scores = {label: {f"t{i}": level[label] + rng.gauss(0, 8) for i in range(28)}
              for label in labels}
    said = eval_ops.verdict(rows, scores)
    assert ("NOT SHOWN" not in said) == shown and "T2L x, mean embedding" in said


def test_the_command_prints_a_table_of_all_folders(tiny_tasks, tmp_path, monkeypatch, capsys):
    tiny = ["--model", str(GOLDEN / "llama"), "--tasks", str(tiny_tasks), "--dtype", "float32"]
    folders = []
    for mode, arch in (("sft", "S"), ("sft", "L"), ("mtlora", "L")):
        folders.append(str(tmp_path / f"{mode}{arch}"))
        monkeypatch.setattr(sys, "argv", [
            "train.py", "--mode", mode, "--arch", arch, *tiny, "--encoder", str(GOLDEN / "bert"),
            "--steps", "2", "--batch-size", "2", "--eval-samples", "0", "--out", folders[-1]])
        train_ops.main()
    monkeypatch.setattr(sys, "argv", ["eval.py", *tiny, "--eval-samples", "1", "--ckpt", *folders])
    eval_ops.main()
    out = capsys.readouterr().out
    for label in ("base model", "multi-task LoRA", "T2L sftS, own description",
                  "T2L sftL, random words"):
        assert out.count(f"\n{label} ") == 1
    assert out.count("it reads its description") == 2          # one verdict for each T2L


def test_a_suite_of_one_task_has_no_other_tasks_rows(tmp_path, monkeypatch, capsys):
    """And without test instances there is nothing to put into a table: said before training."""
    (tmp_path / "tasks").mkdir()
    task_file(tmp_path / "tasks", "alpha")
    flags = ["--mode", "sft", "--model", GOLDEN / "llama", "--encoder", GOLDEN / "bert", "--tasks",
             tmp_path / "tasks", "--steps", 1, "--batch-size", 2, "--eval-samples", 1]

    def train(out: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags), "--out", out])
        with pytest.warns(UserWarning, match="none is left to test as unseen"):
            train_ops.main()
    train(str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "random words" in said and "another" not in said
    task_file(tmp_path / "tasks", "alpha", Split={"train": 15, "test": 0})
    with pytest.raises(UserError, match="no task has test instances"):
        train(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_the_committed_results_are_not_overwritten(tiny_tasks, tmp_path, monkeypatch):
    """A plain `eval.py` shows the committed checkpoints; what it finds is not kept there."""
    tiny = ["--model", GOLDEN / "llama", "--tasks", tiny_tasks, "--eval-samples", 1]
    common = ["--encoder", GOLDEN / "bert", "--steps", 1, "--batch-size", 2]
    monkeypatch.setattr(sys, "argv", list(map(str, [
        "train.py", "--mode", "sft", *tiny[:4], *common, "--eval-samples", 0, "--out",
        tmp_path / "checkpoints" / "one"])))
    train_ops.main()
    monkeypatch.setattr(eval_ops, "CHECKPOINTS", tmp_path / "checkpoints")
    for extra, kept in (([], False), (["--ckpt", tmp_path / "checkpoints" / "one"], True)):
        monkeypatch.setattr(sys, "argv", list(map(str, ["eval.py", *tiny, *extra])))
        eval_ops.main()
        assert (tmp_path / "checkpoints" / "one" / "results.json").exists() == kept
