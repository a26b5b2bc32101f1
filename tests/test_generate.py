"""`python -m data.generate`: the suite's bytes, the drawn splits, and what the command prints."""
import hashlib
import json
import subprocess
import sys

import pytest
from conftest import ROOT, command

from data import complaints, generate
from data.kinds import TaskSpec

# Over all files that --write puts into tasks/, in alphabetical order: name, zero byte, content.
BYTES = "f4728cfa9a2c7860f00ff6a172431d7e4e852c2257b2af99382be901ab1c2354"


def shell(*flags) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "data.generate", *map(str, flags)], cwd=ROOT,
                          capture_output=True, encoding="utf-8")


def digest_of(folder) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def test_write_gives_the_known_bytes_and_the_committed_splits(tmp_path):
    """Also the proof that splits.json is the seeded draw and was not picked by hand.

    Only the line that names the Python version may differ.
    """
    done = shell("--write", tmp_path / "new")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout == (f"wrote 776 tasks and splits.json; --tasks {tmp_path / 'new'} reads "
                           "them\n")
    assert len(list((tmp_path / "new" / "tasks").iterdir())) == 776
    assert digest_of(tmp_path / "new" / "tasks") == BYTES
    written, committed = ([line for line in path.read_bytes().splitlines(keepends=True)
                           if not line.startswith(b' "python": ')]
                          for path in (tmp_path / "new" / "splits.json", generate.SPLITS))
    assert written == committed and len(committed) > 500


@pytest.mark.slow
def test_write_again_and_into_a_folder_of_other_tasks(written):
    before = digest_of(written / "tasks")
    assert command("data.generate", "--write", written).returncode == 0
    assert digest_of(written / "tasks") == before
    (written / "tasks" / "mine.json").write_text("{}")
    done = command("data.generate", "--write", written)
    (written / "tasks" / "mine.json").unlink()
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "holds mine.json, which is no task of the built-in suite" in done.stderr


@pytest.mark.slow
def test_no_option_checks_all_kinds_and_prints_the_overlap():
    done = command("data.generate")
    assert done.returncode == 0, done.stdout + done.stderr
    *unseen, last = done.stdout.splitlines()
    assert len(unseen) == 104 and all(line.startswith("unseen ") for line in unseen)
    assert last.startswith("776 tasks, 303619 instances, 6529 different inputs; 99.7 % of the inst")
    assert last.endswith("two tasks that share an input agree on its answer in 0.4 % of the cases")


def test_show_prints_the_wordings_and_a_dozen_instances():
    done = command("data.generate", "--show", "choices_vehicle")
    task = generate.default_tasks()["choices_vehicle"]
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("choices_vehicle (unseen): ")
    blocks = {block.split("\n")[0]: [line.strip() for line in block.strip().split("\n")[1:]]
              for block in done.stdout.split("\n\n")[1:]}
    assert blocks["wordings"] == list(task.descriptions)
    assert blocks["wordings held out"] == list(task.held_out)
    for title, pairs, n in (("training instances", task.train, 8),
                            ("test instances", task.test, 4)):
        known = {f"{text!r} → {list(out)}" for text, out in pairs}
        assert len(set(blocks[title])) == n and set(blocks[title]) <= known


@pytest.mark.parametrize("name, near", [("letters_uper", "near it are letters_upper, "),
                                        ("zzz", "begins with its kind: affixes, calendar, ")])
def test_show_of_an_unknown_task_names_near_ones(name, near):
    done = command("data.generate", "--show", name)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: there is no task '{name}'; ") and near in done.stderr


def test_check_prints_samples_and_numbers_of_a_kind():
    done = command("data.generate", "--check", "positions")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    *samples, unseen, validation, last = done.stdout.splitlines()
    n = sum(spec.kind == "positions" for spec in generate.all_specs().values())
    assert len(samples) == 5 * n and samples[0].startswith("positions_")
    splits = json.loads(generate.SPLITS.read_text(encoding="utf-8"))
    for part, line in (("unseen", unseen), ("validation", validation)):
        names = [name for name in splits[part] if name.startswith("positions_")]
        assert names and line == f"{part}: {', '.join(names)}"
    assert last.startswith(f"positions: {n} tasks, ") and "agree on its answer" in last
    done = command("data.generate", "--check", "position")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "'position'" in done.stderr


def test_check_complains_and_ends_with_code_1(tmp_path, monkeypatch, capsys):
    """A kind with a dull task and one without wordings, and wordings without a task."""
    lines = [f"{word} wording, unlike the others" for word in "abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "dull.txt").write_text("\n".join(["== same", *lines, "== gone", "x"]),
                                       encoding="utf-8")
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    monkeypatch.setattr(generate, "TASKS", {
        "dull_same": TaskSpec("dull", range(500), lambda n: "yes", lookup=False),
        "dull_few": TaskSpec("dull", range(50), str, lookup=False)})
    with pytest.raises(SystemExit) as stop:
        generate.print_kind("dull")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]
    assert stop.value.code == 1 and said[0] == "! dull_gone: wordings without a task"
    assert "! dull_few: 50 instances, expected 200" in said
    assert "! dull_few: 0 wordings, expected 24" in said
    assert "! dull_same: 'yes' is the answer to 400 instances" in said
    with pytest.raises(generate.UserError, match="dull_few has 0 wordings in .*dull.txt, expected"):
        generate.make_task("dull_few", generate.TASKS["dull_few"], [])


