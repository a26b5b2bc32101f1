"""A person's mistakes: one line that says what was found and what was expected, exit code 2. Text
from files, the command line and to the console: any bytes end in text or in one line.
"""
import io
import json
import os
import subprocess
import sys
import unicodedata
from argparse import Namespace

import pytest
import torch
from conftest import ROOT, command, refused, task_file, train_tiny

from data.suite import load_suite
from train import SAMPLES_PER_TASK
from utils import cli
from utils.cli import Parser, UserError, note_other_load, run, task_name, typed_text
from utils.files import listed, read_json, read_text, write_json


WORD = "naïve Žluťoučký 日本"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_with_and_without_a_byte_order_mark(encoding, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": WORD}, ensure_ascii=False), encoding=encoding)
    assert read_json(tmp_path / "a.json") == {"a": WORD}
    assert read_text(tmp_path / "a.json").startswith("{")


@pytest.mark.parametrize("encoding, guess", [
    ("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-32", "UTF-16"),
    ("cp1252", "cp1252"), ("latin-1", "cp1252"), ("mac-roman", "cp1252")])
def test_another_encoding_is_named_and_utf_8_is_asked_for(encoding, guess, tmp_path):
    (tmp_path / "a.json").write_bytes('{"a": "naïve"}'.encode(encoding))
    for read in (read_json, read_text):
        with pytest.raises(UserError, match=rf"a.json is not .*UTF-8; .*{guess}.*as UTF-8") as said:
            read(tmp_path / "a.json")
        assert "codec" not in str(said.value)


@pytest.mark.parametrize("text, whole", [
    (r'"x \ud83d y"', "x \ufffd y"), (r'"\uDE00\uD83D"', "\ufffd\ufffd"),
    (r'["a", {"\udfff": [{"b": "\ud800"}]}]', ["a", {"\ufffd": [{"b": "\ufffd"}]}])])
def test_half_a_surrogate_pair_is_replaced_wherever_it_stands(text, whole, tmp_path):
    (tmp_path / "a.json").write_text(f'{{"a": {text}, "n": 1e400}}')
    with pytest.warns(UserWarning, match="a.json has half a surrogate pair"):
        found = read_json(tmp_path / "a.json")
    assert found == {"a": whole, "n": float("inf")}


def test_whole_pairs_and_written_backslashes_stay(tmp_path, recwarn):
    (tmp_path / "a.json").write_text(r'{"a": "\ud83d\ude00", "b": "\\ud83d"}')
    assert read_json(tmp_path / "a.json") == {"a": "😀", "b": r"\ud83d"} and not list(recwarn)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, '{"a": ' + "9" * 5000 + "}",
                                  '{"a": 1', "", "nul", "[]"])
def test_no_json_breaks_the_reader(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="a.json") as said:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(said.value)


def test_a_path_that_is_no_utf_8_is_written_as_json(tmp_path):
    write_json(tmp_path / "a.json", {"path": "caf\udce9", "word": WORD})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"path": "caf\udce9",
                                                                            "word": WORD}


def test_side_files_are_passed_over(tmp_path):
    for name in ("b.json", "a.json", "._a.json", ".a.json", "~$a.json", "~a.json", "a.json~"):
        (tmp_path / name).write_bytes(b"\0\xff")
    (tmp_path / "folder.json").mkdir()
    assert [path.name for path in listed(tmp_path, "*.json")] == ["a.json", "b.json"]


