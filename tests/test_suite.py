"""The suites that load_suite reads: sizes, the split, overlap; folders and what is refused. From
tasks to batches of token ids: what is drawn, what is learnt, what is in the prompt.
"""
import json
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import GOLDEN, ROOT, task_file

from data import generate
from data.suite import drop_too_long, load_suite, load_task, tasks_of_checkpoint, untrained
from data.tasks import (Sample, Suite, Task, draw_from_each, draw_samples, encode, seen_samples,
                        test_samples as draw_test_samples)
from mistral import load_tokenizer
from utils.cli import UserError
from utils.neighbours import Neighbours, save_neighbours


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
    assert f"suite has other {part} than" in line
    assert "3.77 there" in line and "\n" not in line
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
    with pytest.raises(UserError, match="a.json is a file; give the folder it is in"):
        load_suite(tmp_path / "a.json")
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_suite(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no task file"):
        load_suite(tmp_path / "empty")


@pytest.mark.quick
def test_a_misspelt_key_is_told_and_a_strange_one_is_not(tmp_path):
    with pytest.warns(UserWarning, match='"Description" is passed over; did you mean "Desc') as all:
        load_task(task_file(tmp_path, "close", Description=["Say it."], Source=["a book"]))
    assert len(all) == 1


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
@pytest.mark.quick
def test_several_folders_and_the_built_in_suite(tiny_tasks, tmp_path, suite, monkeypatch):
    """Each with the splits.json beside it; a name that stands in two is refused."""
    monkeypatch.setattr("data.suite.builtin_suite", lambda: suite)           # made anew it is slow
    (tmp_path / "more" / "tasks").mkdir(parents=True)
    for name in ("delta", "epsilon"):
        task_file(tmp_path / "more" / "tasks", name)
    (tmp_path / "more" / "splits.json").write_text('{"validation": ["delta"]}')
    both = load_suite([tiny_tasks, tmp_path / "more" / "tasks"])
    names = [[task.name for task in part] for part in (both.train, both.validation, both.unseen)]
    assert names == [["alpha", "beta", "epsilon"], ["delta"], ["gamma"]]

    mixed = load_suite(["default", str(tiny_tasks)])
    assert len(mixed.train) == len(suite.train) + 2
    assert mixed.unseen[:-1] == suite.unseen and mixed.unseen[-1].name == "gamma"
    assert load_suite("default") == suite == load_suite(["default"])

    task_file(tmp_path / "more" / "tasks", "alpha")
    with pytest.raises(UserError, match="both hold a task alpha; rename one"):
        load_suite([tiny_tasks, tmp_path / "more" / "tasks"])
    with pytest.raises(UserError, match="names .* twice"):
        load_suite([tiny_tasks, tiny_tasks])


@pytest.mark.quick
@pytest.mark.parametrize("n_tasks, per_task, asked, each", [
    (700, 1, 34, 1), (700, 6, 200, 1), (700, 20, 200, 1), (700, 40, 200, 2), (6, 1, 6, 1),
    (6, 6, 6, 6), (6, 30, 6, 20), (50, 6, 50, 4)])
def test_how_much_is_asked_of_the_seen_tasks(n_tasks, per_task, asked, each):
    pairs = tuple((f"{i}", ("x",)) for i in range(20))
    tasks = [Task(f"t{i}", pairs, pairs, ("d",), ("e",)) for i in range(n_tasks)]
    found = Counter(s.task for s in seen_samples(Suite(tasks, [], []), per_task))
    assert len(found) == asked and set(found.values()) == {each}


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


def rows(*pairs) -> list[dict]:
    return [{"input": text, "output": out} for text, out in pairs]


GOOD = [(f"in {i}", [f"out {i}"]) for i in range(9)]


@pytest.mark.quick
@pytest.mark.parametrize("bad, said", [
    ({"input": "x", "output": [""]}, "output"), ({"input": "x", "output": []}, "output"),
    ({"input": "x"}, "output"), ({"output": ["x"]}, "input"), ({"input": 3, "output": "x"}, "in"),
    ({"input": "x", "output": ["x", None]}, "output"), ("x", "input"), (None, "input")])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_one_bad_instance_is_left_out_and_named(bad, said, place, tmp_path):
    """The others stay where `Split` puts them."""
    found = rows(*GOOD)
    found.insert(place, bad)
    path = task_file(tmp_path, "some", Instances=found, Split={"train": 6, "test": 4})
    with pytest.warns(UserWarning, match=rf"left out 1 of 10 .*some.json.* instance {place}") as w:
        task = load_task(path)
    assert said in str(w[0].message) and len(w) == 1
    assert [text for text, _ in task.train + task.test] == [text for text, _ in GOOD]
    assert len(task.train) == (5 if place < 6 else 6)


@pytest.mark.quick
@pytest.mark.parametrize("split", [None, {"train": 10, "test": 3}])
def test_what_is_trained_on_is_no_test_instance(split, tmp_path):
    """The same input with one common answer is the same instance; with another answer it is not."""
    found = rows(*GOOD, ("x", ["y"]), ("in 3", ["other", "out 3"]), ("in 4", ["z"]), ("new", ["n"]))
    path = task_file(tmp_path, "some", Instances=found, Split=split)
    with pytest.warns(UserWarning, match="some.json: left out 1 of 3 test instances"):
        task = load_task(path)
    assert [text for text, _ in task.test] == ["in 4", "new"] and len(task.train) == 10
    path = task_file(tmp_path, "lines", Descriptions=["Do a.", "Do b.", "Do a.", "Do c."],
                     **{"Description Split": {"train": 2}})
    assert load_task(path).held_out == ("Do c.",)


@pytest.mark.quick
def test_an_unseen_task_that_repeats_a_trained_one_is_reported(tiny_tasks, recwarn):
    load_suite(tiny_tasks)
    assert not list(recwarn)
    shared = rows(*[(f"alpha {i}", [f"a{i}", "so"]) for i in range(20)])
    task_file(tiny_tasks, "gamma", Instances=shared, Split={"train": 0, "test": 20})
    with pytest.warns(UserWarning, match="15 test instances of 1 tasks, among them gamma, are"):
        load_suite(tiny_tasks)


@pytest.mark.quick
@pytest.mark.parametrize("splits, said", [
    ({"unseen": 1}, "list of task names as 'unseen'"), ({"unseen": "gamma"}, "found 'gamma"),
    ({"validation": None}, "as 'validation', found None"), ({"unseen": [["gamma"]]}, "list of"),
    ({"unseen": ["gamma", "gamma"]}, "names gamma 2 times"),
    ({"unseen": ["gamma"], "validation": ["gamma"]}, "names gamma 2 times")])
def test_splits_that_make_no_sense(splits, said, tiny_tasks):
    (tiny_tasks.parent / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match=rf"splits.json.* {said}"):
        load_suite(tiny_tasks)


@pytest.mark.quick
@pytest.mark.parametrize("splits, split, said", [
    ({"unsen": ["gamma"]}, {"train": 15, "test": 5}, "names no task as \"unseen\""),
    ({"unseen": ["gamma"]}, {"train": 20, "test": 0}, "keeps gamma from training, but it has no"),
    ({"unseen": ["gamma"]}, {"train": 15, "test": 50}, "counts 65 instances, the file has 20")])
def test_what_would_silently_be_less_than_meant(splits, split, said, tiny_tasks):
    task_file(tiny_tasks, "gamma", Split=split)
    (tiny_tasks.parent / "splits.json").write_text(json.dumps(splits))
    with pytest.warns(UserWarning, match=said):
        load_suite(tiny_tasks)


@pytest.mark.quick
@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "2.5", '"3"', "null"])
@pytest.mark.parametrize("key", ["Split", "Description Split"])
def test_splits_of_a_task_that_are_no_whole_numbers(key, number, tmp_path):
    path = task_file(tmp_path, "some", **{key: {"train": "HERE", "test": 2}})
    path.write_text(path.read_text().replace('"HERE"', number))
    with pytest.raises(UserError, match="some.json: expected \"Split\""):
        load_task(path)


