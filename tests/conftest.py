"""Shared fixtures: tiny models in golden/, a tiny suite of tasks, the default model if there."""
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(ROOT))

from data import download, generate                                            # noqa: E402
from data.files import UserError                                               # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def default_models():
    """The folders of the default model and encoder; fetched once, skipped without network."""
    try:
        return download.default_model(), download.default_encoder()
    except UserError as error:
        pytest.skip(f"the default models are neither cached nor to be fetched: {error}")


def task_file(folder: Path, name: str, **changes) -> Path:
    """A well-formed task file (answers repeat or mark the input), with `changes`."""
    rows = [{"input": f"{name} {i}", "output": [f"{name[0]}{i}"]} for i in range(20)]
    task = {"Definition": [f"Do what {name} says."], "Instances": rows,
            "Descriptions": [f"Wording {i} of {name}." for i in range(10)],
            "Split": {"train": 15, "test": 5}, "Description Split": {"train": 6, "test": 4}}
    task = {k: v for k, v in (task | changes).items() if v is not None}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(task))
    return path


@pytest.fixture
def tiny_tasks(tmp_path):
    """A folder with three tiny tasks; splits.json beside it keeps one of them unseen."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("alpha", "beta", "gamma"):
        task_file(folder, name)
    (tmp_path / "splits.json").write_text('{"unseen": ["gamma"]}')
    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The built-in suite as files, as --write puts them into a folder."""
    folder = tmp_path_factory.mktemp("written")
    generate.write(folder)
    return folder
