"""The suites that load_suite reads: sizes, the split, overlap; folders and what is refused."""
import json
from collections import Counter
from dataclasses import replace

import pytest
from conftest import GOLDEN, ROOT, task_file

from data import generate
from data.suite import drop_too_long, load_suite, load_task
from mistral import load_tokenizer
from utils.cli import UserError


def test_sizes(suite):
    tasks = suite.train + suite.validation + suite.unseen
    assert len(tasks) >= 120 and len(suite.unseen) >= 20
    for task in tasks:
        least = 100 if task.name.startswith("facts_") else 200
        assert len(task.train) + len(task.test) >= least, task.name
        assert len(task.test) >= 20, task.name
        assert len(task.held_out) >= 8 and len(task.descriptions) >= 16, task.name
        lines = [d.casefold() for d in task.descriptions + task.held_out]
        assert len(set(lines)) == len(lines) >= 24, task.name


def test_nothing_of_the_unseen_or_of_any_test_is_trained_on(suite):
    tasks = suite.train + suite.validation + suite.unseen
    trained = {(text, answer) for t in suite.train for text, answers in t.train
               for answer in answers}
    tested = {(text, answer) for t in tasks for text, answers in t.test for answer in answers}
    assert trained and tested and not trained & tested
    wordings = {d for t in suite.train for d in t.descriptions}
    kept = {d for t in tasks for d in t.held_out}
    kept |= {d for t in suite.validation + suite.unseen for d in t.descriptions}
    assert wordings and kept and not wordings & kept
    names = [t.name for t in tasks]
    assert len(set(names)) == len(names)


def test_the_description_alone_decides(suite):
    """Unseen tasks' test inputs occur under many other tasks, nearly always with other answers."""
    answers: dict[str, list] = {}
    for task in suite.train + suite.validation + suite.unseen:
        for text, out in task.test:
            answers.setdefault(text, []).append(out[0])
    for task in suite.unseen:
        others = [Counter(answers[text])[out[0]] - 1 for text, out in task.test]
        tasks_each = [len(answers[text]) for text, _ in task.test]
        assert sum(n > 1 for n in tasks_each) >= 0.8 * len(tasks_each), task.name
        assert sum(tasks_each) >= 10 * len(tasks_each), task.name
        assert sum(others) / (sum(tasks_each) - len(tasks_each)) < 0.1, task.name


def test_the_built_in_suite_equals_the_one_written_and_read_again(suite, written):
    """Every task, pair and wording, in the same order; DIR and DIR/tasks are the same."""
    for folder in (written, written / "tasks"):
        read = load_suite(folder)
        for part in ("train", "validation", "unseen"):
            assert getattr(read, part) == getattr(suite, part), part
    names = [task.name for task in suite.train]
    assert len(names) == 620 and names == sorted(names)      # the order decides training's draws


@pytest.mark.parametrize("part", ["training pairs", "test pairs"])
def test_another_pythons_suite_is_refused_in_one_line(part, tmp_path, monkeypatch):
    """Names both versions and the way round; the committed file as it is passes."""
    splits = json.loads(generate.SPLITS.read_text(encoding="utf-8"))
    tasks = generate.default_tasks()
    generate.check_digests(tasks, splits)
    splits |= {"python": "3.77", "sha256": splits["sha256"] | {part: "0" * 64}}
    (tmp_path / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    monkeypatch.setattr(generate, "SPLITS", tmp_path / "splits.json")
    with pytest.raises(UserError) as refused:
        load_suite()
    line = str(refused.value)
    assert f"made by Python {generate.PYTHON}, has other {part} than" in line
    assert "Python 3.77 wrote" in line and "\n" not in line
    assert "python -m data.generate --write DIR" in line and "--tasks DIR" in line


@pytest.mark.parametrize("change", [
    lambda task: {"train": (("another", ("x",)), *task.train[1:])},
    lambda task: {"train": task.train[::-1]},
    lambda task: {"test": ((task.test[0][0], ("x",)), *task.test[1:])},
    lambda task: {"descriptions": task.descriptions[1:]},
    lambda task: {"held_out": task.held_out[::-1]}])
def test_a_digest_sees_every_change(change, suite):
    tasks = suite.by_name()
    splits = {"sha256": generate.digests(tasks), "python": generate.PYTHON}
    task = tasks["letters_upper"]
    with pytest.raises(UserError, match="the built-in suite"):
        generate.check_digests(tasks | {task.name: replace(task, **change(task))}, splits)


@pytest.mark.quick
def test_a_folder_with_tasks_of_its_own_is_read_itself(tiny_tasks):
    """Only where DIR has no task file does DIR mean DIR/tasks."""
    parent = tiny_tasks.parent
    assert [t.name for t in load_suite(parent).unseen] == ["gamma"]
    task_file(parent, "delta")
    (parent / "splits.json").unlink()
    with pytest.warns(UserWarning, match="every task is trained on"):
        assert [t.name for t in load_suite(parent).train] == ["delta"]


@pytest.mark.quick
def test_a_clone_of_natural_instructions_holds_the_papers_tasks(tmp_path):
    """The authors' 479 and 11 task numbers; a file of another number is not even read."""
    numbers = json.loads((ROOT / "data" / "sni_splits.json").read_text())
    assert (len(numbers["train"]), len(numbers["unseen"]), len(numbers["dropped"])) == (479, 11, 10)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "splits" / "default").mkdir(parents=True)
    for n in (numbers["train"][0], numbers["train"][5], numbers["unseen"][2]):
        task_file(tmp_path / "tasks", f"task{n:03d}_x", Descriptions=None, Split=None,
                  **{"Description Split": None})
    (tmp_path / "tasks" / f"task{numbers['dropped'][0]}_y.json").write_text("not read")
    with pytest.warns(UserWarning, match="lacks 487 of the paper's tasks"):
        suite = load_suite(tmp_path / "tasks")
    with pytest.warns(UserWarning, match="lacks 487"):
        assert load_suite(tmp_path) == suite                      # the clone's root will do
    assert [t.name for t in suite.train] == [f"task{n:03d}_x" for n in (numbers["train"][0],
                                                                        numbers["train"][5])]
    assert [t.name for t in suite.unseen] == [f"task{numbers['unseen'][2]:03d}_x"]
    assert suite.train[0].descriptions == (f"Do what {suite.train[0].name} says.",)