@pytest.mark.parametrize("stored, named", [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_match_however_their_accents_are_stored(stored, named, tmp_path):
    (tmp_path / "tasks").mkdir()
    name = "café_ångström"
    for each in ("alpha", unicodedata.normalize(stored, name)):
        task_file(tmp_path / "tasks", each)
    splits = {"unseen": [unicodedata.normalize(named, name)]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    assert [task.name for task in load_suite(tmp_path).unseen] == [name]
    assert task_name(unicodedata.normalize(named, name)) == name
    task_file(tmp_path / "tasks", unicodedata.normalize(named, name))
    with pytest.raises(UserError, match="two files named café"):
        load_suite(tmp_path)


@pytest.mark.parametrize("given, text", [
    (os.fsdecode(b"caf\xe9 \x80"), "café €"), (os.fsdecode("日本".encode()), "日本"),
    ("x \ud83d y", "x \ufffd y"), (WORD, WORD)])
def test_a_text_typed_in_any_bytes(given, text):
    assert typed_text(given) == text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_the_output_cannot_show_is_replaced(encoding, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr("sys.stdout", out)
    run(lambda: print(f"wrote 日本/{os.fsdecode(b'caf' + bytes([0xe9]))}"))
    out.flush()
    said = out.buffer.getvalue().decode(encoding)
    assert said.startswith("wrote ") and said.endswith("/caf\\udce9\n")
    assert ("日本" in said) == (encoding == "utf-8")


def test_an_error_about_a_folder_with_foreign_letters_is_one_line():
    done = subprocess.run([sys.executable, ROOT / "train.py", "--mode", "mtlora", "--tasks",
                           "日本".encode() + b"\xe9"], capture_output=True,
                          env=os.environ | {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    *notes, last = done.stderr.splitlines()            # a note where other processes are busy
    assert last.startswith(b"error: ") and len(notes) <= 1, done.stderr


# ----------------------------------------------------------------------------------------- mistakes

@pytest.mark.quick
def test_a_real_command_line_ends_in_one_line_and_code_2():
    done = subprocess.run([sys.executable, ROOT / "train.py", "--mode", "nonsense"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: argument --mode") and done.stderr.count("\n") == 1


@pytest.mark.quick
def test_unknown_arch_and_flags_that_contradict():
    assert "--arch" in refused("train", "--mode", "sft", "--arch", "X")
    assert "--describe" in refused("train", "--mode", "mtlora", "--describe", "both")
    assert "--steps" in refused("train", "--mode", "sft", "--steps", "0")


@pytest.mark.quick
@pytest.mark.parametrize("module, flags, new", [
    ("train", ["--mode", "sft", "--recompute"], "--activation-checkpointing"),
    ("eval", ["--loras", "out/lora"], "python -m experiments.compare --loras DIR"),
    ("eval", ["--benchmarks", "DIR"], "python -m experiments.benchmarks --benchmarks"),
    ("eval", ["--run-code"], "python -m experiments.benchmarks --run-code"),
    ("eval", ["--likelihood"], "python -m experiments.benchmarks --likelihood"),
    ("eval", ["--prompts", "p.json"], "python -m experiments.benchmarks --prompts")])
def test_an_old_flag_names_the_new_one(module, flags, new):
    flag = next(f for f in reversed(flags) if f.startswith("--"))
    assert refused(module, *flags) == f"error: {flag} has a new name: {new}"


@pytest.mark.quick
@pytest.mark.parametrize("module", ["train", "eval", "t2l", "utils.download", "data.generate",
                                    *(f"experiments.{name}" for name in (
                                        "compare", "benchmarks", "speed", "cost", "plots",
                                        "distance", "baselines", "leaks", "readers",
                                        "wordings", "codes", "mixing"))])
def test_help_is_there_and_shows_no_old_flag(module):
    done = command(module, "--help")
    assert done.returncode == 0 and done.stderr == "" and "usage: " in done.stdout
    assert "--recompute" not in done.stdout
    if module == "eval":
        assert not any(flag in done.stdout for flag in ("--loras", "--benchmarks", "--run-code"))


@pytest.mark.quick
@pytest.mark.parametrize("module, wrong, meant", [
    ("train", "--batch_size", "--batch-size"), ("train", "--learning_rate", "--lr"),
    ("train", "--learning-rate=1e-3", "--lr"), ("train", "--out_dir", "--out"),
    ("train", "--num_steps", "--steps"), ("train", "--epochs", "--steps"),
    ("train", "--lora_r", "--rank"), ("train", "--sede", "--seed"),
    ("train", "--save-evry", "--save-every"), ("eval", "--checkpoint", "--ckpt"),
    ("eval", "--eval_samples", "--eval-samples"), ("t2l", "--prompts", "--prompt"),
    ("t2l", "--output_dir", "--out"), ("experiments.compare", "--lora_dir", "--loras"),
    ("experiments.plots", "--figur_e", "--figure"), ("utils.download", "--model_name", "--model")])
def test_a_wrong_flag_names_the_right_one(module, wrong, meant):
    said = refused(module, wrong, 8)
    assert said.startswith(f"error: there is no flag {wrong.split('=')[0]}; did you mean {meant}?")
    assert ("not epochs" in said) == ("epoch" in wrong)


@pytest.mark.quick
def test_a_flag_like_no_other_and_beginnings_of_flags():
    assert refused("train", "--frobnicate") == \
        "error: there is no flag --frobnicate; see --help"
    assert "did you mean" not in refused("train", "--mo", "sft", "--st", 0)     # --mode, --steps
    assert "--benchmarks" in refused("eval", "--benchmarks", "x").split("name:")[1]


@pytest.mark.quick
def test_other_load_gets_a_word(monkeypatch, capsys):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    for load, threads, word in ((3.0, 4, "try --threads 1"), (1.2, 4, "try --threads 3"),
                                (0.3, 4, ""), (9.0, 1, ""), (2.0, 2, "")):
        monkeypatch.setattr(cli, "other_load", lambda load=load: load)
        note_other_load(threads)
        said = capsys.readouterr().err
        assert word in said and said.count("\n") == bool(word)


@pytest.mark.quick
def test_a_load_that_is_over_is_none(monkeypatch):
    if not os.path.exists("/proc/loadavg"):
        pytest.skip("only Linux tells what runs now")
    monkeypatch.setattr(cli.Path, "read_text", lambda path: "9.00 9.00 9.00 1/90 4711\n")
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    assert cli.other_load() == 0
    monkeypatch.setattr(cli.Path, "read_text", lambda path: "9.00 9.00 9.00 4/90 4711\n")
    assert cli.other_load() == 3


@pytest.mark.quick
def test_threads(tiny_tasks, tmp_path):
    before = torch.get_num_threads()
    try:
        assert "--threads 0" in refused("train", "--mode", "mtlora", "--threads", 0)
        train_tiny("--mode", "mtlora", "--tasks", tiny_tasks, "--steps", 1, "--eval-samples", 0,
                   "--threads", 3, "--out", tmp_path / "run")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.quick
@pytest.mark.parametrize("flag, value", [("--rank", 0), ("--rank", 5000), ("--alpha", 0),
                                         ("--alpha", "inf"), ("--steps", 0), ("--lr", 0),
                                         ("--lr", -1), ("--lr", "nan"),
                                         ("--save-every", -1), ("--eval-samples", -1)])
def test_numbers_that_make_no_sense(flag, value):
    assert flag in refused("train", "--mode", "mtlora", flag, value)


@pytest.mark.quick
@pytest.mark.parametrize("device, said", [
    ("cuda:7", "--device cuda:7: PyTorch finds no CUDA device"), ("mps", "finds no Apple GPU"),
    ("tpu", "expected cpu, cuda, cuda:N or mps, found 'tpu'"), ("cuda:x", "found 'cuda:x'")])
def test_devices_that_are_not_there(device, said, monkeypatch):
    """In recon, too, which loads no language model."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for module, flags in (("train", ["--mode", "recon", "--loras", "x"]), ("eval", [])):
        assert said in refused(module, *flags, "--device", device)


@pytest.mark.quick
def test_devices_that_are_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    parser = Parser("Try it.")
    parser.models("x")
    for device in ("cpu", "cuda", "cuda:1", "mps"):
        assert parser.parse_args(["--device", device]).device == device
        assert ("never tried" in capsys.readouterr().err) == (device == "mps")
    with pytest.raises(UserError, match="there are 2 CUDA devices, and the first is cuda:0"):
        parser.parse_args(["--device", "cuda:2"])


@pytest.mark.quick
def test_float16_is_not_for_training():
    assert "use bfloat16" in refused("train", "--mode", "sft", "--dtype", "float16")


@pytest.mark.quick
@pytest.mark.parametrize("flags, said", [
    (["--mode", "lora", "--batch-size", str(SAMPLES_PER_TASK + 1)],
     f"no multiple of {SAMPLES_PER_TASK}"),
    (["--mode", "sft", "--one-hot"], "no use for --one-hot"),
    (["--mode", "recon", "--loras", "x", "--compile"], "no use for --compile"),
    (["--mode", "sft", "--cuda-graphs"], "--cuda-graphs is for --device cuda"),
    (["--mode", "lora", "--max-tasks", "0"], "--max-tasks and --lr must be positive"),
    (["--mode", "mtlora", "--init", "x"], "no use for --init"),
    (["--mode", "recon", "--loras", "x", "--describe", "both"], "leave out --describe")])
def test_flags_that_a_mode_would_ignore(flags, said):
    with pytest.raises(UserError, match=said):
        train_tiny(*flags)


@pytest.mark.quick
def test_a_reader_that_leaves_does_not_stop_a_command():
    """… | head -1: what is printed goes nowhere, without a word, and the command runs on."""
    code = ("import sys; sys.path.insert(0, sys.argv[1])\nfrom utils.cli import run\n"
            "def main():\n    for i in range(20_000): print(i, flush=not i % 100)\n"
            "    print('done', file=sys.stderr)\nrun(main)")
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-c", code, str(ROOT)], stdout=write,
                              stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "done\n")


@pytest.mark.quick
def test_a_message_of_several_lines_is_one_line(capsys):
    def main():
        raise UserError("first\n  second\nthird")
    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err == "error: first second third\n"


@pytest.mark.quick
@pytest.mark.parametrize("changes, wanted", [
    ({}, True), ({"steps": 999}, False), ({"mode": "lora"}, False), ({"device": "cuda"}, False),
    ({"shard": True}, False), ({"activation_checkpointing": True}, False)])
def test_only_long_runs_on_a_cpu_are_compiled_unasked(changes, wanted, monkeypatch):
    args = Namespace(**{"steps": 1000, "mode": "sft", "device": "cpu", "shard": False,
                        "activation_checkpointing": False} | changes)
    monkeypatch.setattr(cli.shutil, "which", lambda name: "/usr/bin/" + name)
    assert cli.worth_compiling(args) is wanted
    monkeypatch.setattr(cli.shutil, "which", lambda name: None)
    assert not cli.worth_compiling(args)
