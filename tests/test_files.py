"""No file is ever half-written, nothing but the folder itself need be writable; and what a field
of a file may hold.
"""
import json
import os
import subprocess
import sys

import numpy
import pytest
from conftest import GOLDEN, ROOT, call
from safetensors import safe_open
from safetensors.numpy import save_file

from mistral import read_config
from utils.cli import UserError
from utils.files import SCRATCH, atomic_folder, clear_scratch, lock_folder, unlock, write_json
from utils.peft import sort_metadata
from utils.schema import (FLAG, TEXT, either, list_of, misfits, number, object_of, one_of, optional,
                          whole)

pytestmark = pytest.mark.quick


def test_nothing_half_written_stays_behind(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with atomic_folder(tmp_path / "a") as scratch:
            (scratch / "half").write_text("x")
            1 / 0
    assert list(tmp_path.iterdir()) == []


def test_in_a_folder_that_exists_nothing_else_changes(tmp_path):
    """Also where it is a link; what is stale goes with the files that replace it, no sooner."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("mine", "weights", "old", "kept"):
        (tmp_path / "there" / name).write_text("before")
    with atomic_folder(tmp_path / "link", stale=["old", "kept", "never"]) as scratch:
        assert scratch.parent == tmp_path / "there"
        (scratch / "weights").write_text("after")
        (scratch / "kept").write_text("after")
        (scratch / "new").write_text("after")
        assert (tmp_path / "there" / "weights").read_text() == "before"
        assert (tmp_path / "there" / "old").exists()
    assert {f.name: f.read_text() for f in (tmp_path / "link").iterdir()} == {
        "mine": "before", "weights": "after", "kept": "after", "new": "after"}
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]


def test_what_describes_the_others_goes_first_and_comes_last(tmp_path, monkeypatch):
    """An old config.json is never beside new weights, nor a new one beside old weights."""
    def write(text: str) -> None:
        with atomic_folder(tmp_path) as scratch:
            for name in ("config.json", "adapter_config.json", "weights.bin"):
                (scratch / name).write_text(text)
    write("old")
    seen, replace = [], os.replace

    def watched(source, target):
        seen.append({f.name: f.read_text() for f in tmp_path.iterdir() if f.is_file()})
        replace(source, target)
    monkeypatch.setattr(os, "replace", watched)
    write("new")
    assert seen == [{"weights.bin": "old"}, {"weights.bin": "new"},
                    {"weights.bin": "new", "adapter_config.json": "new"}]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_are_as_readable_as_the_umask_says(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        for _ in range(2):                                 # a new folder, and one that is there
            with atomic_folder(tmp_path / "a") as scratch:
                (scratch / "secret").write_text("x")
                (scratch / "secret").chmod(0o600)           # as safetensors makes them
        write_json(tmp_path / "a" / "x.json", {})
    finally:
        os.umask(before)
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "a").iterdir()} == {mode}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.skipif(os.name == "nt", reason="no such locks there")
def test_what_the_dead_left_is_cleared_and_what_the_living_write_is_not(tmp_path):
    with atomic_folder(tmp_path / "a") as living:
        code = ("import os, sys; sys.path.insert(0, sys.argv[1])\n"
                "from utils.files import atomic_folder\n"
                "with atomic_folder(sys.argv[2]) as scratch:\n"
                "    (scratch / 'half').write_text('x'); os._exit(7)")
        done = subprocess.run([sys.executable, "-c", code, str(ROOT), str(tmp_path / "b")])
        assert done.returncode == 7 and len(list(tmp_path.glob(f"{SCRATCH}*/half"))) == 1
        clear_scratch(tmp_path)
        assert list(tmp_path.iterdir()) == [living]
        assert lock_folder(living) is None
    held = lock_folder(tmp_path / "a")
    assert held and lock_folder(tmp_path / "a") is None
    unlock(held)


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match="a is a file"):
        with atomic_folder(tmp_path / "a"):
            pass


def test_metadata_has_one_order(tmp_path):
    """Whatever is in it; the tensors stay where they were."""
    about = {"z": 'quotes " and \\ and \n', "a": "日本 é 🙂 \x7f\x01", "m": "", "b": "1", "c": "2"}
    found = set()
    for i in range(8):
        path = tmp_path / f"{i}"
        save_file({"w": numpy.arange(5.0), "v": numpy.ones(3)}, path, metadata=about)
        size = path.stat().st_size
        sort_metadata(path)
        assert path.stat().st_size == size
        found.add(path.read_bytes())
    assert len(found) == 1
    with safe_open(tmp_path / "0", "np") as file:
        assert file.metadata() == about and file.get_tensor("w").tolist() == [0, 1, 2, 3, 4]


def test_only_scratch_of_our_own_is_cleared(tmp_path):
    """A folder of somebody else whose name begins alike, and one that a killed process left."""
    (tmp_path / ".text-to-lora-part-mine").mkdir()
    (tmp_path / ".part-0123456789ab").mkdir()
    (tmp_path / ".text-to-lora-part-0123456789ab").mkdir()
    with atomic_folder(tmp_path / "new") as scratch:
        (scratch / "a").write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".part-0123456789ab", ".text-to-lora-part-mine", "new"]


def test_old_weights_go_when_the_new_ones_are_there(tmp_path, monkeypatch):
    (tmp_path / "old.safetensors").write_text("old")

    def dies(*_):
        raise OSError("killed here")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed here"):
        with atomic_folder(tmp_path, stale=["old.safetensors"]) as scratch:
            (scratch / "new.safetensors").write_text("new")
            patch.setattr(os, "replace", dies)
    assert (tmp_path / "old.safetensors").read_text() == "old"


# ---------------------------------------------------------------------------- what a field may hold

KINDS = [  # kind, what fits, what does not
    (whole(1, 8), [1, 8], [0, 9, 2.0, True, None, "2", [2], 10**400, float("nan")]),
    (whole(4, 64, 4), [4, 12], [6, 2]),
    (number(0.5, 8), [0.5, 3, 8.0], [0.4, 9, float("nan"), float("inf"), -10**400, True, "1"]),
    (FLAG, [True, False], [0, 1, None, "true"]),
    (TEXT, ["", "ä"], [5, None, ["x"], "a\0", "\ud800"]),
    (one_of("a", "b"), ["a"], ["ab", "c", ["a"], {}]),
    (optional(FLAG), [None, True], [0]),
    (either(TEXT, FLAG), ["x", False], [1]),
    (list_of(TEXT), [[], ["x"], ("x",)], ["x", [1], {"x": 1}, None]),
    (list_of(whole(1, 9), 2), [[1, 2]], [[1], [1, 2, 3], [1, 0]]),
    (object_of(FLAG), [{}, {"x": True}], [{"x": 1}, {1: True}, [], "x"])]


@pytest.mark.parametrize("kind, good, bad", KINDS)
def test_what_fits_a_kind(kind, good, bad):
    assert [x for x in good if not kind.fits(x)] == [] == [x for x in bad if kind.fits(x)]


def test_what_is_said_of_a_misfit():
    table = {"size": whole(1, 2048), "name": optional(TEXT)}
    assert misfits({"size": 3, "name": None, "more": []}, table) == misfits({}, table) == ""
    assert misfits({"size": 2.0, "name": 5}, table) == (
        "size=2.0 (expected a whole number from 1 to 2,048), name=5 (expected a text, or null)")
    assert len(misfits({"name": ["x" * 500]}, table)) < 120


@pytest.mark.parametrize("field, value", [
    ("vocab_size", 2**62), ("hidden_size", 48.0), ("num_hidden_layers", 10**8),
    ("rms_norm_eps", float("nan")), ("rms_norm_eps", None), ("tie_word_embeddings", "false"),
    ("eos_token_id", ["</s>"]), ("max_position_embeddings", -1), ("_name_or_path", ["x"]),
    ("head_dim", 7), ("hidden_act", 5), ("rope_parameters", {"rope_type": {}, "rope_theta": 9.0}),
    ("rope_parameters", {"rope_type": "default", "rope_theta": -9.0})])
def test_a_decoders_config_is_checked_field_by_field(field, value, tmp_path):
    config = json.loads((GOLDEN / "llama" / "config.json").read_text()) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"config.json: found {field}.* .expected "):
        read_config(tmp_path)


@pytest.mark.parametrize("flag, value", [
    ("--seed", 2**60), ("--seed", -2**60), ("--lr", "1e33"), ("--lr", "nan"), ("--lr", "inf"),
    ("--batch-size", 10**7), ("--steps", 10**12), ("--max-tasks", 10**30)])
def test_numbers_on_the_command_line(flag, value):
    mode = "recon" if flag == "--max-tasks" else "sft"
    with pytest.raises(UserError, match=f"^{flag}=.* .expected a "):
        call("train", "--mode", mode, f"{flag}={value}")
