"""The six tasks of experiments.own_tasks: well formed, new to the built-in suite, and trainable."""
import pytest
from conftest import call, command, refused

from data.suite import load_suite
from experiments import own_tasks
from experiments.own_tasks import TASKS, WORDINGS, wordings_of


@pytest.mark.quick
@pytest.mark.parametrize("n", [1, 16])
def test_the_files_hold_what_they_say(n, tmp_path, suite):
    call("experiments.own_tasks", tmp_path / "own", "--wordings", n)
    with pytest.warns(UserWarning, match="every task is trained on"):
        own = load_suite(tmp_path / "own").train
    assert [t.name for t in own] == sorted(TASKS) and WORDINGS.keys() == TASKS.keys()
    builtin = {d for t in suite.by_name().values() for d in t.descriptions + t.held_out}
    for task in own:
        assert (len(task.train), len(task.test)) == (own_tasks.TRAIN, own_tasks.TEST)
        assert len(task.descriptions) == n and len(task.held_out) == own_tasks.HELD_OUT
        lines = wordings_of(task.name)
        assert len(set(lines)) == len(lines) == 20 and not builtin & set(lines)
    assert task.held_out == tuple(lines[-4:]) or len(own) > 1        # always the same ones


@pytest.mark.quick
def test_what_it_refuses(tmp_path):
    assert "1 to 16" in refused("experiments.own_tasks", tmp_path / "x", "--wordings", 17)
    assert "to be made" in refused("experiments.own_tasks", tmp_path)


@pytest.mark.slow
def test_training_on_them_from_the_committed_checkpoint(default_models, tmp_path):
    """Part of docs/own-tasks.md: most answers are right after a minute or two."""
    call("experiments.own_tasks", tmp_path / "own", "--wordings", 4)
    done = command("train", "--mode", "sft", "--init", "checkpoints/smollm2-135m", "--tasks",
                   tmp_path / "own", "--steps", 60, "--batch-size", 16, "--eval-samples", 8,
                   "--out", tmp_path / "run")
    line = done.stdout.splitlines()[-1]
    assert "seen tasks, new inputs: T2L run, own description" in line
    assert float(line.split("own description ")[1].split(" %")[0]) > 50
