"""A run's losses as a picture; many reconstruction runs as a table and as a picture."""
import json
from dataclasses import replace

import pytest
from conftest import command, refused

from experiments import plots


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    run = plots.Run("L", 8, 2 ** 20, 2 ** 24, 1.0, 90.0, 5.0, 80.0, 70.0, 2.0, 0.2, 0.9)
    plots.figure([run, replace(run, loras=16, library_bytes=2 ** 21)], tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("mode, validation", [("sft", True), ("mtlora", False)])
def test_a_runs_losses_are_drawn_beside_its_log(mode, validation, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "config.json").write_text(json.dumps({"mode": mode}))
    rows = [{"step": i, "loss": 5 - i / 10, "lr": 0.1, "grad_norm": 1.0} for i in range(30)]
    if validation:
        rows[24]["validation_loss"] = 2.5
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command("experiments.plots", tmp_path)
    assert done.stdout == f"{tmp_path}/log.svg written\n" and done.stderr == ""
    svg = (tmp_path / "log.svg").read_text()
    assert "<!-- training, each step -->" in svg
    assert ("<!-- validation -->" in svg) == validation


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert "config.json does not exist" in refused("experiments.plots", tmp_path)
    (tmp_path / "config.json").write_text('{"mode": "sft"}')
    assert "no step of a run" in refused("experiments.plots", tmp_path)
