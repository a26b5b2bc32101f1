"""T2L beside a library's oracles: rows, distances, and what does not belong together."""
import json

import pytest
from conftest import GOLDEN, TINY, call, train_tiny

from data.suite import load_suite
from experiments import compare
from t2l import generate_lora
from utils.cli import UserError
from utils.library import load_library


def test_one_hot_and_text_beside_each_other(library, tiny_tasks, tmp_path, monkeypatch):
    """Each T2L hears of its tasks in its own way, in whatever order they are given."""
    heard = []
    common = ["--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--steps", 2,
              "--eval-samples", 0]
    train_tiny(*common, "--one-hot", "--out", tmp_path / "number")
    train_tiny(*common, "--out", tmp_path / "text")
    monkeypatch.setattr(compare, "generate_lora", lambda t2l, lines, encoder: heard.append(
        (bool(t2l.cfg.tasks), lines)) or generate_lora(t2l, lines, encoder))
    flags = ["--loras", library, "--tasks", tiny_tasks, *TINY, "--eval-samples", 2, "--out",
             tmp_path / "out", "--ckpt", tmp_path / "number", tmp_path / "text"]
    before = sorted(path for path in tmp_path.glob("*/*") if path.parent.name != "out")
    call("experiments.compare", *flags)
    assert before == sorted(path for path in tmp_path.glob("*/*") if path.parent.name != "out")
    assert (tmp_path / "out" / "results_library.json").exists()
    for one_hot, lines in heard:
        assert all((line in ("alpha", "beta")) == one_hot for line in lines), lines
    assert {one_hot for one_hot, _ in heard} == {True, False}

    for folder, describe in ((tmp_path / "text", "both"), (tmp_path / "number", "lora")):
        config = json.loads((folder / "config.json").read_text()) | {"describe": describe}
        (folder / "config.json").write_text(json.dumps(config))
    t2ls = compare.load_t2ls([tmp_path / "text", tmp_path / "number"], *load_library(library),
                             lambda cfg: None)
    rows = compare.library_rows(load_library(library)[0], t2ls, load_suite(tiny_tasks).train)
    assert [row.describe for row in rows] == 3 * ["lora"] + 3 * ["both"] + 2 * ["lora"]

    (tmp_path / "again" / "text").mkdir(parents=True)
    with pytest.raises(UserError, match="have the same name in the table"):
        call("experiments.compare", *flags, tmp_path / "again" / "text")


def test_what_does_not_belong_together(library, tiny_tasks, tmp_path):
    """A library for another model, and adapters of tasks that are not there or have no tests."""
    flags = ["--loras", library, "--encoder", GOLDEN / "bert", "--tasks", tiny_tasks]
    with pytest.raises(UserError, match="the library is for .*; the language model is"):
        call("experiments.compare", *flags, "--model", GOLDEN / "mistral")
    (library / "beta").rename(library / "odd")
    train_tiny("--mode", "recon", "--loras", library, "--one-hot", "--steps", 1, "--eval-samples",
               0, "--out", tmp_path / "number")
    with pytest.raises(UserError, match="have 1 tasks in common, of 2"):
        call("experiments.compare", *flags, "--model", GOLDEN / "llama", "--ckpt",
             tmp_path / "number")
