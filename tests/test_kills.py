"""A kill between any two writes of a run: what is left can always be gone on with.

This file is also the driver: `python tests/test_kills.py` imports torch once and forks for every
command on its standard input, killing it at its nth write where it is told to. Forked off pytest
itself a child could not train, for autograd has threads.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, task_file

from utils.cli import run

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
STEPS = ["--steps", 4, "--save-every", 2, "--eval-samples", 0, "--dtype", "float32"]
FLAGS = {"sft": [], "mtlora": [], "lora": ["--batch-size", 8], "recon": ["--one-hot"]}


# ---------------------------------------------------------------------------- the driver

def kill_at(n: int) -> list[int]:
    """From now on the process dies before its nth write; returns how many there were so far."""
    seen = [0]

    def watch(event: str, given: tuple) -> None:
        writes = event == "open" and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes and str(given[0]) != os.devnull) or event in WRITES:
            seen[0] += 1
            if seen[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    return seen


def child(job: dict) -> None:
    """Run train.py with these flags; "code writes" goes into a pipe, its output into a file."""
    import train
    with open(job["said"], "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.argv, code, seen = ["train.py", *job["flags"]], 0, kill_at(job["kill_at"])
    try:
        run(train.main)
    except SystemExit as stop:
        code = stop.code or 0
    found = seen[0]
    Path(job["said"] + ".writes").write_text(str(found))
    os._exit(code)


def drive() -> None:
    import train                                             # once, for all children  # noqa: F401
    for line in sys.stdin:
        if not (pid := os.fork()):
            child(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


# ----------------------------------------------------------------------------- the tests

@pytest.fixture(scope="module")
def driver():
    started = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env=os.environ | {
                                   "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"})
    yield started
    started.kill()
    started.wait()


class World:
    """Tiny tasks, a library, and train.py run in a process of its own."""

    def __init__(self, root: Path, driver: subprocess.Popen):
        self.root, self.driver = root, driver
        (root / "tasks").mkdir()
        for name in ("alpha", "beta", "gamma"):
            task_file(root / "tasks", name)
        (root / "splits.json").write_text('{"unseen": ["gamma"]}')

    def train(self, mode: str, out: Path, *flags, kill_at: int = 0) -> int:
        """The exit code; -9 where it was killed."""
        given = ["--mode", mode, *TINY, "--tasks", self.root / "tasks", "--batch-size", 4, *STEPS,
                 *FLAGS[mode], *(["--loras", self.root / "loras"] if mode == "recon" else []),
                 "--out", out, *flags]
        job = {"flags": [str(f) for f in given], "kill_at": kill_at,
               "said": str(self.root / "said")}
        print(json.dumps(job), file=self.driver.stdin, flush=True)
        return int(self.driver.stdout.readline())

    def writes(self) -> int:
        return int((self.root / "said.writes").read_text())

    def said(self) -> str:
        return (self.root / "said").read_text()


@pytest.fixture
def world(tmp_path, driver):
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    return World(tmp_path, driver)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, but for the command line in config.json."""
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    config = json.loads(found.get("config.json", "{}"))
    config.pop("command", None)
    found["config.json"] = json.dumps(config).encode()
    return found


def unharmed(folder: Path, before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """Whether weights and config belong together, or one of them is not there to be loaded."""
    found = contents(folder)
    config = json.loads(found["config.json"])
    return not config.get("finished") or any(
        all(found.get(name) == whole[name] for name in whole if not name.endswith("log.jsonl"))
        for whole in (before, after) if whole)


def check_kills(world: World, mode: str, over: bool, last: int | None = None) -> None:
    """Killed at every write (or the `last` ones), then resumed or begun again: the same folder as
    an unharmed run's. `over`: it begins over a finished run of another seed."""
    if mode == "recon":
        assert world.train("lora", world.root / "loras") == 0
    start, whole = world.root / "start", world.root / "whole"
    if over:
        assert world.train(mode, start, "--seed", 1) == 0, world.said()
        (start / "results.json").write_text("{}")
        shutil.copytree(start, whole)
    assert world.train(mode, whole) == 0, world.said()
    n, right = world.writes(), contents(whole)
    before = contents(start) if over else {}
    assert n > 20 and "results.json" not in right

    for i in range(1 if last is None else n - last, n + 1):
        out = world.root / f"{i}"
        if over:
            shutil.copytree(start, out)
        assert world.train(mode, out, kill_at=i) == -signal.SIGKILL
        assert unharmed(out, before, right), f"mixed after a kill at write {i} of {n}"
        code = world.train(mode, out, "--resume")
        if code == 2 or contents(out) == before:            # nothing to resume, or the earlier run
            code = world.train(mode, out)
        assert code == 0, f"after a kill at write {i} of {n}: {world.said()}"
        assert contents(out) == right, f"other files after a kill at write {i} of {n}"
        shutil.rmtree(out)


def test_killed_at_its_end_a_run_can_be_finished(world):
    check_kills(world, "mtlora", over=True, last=8)


@pytest.mark.slow
@pytest.mark.parametrize("mode, over", [("sft", False), ("sft", True), ("mtlora", False),
                                        ("mtlora", True), ("recon", False), ("recon", True),
                                        ("lora", False)])
def test_killed_at_any_write_a_run_can_be_finished(mode, over, world):
    check_kills(world, mode, over)


if __name__ == "__main__":
    drive()
