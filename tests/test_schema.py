"""What a field may hold: kinds, ranges, and what is said of a field that is none of them."""
import json

import pytest

from mistral import read_config
from conftest import GOLDEN, call
from utils.cli import UserError
from utils.schema import (FLAG, TEXT, either, list_of, misfits, number, object_of, one_of,
                          optional, whole)

pytestmark = pytest.mark.quick

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