@pytest.mark.quick
@pytest.mark.parametrize("changes, said", [
    ({"Instances": []}, "no \"Instances\""), ({"Instances": None}, "no \"Instances\""),
    ({"Definition": None, "Descriptions": None}, "lacks \"Definition\""),
    ({"Instances": [{"input": "a"}]}, "lacks instance 0's output"),
    ({"Instances": [{"input": "a", "output": 5}]}, "lacks instance 0's output"),
    ({"Instances": ["a"]}, "no \"Instances\""), ({"Descriptions": 5}, "lacks \"Definition\""),
    ({"Split": 3}, "expected \"Split\""),
    ({"Description Split": {"train": 0}}, "expected \"Split\""),
    ({"Split": {"train": -1, "test": 2}}, "expected \"Split\""),
    ({"Split": {"train": 3}}, "expected \"Split\""),
    ({"Instances": [{"input": "a", "output": ["b"]}, {"input": 3, "output": "c"}]},
     "instance 1 lacks")])
def test_malformed_task_files(changes, said, tmp_path):
    with pytest.raises(UserError, match=said):
        load_task(task_file(tmp_path, "broken", **changes))


@pytest.mark.quick
def test_a_task_file_that_is_not_json_and_folders_without_tasks(tmp_path):
    (tmp_path / "a.json").write_text("{not json")
    with pytest.raises(UserError, match="a.json is not readable as JSON"):
        load_suite(tmp_path)
    with pytest.raises(UserError, match="holds no task file"):
        load_suite(tmp_path / "nowhere")


@pytest.mark.quick
def test_splits_that_name_an_unknown_task(tiny_tasks):
    (tiny_tasks.parent / "splits.json").write_text('{"unseen": ["delta"]}')
    with pytest.raises(UserError, match="names delta"):
        load_suite(tiny_tasks)


@pytest.mark.quick
def test_a_folder_without_splits_trains_on_everything_with_a_warning(tiny_tasks):
    (tiny_tasks.parent / "splits.json").unlink()
    with pytest.warns(UserWarning, match="every task is trained on"):
        assert len(load_suite(tiny_tasks).train) == 3


@pytest.mark.quick
def test_an_answer_longer_than_the_context(tiny_tasks):
    rows = [{"input": "a", "output": ["b " * 100]},
            *({"input": str(i), "output": ["c"]} for i in range(9))]
    task_file(tiny_tasks, "alpha", Instances=rows, Split={"train": 10, "test": 0})
    tokenizer, suite = load_tokenizer(GOLDEN / "llama"), load_suite(tiny_tasks)
    with pytest.warns(UserWarning, match="left out 1 instances longer than 64 tokens"):
        kept = drop_too_long(suite, tokenizer, 64, "lora")
    assert sum(len(t.train) for t in kept.train) == sum(len(t.train) for t in suite.train) - 1
    with pytest.raises(UserError, match="alpha: every training instance"):
        drop_too_long(suite, tokenizer, 12, "lora")
