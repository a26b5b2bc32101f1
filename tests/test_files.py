"""No file is ever half-written."""
import pytest

from utils.files import atomic_folder


pytestmark = pytest.mark.quick


def test_nothing_half_written_stays_behind(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with atomic_folder(tmp_path / "a") as scratch:
            (scratch / "half").write_text("x")
            1 / 0
    assert list(tmp_path.iterdir()) == []
