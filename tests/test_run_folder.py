"""A run's folder: what is overwritten, what can be resumed, what is refused, what a signal says."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, TINY, command, refused, train_tiny

import train
from utils.cli import UserError
from utils.files import lock_folder, unlock
from utils.run_folder import check_seeds


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


def test_a_run_that_takes_anothers_place_says_so(tiny_tasks, tmp_path, capsys):
    flags = ["--mode", "mtlora", "--tasks", tiny_tasks, "--steps", 2, "--eval-samples", 0,
             "--out", tmp_path / "run"]
    train_tiny(*flags)
    (tmp_path / "run" / "log.svg").write_text("of the first")
    assert "takes its place" not in capsys.readouterr().err
    train_tiny(*flags)
    assert capsys.readouterr().err.count("this one takes its place") == 1
    assert not (tmp_path / "run" / "log.svg").exists()


def test_a_run_is_not_written_among_its_tasks(tiny_tasks):
    with pytest.raises(UserError, match="the folder that this run would write into"):
        train_tiny("--mode", "mtlora", "--tasks", tiny_tasks, "--out", tiny_tasks)
    assert not (tiny_tasks / "config.json").exists()


def test_a_run_does_not_delete_what_it_starts_from(library, tiny_tasks, tmp_path):
    flags = ["--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--steps", 2,
             "--eval-samples", 0, "--out", tmp_path / "recon"]
    train_tiny(*flags)
    with pytest.raises(UserError, match="the folder that this run writes"):
        train_tiny(*flags, "--init", tmp_path / "recon")
    assert (tmp_path / "recon" / "t2l.safetensors").exists()


# --------------------------------------------------------------- nothing is lost or mixed

@pytest.fixture
def flags(tiny_tasks, tmp_path):
    """A short run of train.py into tmp_path/run."""
    return ["--mode", "mtlora", *TINY, "--dtype", "float32", "--tasks", tiny_tasks, "--steps", 6,
            "--batch-size", 2, "--save-every", 2, "--eval-samples", 0, "--out", tmp_path / "run"]


@pytest.fixture
def unfinished(flags, tmp_path, monkeypatch):
    """That run, cut off after it saved its state at step 4."""
    save_state = train.save_state

    def save_and_die(out, lora_source, optimizer, step, args):
        save_state(out, lora_source, optimizer, step, args)
        if step == 4:
            raise SystemExit("dies")
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_state", save_and_die)
        command("train", *flags)
    return tmp_path / "run"


def stops(module: str, *flags) -> str:
    """The one line with which a command that had begun to work ends."""
    done = command(module, *flags)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stderr
    assert (last := done.stderr.splitlines()[-1]).startswith("error: "), done.stderr
    return last


def files_of(folder) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}


def test_a_finished_run_stays_whole_until_the_next_one_is(flags, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert command("train", *flags).returncode == 0
    (out / "results.json").write_text("{}")
    before = files_of(out)

    def die(*_):
        raise SystemExit("dies")
    with monkeypatch.context() as patch:                   # at the last step, with no state
        patch.setattr(train.LoRATable, "save", die)
        command("train", *flags, "--seed", 1, "--save-every", 0)
    assert before.items() <= files_of(out).items()
    assert set(files_of(out)) - set(before) == {"log_new.jsonl"}

    done = command("train", *flags, "--seed", 1)
    assert done.returncode == 0, done.stderr
    after = files_of(out)
    assert set(after) == set(before) - {"results.json"}     # they were of the earlier weights
    assert all(after[name] != before[name] for name in ("log.jsonl", "adapter_model.safetensors"))


@pytest.mark.parametrize("mode, name", [("sft", "config.json"), ("mtlora", "adapter_config.json"),
                                        ("sft", "log.jsonl"), ("sft", "results.json"),
                                        ("sft", "t2l.safetensors"),
                                        ("lora", "alpha/adapter_config.json")])
def test_what_no_run_wrote_is_not_overwritten(mode, name, flags, tmp_path):
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"hidden_size": 64}\n')
    if name == "config.json":                               # even beside a log like ours
        (file.parent / "log.jsonl").write_text('{"step": 0, "grad_norm": 1}\n')
    said = refused("train", *flags, "--mode", mode, "--batch-size", 8)
    assert "no run wrote it" in said and file.read_text() == '{"hidden_size": 64}\n'
    assert [str(f.relative_to(tmp_path / "run")) for f in (tmp_path / "run").rglob("*")
            if f.is_file() and f.name != "log.jsonl"] == [name] * (name != "log.jsonl")


@pytest.mark.skipif(os.name == "nt", reason="no such locks there")
@pytest.mark.parametrize("extra", [[], ["--resume"]])
def test_a_second_run_in_a_folder_is_refused(extra, flags, unfinished):
    held = lock_folder(unfinished)                          # as another process would
    assert "another process trains into" in refused("train", *flags, *extra)
    unlock(held)
    assert command("train", *flags, "--resume").returncode == 0
    unlock(held := lock_folder(unfinished))                 # nobody has it any more
    assert held


@pytest.mark.parametrize("change, said", [
    (lambda state: state | {"settings": state["settings"] | {"seed": 5}}, "says seed = 5"),
    (lambda state: state | {"settings": state["settings"] | {"lr": 1e-9}}, "says lr = 1e-09"),
    (lambda state: {k: v for k, v in state.items() if k != "settings"}, "not a whole state"),
    (lambda state: [state], "not a whole state"), (lambda state: "a text", "not a whole state"),
    (lambda state: state | {"step": 7}, "not a whole state"),
    (lambda state: state | {"lora_source": {}}, "not a whole state"),
    (lambda state: state | {"optimizer": {"state": {}, "param_groups": [{}]}}, "not a whole"),
    (lambda state: state | {"optimizer": state["optimizer"] | {"state": {0: {
        name: torch.zeros(3) for name in ("step", "exp_avg", "exp_avg_sq")}}}}, "moments of")])
def test_a_state_of_something_else_is_refused(change, said, flags, unfinished):
    path = unfinished / "train_state.pt"
    torch.save(change(torch.load(path, weights_only=True)), path)
    before = files_of(unfinished)
    assert said in stops("train", *flags, "--resume")
    assert files_of(unfinished) == before


@pytest.mark.parametrize("keep", [0, 1, 30, -1])
def test_a_state_that_is_cut_off_is_refused(keep, flags, unfinished):
    path = unfinished / "train_state.pt"
    path.write_bytes(path.read_bytes()[:keep])
    assert "begin anew without --resume" in refused("train", *flags, "--resume")


@pytest.mark.parametrize("log, kept", [("", 0), ("{\n[1]\nnull\n7\n", 0), (None, 0),
                                       ('{"step": 0, "grad_norm": 1}\n{"step": 1, "gra', 1)])
def test_a_log_that_is_shorter_than_the_state(log, kept, flags, unfinished):
    (unfinished / "log.jsonl").unlink()
    if log is not None:
        (unfinished / "log.jsonl").write_text(log)
    done = command("train", *flags, "--resume")
    assert done.returncode == 0 and f"has {kept} of the 4 steps" in done.stderr
    steps = [json.loads(row)["step"]
             for row in (unfinished / "log.jsonl").read_text().splitlines()]
    assert steps == [*range(kept), 4, 5]


def test_a_longer_run_names_the_way(flags, unfinished):
    said = refused("train", *flags, "--resume", "--steps", 9)
    assert "steps = 6" in said and "--init" in said
    assert command("train", *flags, "--resume").returncode == 0
    assert "--init" in refused("train", *flags, "--resume", "--steps", 9)


def test_finished_it_says_but_there_are_no_weights(flags, tmp_path):
    assert command("train", *flags).returncode == 0
    (tmp_path / "run" / "adapter_model.safetensors").unlink()
    assert "leave out --resume" in refused("train", *flags, "--resume")
    assert command("train", *flags).returncode == 0
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("every, way", [(1, "train_state.pt"), (0, "")])
def test_after_a_divergence_the_way_out_is_true(every, way, flags, tmp_path):
    bad = [*flags, "--mode", "sft", "--save-every", every]
    said = stops("train", *bad, "--lr", 1e30)
    assert "smaller --lr" in said and ("delete " + str(tmp_path / "run" / way) in said) == bool(way)
    if way:
        (tmp_path / "run" / way).unlink()
    assert command("train", *bad, "--lr", 1e-3).returncode == 0


def test_weights_that_the_last_step_made_infinite_are_not_saved(flags, tmp_path, monkeypatch):
    def train_to_infinity(setup, args, log_file):
        next(setup.lora_source.parameters()).data[0, 0, 0] = torch.inf
        return 1
    monkeypatch.setattr(train, "train", train_to_infinity)
    said = stops("train", *flags)
    assert "not finite" in said and "smaller --lr" in said
    assert not (tmp_path / "run" / "adapter_model.safetensors").exists()


# ------------------------------------------------------------------------------- signals

def stopped(flags, number: int, ready) -> subprocess.CompletedProcess:
    """train.py in a process of its own, sent a signal when ready(); it does not inherit that the
    signal is ignored, as nohup and shells in the background have it."""
    run = subprocess.Popen([sys.executable, ROOT / "train.py", *map(str, flags)], text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {
                               "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
                           preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    end = time.monotonic() + 100
    while run.poll() is None and not ready() and time.monotonic() < end:
        time.sleep(0.02)
    run.send_signal(number)
    out, err = run.communicate(timeout=100)
    return subprocess.CompletedProcess(flags, run.returncode, out, err)


@pytest.mark.skipif(os.name == "nt", reason="other signals there")
@pytest.mark.parametrize("every, number", [
    (100_000, "SIGTERM"), pytest.param(100_000, "SIGHUP", marks=pytest.mark.slow),
    pytest.param(0, "SIGINT", marks=pytest.mark.slow)])
def test_a_signal_saves_the_state_and_says_how_to_go_on(every, number, flags, tmp_path):
    """Before the first state was due; and where none is kept, it says so."""
    out = tmp_path / "run"
    done = stopped([*flags, "--steps", 50_000, "--save-every", every], getattr(signal, number),
                   lambda: (out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert last.startswith("interrupted: ") and (out / "train_state.pt").exists() == bool(every)
    if every:
        step = torch.load(out / "train_state.pt", weights_only=True)["step"]
        assert f"after step {step} of 50000" in last and "--resume" in last
        assert step == len((out / "log.jsonl").read_text().splitlines())
    else:
        assert "no state of this run is saved" in last and "--resume" not in last


def test_interrupted_during_the_table(flags, tmp_path, monkeypatch):
    """The weights are there; the command that it names, and --resume, give the table."""
    out, report = tmp_path / "run", train.report

    def stop(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(train, "report", stop)
    done = command("train", *flags, "--eval-samples", 1)
    assert done.returncode == 130 and "the weights are in" in done.stderr
    words = done.stderr.split("for the table: python eval.py ")[1].split()
    assert words[0] == "--ckpt" and not (out / "results.json").exists()
    assert words[words.index("--eval-samples") + 1] == "1"
    assert " ".join(words) in command("train", *flags, "--eval-samples", 1, "--resume").stdout
    monkeypatch.setattr(train, "report", report)
    assert command("eval", *words).returncode == 0
    assert (out / "results.json").exists()
    assert "table" not in command("train", *flags, "--resume").stdout


def test_interrupted_oracles(tiny_tasks, tmp_path, monkeypatch):
    flags = ["--mode", "lora", *TINY, "--tasks", tiny_tasks, "--steps", 2,
             "--out", tmp_path / "lora", "--batch-size", train.SAMPLES_PER_TASK]    # one by one
    save_peft = train.save_peft

    def save_and_stop(*given, **about):
        save_peft(*given, **about)
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_peft", save_and_stop)
        done = command("train", *flags)
    assert "holds 1 finished oracles" in done.stderr and "--resume" in done.stderr
    first = next(tmp_path.glob("lora/*/adapter_model.safetensors"))
    before = first.stat().st_mtime_ns
    assert "1 oracles in" in command("train", *flags, "--resume").stdout
    assert first.stat().st_mtime_ns == before


def test_a_full_disk_keeps_the_last_state(flags, unfinished, monkeypatch):
    before = (unfinished / "train_state.pt").read_bytes()
    other = shutil.copytree(unfinished, unfinished.parent / "other")

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        said = stops("train", *flags, "--resume", "--out", other)
    assert "is the disk full?" in said and (other / "train_state.pt").read_bytes() == before
    assert command("train", *flags, "--resume", "--out", other).returncode == 0


def test_oracles_do_not_begin_in_another_modes_folder(flags, tmp_path):
    assert command("train", *flags).returncode == 0
    before = files_of(tmp_path / "run")
    said = refused("train", *flags, "--mode", "lora", "--batch-size", 8)
    assert "holds a run of --mode mtlora" in said and files_of(tmp_path / "run") == before


def test_the_tables_command_is_that_of_the_run(flags, tmp_path, capsys):
    assert command("train", *flags).returncode == 0
    done = command("train", *flags, "--resume")
    assert "--dtype float32" in done.stdout and "--device cpu" in done.stdout


SEED_RUN = {"mode": "sft", "arch": "bank", "lr": 0.001, "describe": "lora", "dtype": "bfloat16",
            "tasks": ["x"], "finished": True}


@pytest.mark.parametrize("others, said", [
    ([{"seed": 1}, {"seed": 2, "lr": 0.01}], r"a has lr = 0.001, \S+/c 0.01"),
    ([{"seed": 1, "steps": 5}], r"a has steps = None, \S+/b 5"),
    ([{"seed": 1, "dtype": "float32"}], "dtype = 'bfloat16'"),
    ([{"seed": 1}, {"seed": 0}], r"\S+/a and \S+/c have the same seed, 0"),
    ([{"seed": None}], "b/config.json says no seed"),
    ([], r"there is one: \S+/a \(T2L\)$"),
    ([{"seed": 1, "mode": "mtlora"}], r"/a \(T2L\); \S+/b \(multi-task LoRA, --describe lora\)$"),
    ([{"seed": 1, "mode": "mtlora"}, {"seed": 1, "mode": "mtlora", "describe": "prompt"}],
     r"/b \(multi-task LoRA, --describe lora\); \S+/c \(multi-task LoRA, --describe prompt\)$"),
    ([{"seed": 1, "mode": "mtlora"}, {"seed": 2, "mode": "mtlora", "rank": 4}],
     r"b has rank = 8, \S+/c 4"),
])
def test_seeds_of_runs_with_other_settings_are_refused_before_anything_runs(
        others, said, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.load_model", None)
    for name, change in zip("abc", [{"seed": 0}, *others]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(SEED_RUN | change))
        if change.get("mode") == "mtlora":
            (tmp_path / name / "adapter_model.safetensors").touch()
    folders = [tmp_path / name for name in "abc"[:1 + len(others)]]
    assert re.search(said, refused("eval", "--seeds", "--ckpt", *folders))


def test_seeds_may_differ_in_what_names_no_setting(tmp_path):
    """The command, and what an older run did not record."""
    for name, change in (("a", {"seed": 0, "command": "x", "tasks": "x"}),
                         ("b", {"seed": 1, "command": "y", "rank": 8, "alpha": 16.0})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(SEED_RUN | change))
    check_seeds([tmp_path / "a", tmp_path / "b"])


def test_a_checkpoint_that_is_alone_of_its_kind_needs_no_seed(tmp_path):
    """The authors' has no config.json; but among other T2Ls it has other settings."""
    runs = {"a": {"seed": 0}, "b": {"seed": 1}, "c": {"mode": "mtlora"}, "d": {"mode": "mtlora"},
            "authors": None}
    for name, change in runs.items():
        (tmp_path / name).mkdir()
        if change is None:
            (tmp_path / name / "hypermod.pt").touch()
            continue
        (tmp_path / name / "config.json").write_text(json.dumps(SEED_RUN | change))
        if "mode" in change:
            (tmp_path / name / "adapter_model.safetensors").touch()
    a, b, c, d, authors = (tmp_path / name for name in runs)
    check_seeds([a, c, b])
    for folder, seed in ((c, 0), (d, 1)):
        (folder / "config.json").write_text(json.dumps(SEED_RUN | runs["c"] | {"seed": seed}))
    check_seeds([authors, c, d])
    with pytest.raises(UserError, match="a has mode = 'sft', .*authors None"):
        check_seeds([a, b, authors])
