"""A person's mistakes: one line that says what was found and what was expected, exit code 2."""
import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import GOLDEN, ROOT, task_file
from safetensors.torch import load_file, save_file

import encoder as encoder_ops
import lora as lora_ops
import mistral
import t2l as t2l_ops
from data.files import UserError
from data.tasks import drop_too_long, load_suite, load_task

TINY = ["--model", GOLDEN / "llama", "--encoder", GOLDEN / "bert"]


def command(file: str, *flags) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / file, *map(str, flags)], capture_output=True,
                          text=True, cwd=ROOT)


def refused(file: str, *flags) -> str:
    """The one line a command ends with when it refuses."""
    done = command(file, *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def tiny_t2l(tmp_path):
    """A T2L folder for the tiny Llama and the tiny BERT."""
    model, encoder = mistral.load_model(GOLDEN / "llama"), encoder_ops.load_encoder(GOLDEN / "bert")
    t2l = t2l_ops.T2L(t2l_ops.for_model(model.cfg, "S", encoder))
    t2l_ops.save_t2l(t2l, tmp_path / "ckpt", torch.float32, {"mode": "sft"})
    return tmp_path / "ckpt"


@pytest.mark.parametrize("text", ["", " ", "x"])
def test_an_empty_or_one_character_description(text, tiny_t2l):
    assert "the description is" in refused("t2l.py", text, "--ckpt", tiny_t2l, *TINY)


@pytest.mark.parametrize("text, warning", [("word " * 10000, "has 10000 words"),
                                           ("Ответь словом, противоположным данному.", "English")])
def test_long_and_foreign_descriptions_work_with_a_warning(text, warning, tiny_t2l, tmp_path):
    done = command("t2l.py", text, "--ckpt", tiny_t2l, *TINY, "--prompt", "hot",
                   "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert f"warning: " in done.stderr and warning in done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == \
        ["prompt", "base", "adapted", "adapter"]
    lora_ops.load_peft(tmp_path / "a")


def test_unknown_arch_and_flags_that_contradict():
    assert "--arch" in refused("train.py", "--mode", "sft", "--arch", "X")
    assert "--describe" in refused("train.py", "--mode", "mtlora", "--describe", "both")
    assert "--steps" in refused("train.py", "--mode", "sft", "--steps", "0")


def test_resume_with_nothing_to_resume(tmp_path):
    said = refused("train.py", "--mode", "sft", "--resume", "--out", tmp_path)
    assert "nothing to resume" in said


def test_resume_with_other_flags(tmp_path, tiny_tasks):
    flags = ["--mode", "mtlora", *TINY, "--tasks", tiny_tasks, "--eval-samples", 0,
             "--out", tmp_path / "r"]
    assert command("train.py", *flags, "--steps", 2).returncode == 0
    assert "steps = 2" in refused("train.py", *flags, "--steps", 3, "--resume")


def broken_model(tmp_path, kind: str):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "llama", folder)
    file = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    if kind == "no safetensors":
        file.unlink()
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif kind == "another family":
        config["model_type"] = "gpt2"
    elif kind == "biases":
        config["attention_bias"] = True
    elif kind == "scaled rope":
        config["rope_parameters"] = {"rope_type": "llama3", "rope_theta": 1e4}
    elif kind == "field missing":
        del config["intermediate_size"]
    elif kind == "config not json":
        config = None
    elif kind == "tensor missing":
        save_file({k: w for k, w in weights.items() if k != name}, file)
    elif kind == "tensor extra":
        save_file(weights | {"model.extra": torch.zeros(2)}, file)
    elif kind == "wrong shape":
        save_file(weights | {name: torch.zeros(3, 4)}, file)
    (folder / "config.json").write_text("{" if config is None else json.dumps(config))
    return folder


@pytest.mark.parametrize("kind, said", [
    ("no safetensors", "model.safetensors does not exist"),
    ("truncated", "not a complete safetensors"),
    ("another family", "model_type='gpt2'"), ("biases", "attention_bias=True"),
    ("scaled rope", "rope_type='llama3'"), ("field missing", "intermediate_size"),
    ("config not json", "not readable as JSON"), ("tensor missing", "up_proj.weight is missing"),
    ("tensor extra", "model.extra"), ("wrong shape", r"up_proj.weight is \(3, 4\)")])
def test_broken_model_folders(kind, said, tmp_path):
    with pytest.raises(UserError, match=said):
        mistral.load_model(broken_model(tmp_path, kind))


def test_a_model_that_is_not_there():
    said = refused("train.py", "--mode", "sft", "--model", "nowhere", "--out", "/tmp/x")
    assert "not a folder" in said


@pytest.mark.parametrize("changes, said", [
    ({"Instances": []}, "no \"Instances\""), ({"Instances": None}, "no \"Instances\""),
    ({"Definition": None, "Descriptions": None}, "lacks \"Definition\""),
    ({"Instances": [{"input": "a"}]}, "instance 0 lacks"),
    ({"Instances": [{"input": "a", "output": ["b"]}, {"input": 3, "output": "c"}]},
     "instance 1 lacks")])
def test_malformed_task_files(changes, said, tmp_path):
    with pytest.raises(UserError, match=said):
        load_task(task_file(tmp_path, "broken", **changes))


def test_a_task_file_that_is_not_json_and_folders_without_tasks(tmp_path):
    (tmp_path / "a.json").write_text("{not json")
    with pytest.raises(UserError, match="a.json is not readable as JSON"):
        load_suite(tmp_path)
    with pytest.raises(UserError, match="holds no task file"):
        load_suite(tmp_path / "nowhere")


def test_splits_that_name_an_unknown_task(tiny_tasks):
    (tiny_tasks.parent / "splits.json").write_text('{"unseen": ["delta"]}')
    with pytest.raises(UserError, match="names delta"):
        load_suite(tiny_tasks)


def test_a_folder_without_splits_trains_on_everything_with_a_warning(tiny_tasks):
    (tiny_tasks.parent / "splits.json").unlink()
    with pytest.warns(UserWarning, match="every task is trained on"):
        assert len(load_suite(tiny_tasks).train) == 3


def test_an_answer_longer_than_the_context(tiny_tasks):
    rows = [{"input": "a", "output": ["b " * 100]},
            *({"input": str(i), "output": ["c"]} for i in range(9))]
    task_file(tiny_tasks, "alpha", Instances=rows, Split={"train": 10, "test": 0})
    tokenizer, suite = mistral.load_tokenizer(GOLDEN / "llama"), load_suite(tiny_tasks)
    with pytest.warns(UserWarning, match="left out 1 instances longer than 64 tokens"):
        kept = drop_too_long(suite.train, tokenizer, 64, "lora")
    assert sum(len(t.train) for t in kept) == sum(len(t.train) for t in suite.train) - 1
    with pytest.raises(UserError, match="alpha: every training instance"):
        drop_too_long([t for t in suite.train if t.name == "alpha"], tokenizer, 12, "lora")


def test_a_prompt_longer_than_the_context():
    model, tokenizer = (load(GOLDEN / "llama")
                        for load in (mistral.load_model, mistral.load_tokenizer))
    with pytest.raises(UserError, match="exceed the model's 64 positions"):
        mistral.generate(model, tokenizer, ["word " * 50])


def test_checkpoints_that_do_not_belong(tiny_t2l, tmp_path):
    with pytest.raises(UserError, match="trained with another encoder"):
        t2l_ops.load_t2l(tiny_t2l)(torch.zeros(1, 33))
    config = json.loads((tiny_t2l / "config.json").read_text())
    config["t2l"]["emb_size"] = 40
    (tiny_t2l / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="task_encoder"):
        t2l_ops.load_t2l(tiny_t2l)
    with pytest.raises(UserError, match="does not exist"):
        t2l_ops.load_t2l(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no \"t2l\" section"):
        t2l_ops.load_t2l(GOLDEN / "llama")


def test_adapters_that_do_not_fit(tmp_path):
    model = mistral.load_model(GOLDEN / "llama", torch.float32)
    A, B = lora_ops.load_peft(GOLDEN / "mistral" / "adapter")                # another head_dim
    with pytest.raises(UserError, match="does not fit the model"):
        t2l_ops.apply_lora(model, A, B)
    short = tuple({m: w[:2] for m, w in side.items()} for side in
                  lora_ops.load_peft(GOLDEN / "llama" / "adapter"))
    with pytest.raises(UserError, match="2 layers, the model has 3"):
        model(torch.zeros(1, 4, dtype=torch.long), lora=short)
    with pytest.raises(UserError, match="adapter_config.json does not exist"):
        lora_ops.load_peft(tmp_path)