@pytest.mark.quick
def test_a_clone_with_other_json_at_its_root_is_a_clone(tmp_path):
    for folder in ("tasks", "splits/default"):
        (tmp_path / "repo" / folder).mkdir(parents=True)
    task_file(tmp_path / "repo" / "tasks", "task022_x", Split=None)
    (tmp_path / "repo" / "leaderboard.json").write_text("{}")
    with pytest.warns(UserWarning, match="lacks 489 of the paper's tasks"):
        assert list(load_suite(tmp_path / "repo").by_name()) == ["task022_x"]


def checkpoint(folder, names=None, **config):
    """A checkpoint's folder, as far as it says what it was trained on."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if names:
        save_neighbours(folder, Neighbours(names, names, torch.eye(len(names), 4), 0.5))
    return folder


def test_what_a_checkpoint_was_trained_on(tiny_tasks, tmp_path, suite, monkeypatch, capsys):
    """By its tasks.safetensors before its --tasks; and what it started from and reads with."""
    monkeypatch.setattr("data.suite.builtin_suite", lambda: suite)
    lora = checkpoint(tmp_path / "lora", mode="mtlora", tasks=[str(tiny_tasks)])
    assert tasks_of_checkpoint(lora) == {"alpha", "beta"}                     # gamma is unseen
    first = checkpoint(tmp_path / "first", ["one"], mode="sft", tasks=["gone"], read_with=str(lora))
    second = checkpoint(tmp_path / "second", mode="recon", library=["two"], tasks=None,
                        init=str(first))
    assert tasks_of_checkpoint(second) == {"two", "one", "alpha", "beta"}
    (first / "config.json").write_text(json.dumps({"init": str(second)}))        # in a circle
    assert tasks_of_checkpoint(second) == {"two", "one"}
    assert tasks_of_checkpoint(checkpoint(tmp_path / "default", tasks=None)) == \
        {task.name for task in suite.train}
    assert capsys.readouterr().err == ""


def test_what_is_not_known_is_said(tmp_path, suite, monkeypatch, capsys):
    """The authors' checkpoint, and --tasks or --init that is gone: the built-in suite's."""
    monkeypatch.setattr("data.suite.builtin_suite", lambda: suite)
    (official := tmp_path / "authors").mkdir()
    (official / "hypermod.pt").touch()
    gone = checkpoint(tmp_path / "a", tasks=[str(tmp_path / "gone")])
    start = checkpoint(tmp_path / "b", ["one"], init=str(tmp_path / "gone"))
    default = {task.name for task in suite.train}
    for folder, names in ((official, default), (gone, default), (start, default | {"one"})):
        assert tasks_of_checkpoint(folder) == names
        assert f"{folder}: not all that it was trained on is known" in capsys.readouterr().err


def test_untrained_tasks_of_any_part(tiny_tasks, tmp_path):
    suite, one = load_suite(tiny_tasks), checkpoint(tmp_path / "one", ["alpha"])
    found = untrained(suite, [one])
    assert [task.name for task in found.unseen] == ["beta", "gamma"]
    assert all(len(task.test) == 20 for task in found.unseen)
    assert [task.name for task in found.train] == ["alpha", "beta", "gamma"]
    assert found.train[1].test == suite.train[1].test
    with pytest.raises(UserError, match="all 3 tasks of --tasks were trained on by .*one, .*two"):
        untrained(suite, [one, checkpoint(tmp_path / "two", ["gamma", "beta"])])


# ---------------------------------------------------------------------------- from tasks to batches

@pytest.mark.quick
def test_the_loss_covers_exactly_the_answer_and_its_end_token():
    tokenizer = load_tokenizer(GOLDEN / "llama")
    samples = [Sample("t", "d", "one two", ("ab", "no")), Sample("t", "d", "x", ("longer answer",))]
    batch = encode(samples, tokenizer)
    targets = batch.targets.tolist()
    for i, sample in enumerate(samples):
        kept = batch.keep[i].nonzero()[:, 0]
        n, ids = len(tokenizer.answer(sample.answers[0])), batch.ids[i].tolist()
        mine, targets = targets[:n], targets[n:]
        assert len(kept) == n and mine == tokenizer.answer(sample.answers[0])
        assert ids[:kept[0] + 1] == tokenizer.prompt(sample.input)
        assert ids[kept[0] + 1:kept[-1] + 1] == mine[:-1]    # each kept position sees the past only
        assert not any(ids[kept[-1] + 1:])
    assert not targets
    n = [len(tokenizer.answer(s.answers[0])) for s in samples]
    expected = torch.tensor([1 / (2 * n[0])] * n[0] + [1 / (2 * n[1])] * n[1])
    torch.testing.assert_close(batch.weights, expected)


@pytest.mark.quick
def test_prompts_hold_the_description_only_where_asked():
    tokenizer, sample = load_tokenizer(GOLDEN / "llama"), Sample("t", "say it", "x", ("y",))
    for describe, there in (("lora", False), ("prompt", True), ("both", True)):
        text = tokenizer.decode(encode([sample], tokenizer, describe).ids[0].tolist())
        assert ("say it" in text) == there


@pytest.mark.quick
def test_sampling_is_uniform_whatever_the_length_and_batches_hold_similar_lengths(tiny_tasks):
    task_file(tiny_tasks, "long", Instances=[{"input": f"{'word ' * 20}{i}", "output": ["x"]}
                                             for i in range(20)])
    tokenizer, suite = load_tokenizer(GOLDEN / "llama"), load_suite(tiny_tasks)
    batches = draw_samples(suite.train, tokenizer, 8, seed=random.randrange(10 ** 6))
    drawn = [next(batches) for _ in range(240)]
    counts = Counter(s.task for batch in drawn for s in batch)
    n = sum(counts.values())
    for task in suite.train:         # five standard deviations of a binomial draw
        assert abs(counts[task.name] - n / 3) < 5 * math.sqrt(n * 2 / 9)
    mixed = [len({len(s.input) > 50 for s in batch}) == 2 for batch in drawn]
    assert sum(mixed) <= len(drawn) / 4
    words = {s.description for batch in drawn for s in batch}
    assert words == {d for t in suite.train for d in t.descriptions}     # all of these, no held-out


@pytest.mark.quick
def test_draws_do_not_depend_on_company(tiny_tasks):
    tasks = load_suite(tiny_tasks).train
    both, one = draw_from_each(tasks, 8), draw_from_each(tasks[1:], 8)
    for _ in range(3):
        assert next(both)[8:] == next(one)


@pytest.mark.quick
def test_exercises_are_test_inputs_with_the_wordings_asked_for(suite):
    samples = draw_test_samples(suite.train, 2, lambda t: t.held_out)
    by_name = {t.name: t for t in suite.train}
    assert len(samples) == 2 * len(suite.train)
    for s in samples:
        task = by_name[s.task]
        assert s.description in task.held_out and s.description not in task.descriptions
        assert (s.input, s.answers) in task.test
    assert samples == draw_test_samples(suite.train, 2, lambda t: t.held_out)