def test_a_broken_kind_says_everything_at_once(tmp_path, monkeypatch):
    """Every rule broken, in one go and without a traceback: code that fails, answers that are odd,
    wordings that are before any task, twice, another kind's, an input that tells the task."""
    lines = [f"{word} wording, unlike the others" for word in "abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "fine.txt").write_text("\n".join(["== task", *lines]), encoding="utf-8")
    (tmp_path / "odd.txt").write_text("\n".join(
        ["before", "== a", *[f"{i} {line}" for i, line in enumerate(lines)], "0 A" + lines[0][1:],
         lines[3], "== b", "== c"]), encoding="utf-8")
    pools = {"a": lambda n: f"{n} " if n % 7 == 0 else f"n{n}", "b": lambda n: [str(1 // (n % 9))],
             "c": lambda n: 5 if n else []}
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    monkeypatch.setattr(generate, "KINDS", ["fine", "odd"])
    monkeypatch.setattr(generate, "TASKS", {
        "fine_task": TaskSpec("fine", range(900), str, lookup=True),
        **{f"odd_{k}": TaskSpec("odd", range(1000, 1600), f, lookup=False)
           for k, f in pools.items()}})
    done = command("data.generate", "--check", "odd")
    said = "\n".join(line for line in done.stdout.splitlines() if line.startswith("! "))
    assert done.returncode == 1 and done.stderr == ""
    for rule in ('1 wordings stand before the first line "== task"',
                 "odd_a: '1001' has ('1001 ',); expected texts without outer spaces (and ",
                 "odd_b: '1008' has no answer, but ZeroDivisionError: ", "odd_c: '1000' has (5,); ",
                 "odd_c: 0 instances, expected 200", "odd_b: 0 wordings, expected 24",
                 "odd_a: the wording '0 a wording, unlike the others' stands there 2 times",
                 "odd_a: the wording 'd wording, unlike the others' is fine_task's, too",
                 "odd_b: '0' is the answer to ", ", drawn as unseen: "):
        assert rule in said, (rule, said)
    done = command("data.generate", "--check", "fine")
    assert done.returncode == 1 and "! odd_" not in done.stdout        # theirs is theirs to mend
    (tmp_path / "odd.txt").unlink()                                    # a .py alone
    said = command("data.generate", "--check", "odd").stdout
    assert "odd.txt does not exist; it holds the wordings" in said and "odd_a: 0 wordings" in said


def test_what_tells_an_unseen_task_by_its_inputs():
    one = ([], [(str(i), (f"a{i}",)) for i in range(30)])
    suite = {f"t{i}": ([], [(text, (f"{i} {text}",)) for text, _ in one[1]]) for i in range(9)}
    assert complaints.inputs_alone(["one"], suite | {"one": one}) == []
    few = dict(list(suite.items())[:4])
    for others, said in (({}, "0 of 30 test inputs are other tasks', too, expected 80 %"),
                         (few, "on average 5.0 tasks use a test input, expected 10"),
                         ({name: one for name in suite}, "100 % of other tasks' answers are its")):
        (found,) = complaints.inputs_alone(["one"], others | {"one": one})
        assert said in found


def test_wordings_that_are_copies_are_complained_of():
    pairs = ([(str(i), (str(i),)) for i in range(300)], [(f"t{i}", (str(i),)) for i in range(50)])
    lines = [f"Give the {'very ' * i}first of these words." for i in range(26)]
    copies = [line.replace("first", "last") for line in lines]
    found = complaints.complaints({"a": pairs, "b": pairs}, {"a": lines, "b": copies}, set())
    assert found == ["a and b share 26 wordings, at most 4 are allowed"]
    other = [f"Another {i} sentence, quite unlike all of them {i} {i}." for i in range(26)]
    assert complaints.complaints({"a": pairs, "b": pairs}, {"a": lines, "b": other}, set()) == []


def test_a_best_constant_is_the_answer_that_is_right_most_often():
    pairs = (("1", ("a", "b")), ("2", ("c", "b")), ("3", ("d",)))
    assert generate.best_constant(pairs) == ("b", 66.7)
    assert generate.best_constant(pairs[:1]) == ("a", 100.0)       # of equals, the first


def test_answers_with_outer_spaces_are_refused():
    with pytest.raises(ValueError, match="x: '0' has .* outer spaces"):
        generate.make_pairs("x", TaskSpec("x", range(3), lambda n: " a", lookup=False))


@pytest.mark.quick
@pytest.mark.parametrize("n, unseen, validation", [(1, 0, 0), (2, 0, 0), (3, 1, 0), (6, 1, 1),
                                                   (9, 2, 1), (17, 3, 2), (18, 4, 2), (50, 4, 2)])
def test_most_of_a_small_kind_is_trained_on(n, unseen, validation, monkeypatch):
    monkeypatch.setattr(generate, "KINDS", ["small"])
    specs = {f"small_{i}": TaskSpec("small", range(9), str, lookup=i >= n) for i in range(n + 3)}
    splits = generate.draw_splits(specs)
    drawn = splits["unseen"] + splits["validation"]
    assert (len(splits["unseen"]), len(splits["validation"])) == (unseen, validation)
    assert len(set(drawn)) == len(drawn) and not any(specs[name].lookup for name in drawn)
