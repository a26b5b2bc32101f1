"""The evaluation's own logic: controls, scores, intervals, the verdict; the command."""
import json
import random
import re

import pytest
from conftest import GOLDEN, TINY, call, refused, task_file

from data.tasks import Sample
from data.tasks import test_samples as draw_test_samples        # pytest must not take it for a test
from eval import Controls, Row, ask, exact_match
from mistral import load_tokenizer
from utils.cli import UserError
from utils.results import verdict
from utils.stats import interval, mean


def test_controls_are_what_their_names_say(suite):
    controls, rng = Controls(suite), random.Random(0)
    tasks = suite.train + suite.validation + suite.unseen
    owner = {d: t.name for t in tasks for d in t.descriptions}
    for s in draw_test_samples(suite.unseen, 5, lambda t: t.descriptions):
        assert controls.own(s, rng) == s.description
        assert owner[controls.other_task(s, rng)] != s.task
        neighbour = owner[controls.same_input(s, rng)]
        assert neighbour != s.task and neighbour in controls.neighbours[s.task]
        assert neighbour in controls.users[s.input] or controls.users[s.input] == {s.task}
        assert len(controls.random_words(s, rng).split()) == 12


def test_exact_match_counts_any_accepted_answer_and_nothing_else(monkeypatch):
    answers = {"a": "right", "b": "Right", "c": "second ", "d": "right or second"}
    seen = []

    def generate(model, tokenizer, prompts, lora, max_new_tokens):
        seen.append(lora)
        return [answers[p] for p in prompts]
    monkeypatch.setattr("eval.generate", generate)
    samples = [Sample("t", "own", text, ("right", "second")) for text in answers]
    row = Row("row", "lora", lambda s, rng: "swapped", lambda batch: batch)
    tokenizer = load_tokenizer(GOLDEN / "llama")
    right = exact_match(row, samples, None, tokenizer)
    assert right == {"t": [True, False, True, False]}
    assert [s.description for s in seen[0]] == ["swapped"] * 4         # what T2L reads


def test_interval_covers_the_mean_and_shrinks():
    rng = random.Random()
    values = [rng.gauss(50, 10) for _ in range(400)]
    few, many = interval(values[:25]), interval(values)
    assert many[0] < mean(values) < many[1]
    assert 0.5 < (many[1] - many[0]) < 0.5 * (few[1] - few[0])
    assert 1.5 < many[1] - many[0] < 2.5                   # 2 × 1.96 × 10 / √400 = 1.96


@pytest.mark.parametrize("own, shown", [(60.0, True), (31.0, False), (20.0, False)])
def test_verdict_is_loud_when_the_margin_is_not_there(own, shown):
    labels = ["T2L x, own", "T2L x, random words", "T2L x, mean embedding"]
    rows = [Row(label, "lora", None, None, "T2L x") for label in labels]
    rng = random.Random(1)
    level = dict(zip(labels, (own, 10.0, 30.0)))
    scores = {label: {f"t{i}": level[label] + rng.gauss(0, 8) for i in range(28)}
              for label in labels}
    said = verdict(rows, scores)
    assert ("NOT SHOWN" not in said) == shown and "T2L x, mean embedding" in said


def test_the_command_prints_a_table_of_all_folders(tiny_tasks, tmp_path, capsys, monkeypatch):
    tiny = ["--model", GOLDEN / "llama", "--tasks", tiny_tasks, "--dtype", "float32"]
    folders = []
    for mode, arch in (("sft", "S"), ("sft", "L"), ("mtlora", "L")):
        folders.append(tmp_path / f"{mode}{arch}")
        call("train", "--mode", mode, "--arch", arch, *tiny, "--encoder", GOLDEN / "bert",
             "--steps", 2, "--batch-size", 2, "--eval-samples", 0, "--out", folders[-1])
    call("eval", *tiny, "--eval-samples", 1, "--ckpt", *folders, "--out", tmp_path / "eval")
    out = capsys.readouterr().out
    for label in ("base model", "multi-task LoRA", "T2L sftS, own description",
                  "T2L sftL, random words"):
        assert out.count(f"\n{label} ") == 1
    assert out.count("it reads its description") == 2          # one verdict for each T2L
    assert out.count(" − ") == 10 and re.search(               # any two of five main rows
        r"\n  T2L sftS, own description − base model: [+-]\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]\n", out)

    monkeypatch.setattr("eval.ask", None)                      # a wrong row is told before anything
    monkeypatch.setattr("eval.embed", None)                    # is run: these would be no refusal
    said = refused("eval", *tiny, "--ckpt", *folders, "--out", tmp_path, "--against", "T2L sft")
    assert "beginning of 10 rows" in said and "T2L sftL, mean embedding" in said


