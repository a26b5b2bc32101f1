"""Many reconstruction runs as a table and as a picture."""
from dataclasses import replace

import pytest

from experiments import plots


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    run = plots.Run("L", 8, 2 ** 20, 2 ** 24, 1.0, 90.0, 5.0, 80.0, 70.0, 2.0, 0.2, 0.9)
    plots.figure([run, replace(run, loras=16, library_bytes=2 ** 21)], tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes()[:4] == b"\x89PNG"
