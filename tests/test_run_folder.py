"""A run's folder: what is overwritten, what can be resumed, what is refused."""
import pytest
from conftest import TINY, command, refused, train_tiny

from utils.cli import UserError

pytestmark = pytest.mark.quick


def test_an_unfinished_run_is_not_overwritten(tmp_path):
    (tmp_path / "train_state.pt").write_bytes(b"precious")
    said = refused("train", "--mode", "mtlora", *TINY, "--out", tmp_path)
    assert "unfinished run" in said and (tmp_path / "train_state.pt").read_bytes() == b"precious"


def test_a_mistyped_run_leaves_nothing_behind(tmp_path):
    assert "not a folder" in refused("train", "--mode", "sft", "--model", tmp_path / "nowhere",
                                     "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_resume_with_nothing_to_resume(tmp_path):
    said = refused("train", "--mode", "sft", "--resume", "--out", tmp_path)
    assert "nothing to resume" in said


def test_resume_with_other_flags(tmp_path, tiny_tasks):
    flags = ["--mode", "mtlora", *TINY, "--tasks", tiny_tasks, "--eval-samples", 0,
             "--out", tmp_path / "r"]
    assert command("train", *flags, "--steps", 2).returncode == 0
    assert "steps = 2" in refused("train", *flags, "--steps", 3, "--resume")


def test_resuming_a_finished_run_says_so(tiny_tasks, tmp_path, capsys):
    flags = ["--mode", "mtlora", "--tasks", tiny_tasks, "--steps", 2, "--eval-samples", 0,
             "--out", tmp_path / "run"]
    train_tiny(*flags)
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    train_tiny(*flags, "--resume")
    assert "is finished" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before


def test_a_run_does_not_delete_what_it_starts_from(library, tiny_tasks, tmp_path):
    flags = ["--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--steps", 2,
             "--eval-samples", 0, "--out", tmp_path / "recon"]
    train_tiny(*flags)
    with pytest.raises(UserError, match="the folder that this run writes"):
        train_tiny(*flags, "--init", tmp_path / "recon")
    assert (tmp_path / "recon" / "t2l.safetensors").exists()
