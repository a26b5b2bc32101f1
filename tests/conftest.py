"""What the tests share: tiny models in golden/, tiny tasks, commands run in this process.

Markers (pytest.ini): `quick` is set for a whole file by `pytestmark`, or test by test in a file
that also trains; `slow` is left out unless asked for.
"""
import importlib
import io
import json
import random
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(ROOT))

import encoder                                                                 # noqa: E402
import mistral                                                                 # noqa: E402
from data import generate                                                      # noqa: E402
from data.suite import load_suite                                              # noqa: E402
from lora import LoRA                                                          # noqa: E402
from t2l import T2L, save_t2l, t2l_config                                      # noqa: E402
from utils import download                                                     # noqa: E402
from utils.cli import UserError, run                                           # noqa: E402

FAMILIES = ["mistral", "llama", "llama3", "gemma2", "qwen2", "qwen3"]
TINY = ["--model", GOLDEN / "llama", "--encoder", GOLDEN / "bert"]


# For tiny tensors two threads gain nothing, and were some 17 times slower where they had to
# wait for each other on a machine that was busy with something else.
torch.set_num_threads(1)


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


# ------------------------------------------------------------------------------ commands

def call(module: str, *flags) -> None:
    """`python FILE.py flags` in this process, for importing torch anew each time is slow; what it
    raises is raised here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{module}.py", *map(str, flags)])
        importlib.import_module(module).main()


def train_tiny(*flags) -> None:
    """train.py with the tiny Llama and the tiny BERT, in fp32."""
    call("train", *TINY, "--dtype", "float32", *flags)


def command(module: str, *flags) -> subprocess.CompletedProcess:
    """What a person sees of `python FILE.py flags`: exit code and output."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run(lambda: call(module, *flags))
        except SystemExit as stop:
            code = stop.code
    return subprocess.CompletedProcess(flags, code, out.getvalue(), err.getvalue())


def refused(module: str, *flags) -> str:
    """The one line a command ends with when it refuses."""
    done = command(module, *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("T2L-")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


# --------------------------------------------------------------------- tasks and adapters

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
def suite():
    """The built-in suite; nothing in it can be changed."""
    return load_suite()


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The built-in suite as files, as --write puts them into a folder."""
    folder = tmp_path_factory.mktemp("written")
    generate.write(folder)
    return folder


@pytest.fixture
def library(tiny_tasks, tmp_path):
    """Oracles of the two tiny training tasks."""
    train_tiny("--mode", "lora", "--tasks", tiny_tasks, "--steps", 30, "--lr", 0.02,
               "--batch-size", 16, "--out", tmp_path / "lora")
    return tmp_path / "lora"


@pytest.fixture
def tiny_t2l(tmp_path):
    """A T2L folder for the tiny Llama and the tiny BERT."""
    model, bert = mistral.load_model(GOLDEN / "llama"), encoder.load_encoder(GOLDEN / "bert")
    save_t2l(T2L(t2l_config(model.cfg, "S", bert)), tmp_path / "ckpt", torch.float32,
             {"mode": "sft"})
    return tmp_path / "ckpt"


def random_lora(*lead: int, seed: int = 0) -> LoRA:
    """A and B of two modules with sizes of their own, (*lead, n, r, d_in), (*lead, n, d_out, r)."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    n, r = rng.randint(2, 4), rng.randint(2, 5)
    sizes = {m: (rng.randint(8, 20), rng.randint(8, 20)) for m in ("q_proj", "v_proj")}
    return ({m: torch.randn(*lead, n, r, d, generator=generator) for m, (d, _) in sizes.items()},
            {m: torch.randn(*lead, n, d, r, generator=generator) for m, (_, d) in sizes.items()})


def graph_without_gpu(function, inputs, pool):
    """What torch.cuda.make_graphed_callables gives, without a graph: fixed inputs, copied into."""
    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            for own, z in zip(inputs, given, strict=True):
                assert own.shape == z.shape and own.requires_grad == z.requires_grad
                own.data.copy_(z)
            with torch.enable_grad():
                ctx.out = function(*inputs)
            return ctx.out.detach()

        @staticmethod
        def backward(ctx, grad):
            wanted = [own for own in inputs if own.requires_grad]
            grads = iter(torch.autograd.grad(ctx.out, wanted, grad))
            return tuple(next(grads) if own.requires_grad else None for own in inputs)
    return Replay.apply


@pytest.fixture
def captured(monkeypatch) -> list[tuple]:
    """The inputs that CUDA graphs were captured with; see graph_without_gpu."""
    found = []
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda function, inputs, pool:
                        found.append(inputs) or graph_without_gpu(function, inputs, pool))
    return found