def test_a_suite_of_one_task_has_no_other_tasks_rows(tmp_path, capsys):
    """And without test instances there is nothing to put into a table: said before training."""
    (tmp_path / "tasks").mkdir()
    task_file(tmp_path / "tasks", "alpha")
    flags = ["--mode", "sft", *TINY, "--tasks", tmp_path / "tasks", "--steps", 1, "--batch-size", 2,
             "--eval-samples", 1]

    def train(out) -> None:
        with pytest.warns(UserWarning, match="none is left to test as unseen"):
            call("train", *flags, "--out", out)
    train(tmp_path / "out")
    said = capsys.readouterr().out
    assert "random words" in said and "another" not in said
    task_file(tmp_path / "tasks", "alpha", Split={"train": 15, "test": 0})
    with pytest.raises(UserError, match="no task has test instances"):
        train(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_only_read_stays_as_it_is(tiny_tasks, tmp_path, monkeypatch):
    """Checkpoints, the committed ones or those of --ckpt: results go to --out, or to out/eval."""
    tiny = ["--model", GOLDEN / "llama", "--tasks", tiny_tasks, "--eval-samples", 1]
    common = ["--encoder", GOLDEN / "bert", "--steps", 1, "--batch-size", 2]
    call("train", "--mode", "sft", *tiny[:4], *common, "--eval-samples", 0, "--out",
         tmp_path / "checkpoints" / "one")
    monkeypatch.setattr("utils.weights.CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / ".text-to-lora-part-0123456789ab").mkdir()    # of a killed command
    before = {file: file.read_bytes() for file in (tmp_path / "checkpoints" / "one").iterdir()}
    for extra, out in (([], "out/eval"), (["--ckpt", "checkpoints/one", "--out", "mine"], "mine")):
        call("eval", *tiny, *extra)
        assert list(json.loads((tmp_path / out / "results.json").read_text())) == ["unseen", "seen"]
    assert before == {file: file.read_bytes()
                      for file in (tmp_path / "checkpoints" / "one").iterdir()}
    assert "is a file" in refused("eval", *tiny, "--out", tmp_path / "splits.json")


def test_a_verdict_needs_ten_tasks():
    labels = ["T2L x, own", "T2L x, random words"]
    rows = [Row(label, "lora", None, None, "T2L x") for label in labels]
    for n, said in ((9, "T2L x, own 84.0 %"), (10, "it reads its description: T2L x")):
        scores = {label: {f"t{i}": level + i for i in range(n)}
                  for label, level in zip(labels, (80.0, 10.0))}
        assert (line := verdict(rows, scores)).startswith(said)
        assert ("10 tasks are needed" in line) == (n < 10)
    little = {label: {f"t{i}": 0.0 for i in range(99)} | {"t": right}
              for label, right in zip(labels, (100.0, 0.0))}
    assert verdict(rows, little).startswith("T2L x, own 1.0 %")
    assert verdict(rows, little).endswith("more steps, are needed to say whether it reads its "
                                          "description")


def echo(monkeypatch, form) -> None:
    """Every model answers "alpha 3" with form("a3", 3), where an adapter is used."""
    def generate(model, tokenizer, prompts, lora, max_new_tokens):
        last = [prompt.split("\n")[-1].split() for prompt in prompts]
        return ["no" if lora is None else form(f"{name[0]}{i}", int(i), lora) for name, i in last]
    monkeypatch.setattr("eval.generate", generate)


def test_seeds_are_joined(tiny_tasks, tmp_path, monkeypatch, capsys):
    """The runs' own scores stay, the joined ones are their means; a folder is a seed."""
    tiny = ["--model", GOLDEN / "llama", "--tasks", tiny_tasks]
    runs = [tmp_path / f"{mode}{seed}" for mode in ("sft", "mtlora") for seed in (0, 1)]
    for out in runs:
        call("train", "--mode", out.name[:-1], *tiny, "--seed", out.name[-1], "--steps", 1,
             "--batch-size", 2, "--eval-samples", 0, "--out", out,
             *(["--arch", "S", "--encoder", GOLDEN / "bert"] if "sft" in out.name else []))
    capsys.readouterr()
    echo(monkeypatch, lambda answer, i, lora: answer if int(
        1e6 * sum(w.abs().sum().item() for w in lora[0].values()) + i) % 2 else "no")
    call("eval", *tiny, "--ckpt", *runs, "--seeds", "--out", tmp_path, "--against", "multi-task")
    out = capsys.readouterr().out
    assert "T2L S (2 seeds), random words − multi-task LoRA (2 seeds): " in out
    assert out.splitlines()[-1].startswith("unseen tasks: T2L S (2 seeds), own description ")
    for scores in json.loads((tmp_path / "results.json").read_text()).values():
        for joined, own in (("T2L S (2 seeds), mean embedding", "T2L sft{}, mean embedding"),
                            ("multi-task LoRA (2 seeds)", "multi-task LoRA mtlora{}")):
            assert scores[joined] == {task: pytest.approx(mean(
                scores[own.format(seed)][task] for seed in (0, 1))) for task in scores[joined]}


def test_split_all_asks_every_task_that_was_not_trained_on(tiny_tasks, tmp_path, monkeypatch,
                                                           capsys):
    """All instances of theirs, by both matches; a T2L's tasks are in its folder."""
    tiny = ["--model", GOLDEN / "llama"]
    call("train", "--mode", "sft", *tiny, "--encoder", GOLDEN / "bert", "--tasks", tiny_tasks,
         "--arch", "S", "--steps", 1, "--batch-size", 2, "--eval-samples", 0, "--out",
         tmp_path / "run")
    (other := tmp_path / "new" / "other").mkdir(parents=True)
    for name in ("alpha", "delta", "eta"):
        task_file(other, name, Instances=[
            {"input": f"{name} {i}", "output": ["?", f"{name[0]}{i}"]} for i in range(20)])
    capsys.readouterr()
    echo(monkeypatch, lambda answer, i, lora: answer.upper() if i % 4 else f" {answer}")
    with pytest.warns(UserWarning, match="none is left to test as unseen"):
        call("eval", *tiny, "--tasks", other, "--ckpt", tmp_path / "run", "--split", "all",
             "--eval-samples", 99, "--out", tmp_path)
    out, err = capsys.readouterr()
    assert "all: 2 tasks, 40 answers" in out and "seen:" not in out
    assert "2 tasks are asked, 1 were trained on" in err
    found = json.loads((tmp_path / "results_all.json").read_text())
    own = "T2L run, own description"
    assert {column: scores[own] for column, scores in found.items()} == {
        "strict": {"delta": 25.0, "eta": 25.0}, "lenient": {"delta": 100.0, "eta": 100.0}}
    assert not (tmp_path / "results.json").exists()


def test_an_answer_in_capitals_has_room():
    """With --split all an answer may have twice the tokens of the accepted one."""
    rooms = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.generate", lambda *_, max_new_tokens: rooms.append(max_new_tokens)
                      or ["x"])
        for room in (1, 2):
            ask(Row("row", "lora", lambda s, rng: "d", lambda batch: None),
                [Sample("t", "d", "in", ("right",))], None, load_tokenizer(GOLDEN / "llama"), room)
    assert rooms[1] - 3 == 2 * (rooms[0] - 3) > 0


def test_eval_without_a_checkpoint(tiny_tasks, tmp_path):
    said = refused("eval", "--ckpt", tmp_path, *TINY, "--tasks", tiny_tasks)
    assert "config.json does not exist" in said
