"""A person's mistakes: one line that says what was found and what was expected, exit code 2."""
import importlib
import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from conftest import GOLDEN, ROOT, task_file
from safetensors.torch import load_file, save_file

import encoder as encoder_ops
import lora as lora_ops
import mistral
import t2l as t2l_ops
from data.files import UserError, run
from data.suite import drop_too_long, load_suite, load_task

TINY = ["--model", GOLDEN / "llama", "--encoder", GOLDEN / "bert"]


def command(file: str, *flags) -> subprocess.CompletedProcess:
    """What `python FILE.py flags` does, in this process: importing torch anew each time is slow."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    module = importlib.import_module(file.removesuffix(".py"))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [file, *map(str, flags)])
        try:
            run(module.main)
        except SystemExit as stop:
            code = stop.code
    return subprocess.CompletedProcess(flags, code, out.getvalue(), err.getvalue())


def test_a_real_command_line_ends_in_one_line_and_code_2():
    done = subprocess.run([sys.executable, ROOT / "train.py", "--mode", "nonsense"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: argument --mode") and done.stderr.count("\n") == 1


def refused(file: str, *flags) -> str:
    """The one line a command ends with when it refuses."""
    done = command(file, *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("T2L-")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


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


@pytest.mark.parametrize("text, warning", [
    ("word " * 10000, "tokens; the encoder reads the first 64"),
    ("Ответь словом, противоположным данному.", "English"),
    ("Réponds avec le contraire du mot.", "English")])
def test_long_and_foreign_descriptions_work_with_a_warning(text, warning, tiny_t2l, tmp_path):
    done = command("t2l.py", text, "--ckpt", tiny_t2l, *TINY, "--prompt", "hot",
                   "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stderr and warning in done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == \
        ["prompt", "base", "adapted", "adapter"]
    lora_ops.load_peft(tmp_path / "a")


def test_unknown_arch_and_flags_that_contradict():
    assert "--arch" in refused("train.py", "--mode", "sft", "--arch", "X")
    assert "--describe" in refused("train.py", "--mode", "mtlora", "--describe", "both")
    assert "--steps" in refused("train.py", "--mode", "sft", "--steps", "0")


@pytest.mark.parametrize("flag, value", [("--steps", 0), ("--lr", 0), ("--lr", -1), ("--lr", "nan"),
                                         ("--save-every", -1), ("--eval-samples", -1)])
def test_numbers_that_make_no_sense(flag, value):
    assert flag in refused("train.py", "--mode", "mtlora", flag, value)


def test_eval_without_a_checkpoint(tiny_tasks, tmp_path):
    said = refused("eval.py", "--ckpt", tmp_path, *TINY, "--tasks", tiny_tasks)
    assert "config.json does not exist" in said


def test_an_unfinished_run_is_not_overwritten(tmp_path):
    (tmp_path / "train_state.pt").write_bytes(b"precious")
    said = refused("train.py", "--mode", "mtlora", *TINY, "--out", tmp_path)
    assert "unfinished run" in said and (tmp_path / "train_state.pt").read_bytes() == b"precious"


def test_a_mistyped_run_leaves_nothing_behind(tmp_path):
    assert "not a folder" in refused("train.py", "--mode", "sft", "--model", tmp_path / "nowhere",
                                     "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_as_many_adapters_as_prompts():
    model, tokenizer = (load(GOLDEN / "llama")
                        for load in (mistral.load_model, mistral.load_tokenizer))
    A, B = lora_ops.load_peft(GOLDEN / "llama" / "adapter")
    two = tuple({m: torch.stack([w, w]) for m, w in side.items()} for side in (A, B))
    with pytest.raises(UserError, match="2 adapters for 3 prompts"):
        mistral.generate(model, tokenizer, ["a", "b", "c"], two)


@pytest.mark.parametrize("load", [mistral.load_tokenizer, encoder_ops.load_encoder])
def test_a_broken_tokenizer(load, tmp_path):
    shutil.copytree(GOLDEN / "bert", tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable tokenizer.json"):
        load(tmp_path)


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
        config["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 1e4}
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
    elif kind == "NaN":
        weights[name][2, 3] = torch.nan
        save_file(weights, file)
    elif kind.startswith("index"):
        said = {"index empty": {}, "index outside": {name: "../model.safetensors"},
                "index short": {k: file.name for k in weights if k != name},
                "index long": {k: file.name for k in [*weights, "model.extra"]}}[kind]
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": said}))
    (folder / "config.json").write_text("{" if config is None else json.dumps(config))
    return folder


@pytest.mark.parametrize("kind, said", [
    ("no safetensors", "model.safetensors does not exist"),
    ("truncated", "not a complete safetensors"),
    ("another family", "model_type='gpt2'"), ("biases", "attention_bias=True"),
    ("scaled rope", "rope_type='yarn'"), ("field missing", "intermediate_size"),
    ("config not json", "not readable as JSON"), ("tensor missing", "up_proj.weight is missing"),
    ("tensor extra", "model.extra"), ("wrong shape", r"up_proj.weight is \(3, 4\)"),
    ("NaN", "up_proj.weight holds numbers that are not finite"),
    ("index empty", "expected a weight_map"), ("index outside", "expected a weight_map"),
    ("index short", "holds model.layers.1.mlp.up_proj.weight, but .* puts it in no file"),
    ("index long", "lacks model.extra, but .* puts it in model.safetensors")])
def test_broken_model_folders(kind, said, tmp_path):
    with pytest.raises(UserError, match=said):
        mistral.load_model(broken_model(tmp_path, kind))


@pytest.mark.parametrize("family, changes, said", [
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}"),
    ("llama", {"num_hidden_layers": "three"}, "found num_hidden_layers='three'"),
    ("llama", {"num_attention_heads": 0}, "found num_attention_heads=0"),
    ("llama", {"num_key_value_heads": "2"}, "found num_key_value_heads='2'"),
    ("llama", {"num_key_value_heads": 5}, "cannot share the keys of 5 evenly"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "full_attention="),
    ("llama", {"rope_parameters": {"rope_theta": None}}, "rope_parameters.rope_theta=None"),
    ("llama", {"rope_scaling": {"type": "yarn"}}, "beside rope_scaling"),
    ("llama3", {"rope_parameters": {"rope_type": "llama3", "partial_rotary_factor": 0.5}},
     "partial_rotary_factor=0.5"),
    ("llama", {"sliding_window": 8}, "sliding_window=8"),
    ("mistral", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping=5.0"),
    ("llama", {"model_type": "qwen2", "use_mrope": False}, "model_type='qwen2', use_mrope"),
    ("llama3", {"rope_parameters": {"rope_type": "llama3", "factor": 2}}, "low_freq_factor"),
    ("mistral", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ("gemma2", {"layer_types": ["chunked_attention"] * 3}, "layer_types"),
    ("gemma2", {"layer_types": ["full_attention"]}, "layer_types")])
def test_configs_that_cannot_be_honoured(family, changes, said, tmp_path):
    config = json.loads((GOLDEN / family / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=said):
        mistral.read_config(tmp_path)


def test_what_a_config_does_not_say_and_what_is_not_known(tmp_path, capsys):
    """Absent fields mean what they mean to Hugging Face's classes; new ones are named aloud."""
    config = {"model_type": "mistral", "vocab_size": 9, "hidden_size": 64, "intermediate_size": 9,
              "num_hidden_layers": 2, "num_attention_heads": 8, "rope_theta": 7.0}
    (tmp_path / "config.json").write_text(json.dumps(config | {"mystery": 1, "use_cache": True}))
    cfg = mistral.read_config(tmp_path)
    assert "not known here: mystery\n" in capsys.readouterr().err
    assert (cfg.sliding_window, cfg.windowed, cfg.num_key_value_heads) == (4096, (0, 1), 8)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    cfg = mistral.read_config(tmp_path)
    assert (cfg.sliding_window, cfg.windowed, cfg.max_position_embeddings) == (None, (), 2048)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gemma2"}))
    cfg = mistral.read_config(tmp_path)
    assert (cfg.head_dim, cfg.windowed, cfg.final_logit_softcapping) == (256, (0,), 30.0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("changes, said", [
    ({"Instances": []}, "no \"Instances\""), ({"Instances": None}, "no \"Instances\""),
    ({"Definition": None, "Descriptions": None}, "lacks \"Definition\""),
    ({"Instances": [{"input": "a"}]}, "lacks instance 0's output"),
    ({"Instances": [{"input": "a", "output": 5}]}, "lacks instance 0's output"),
    ({"Instances": ["a"]}, "no \"Instances\""), ({"Descriptions": 5}, "lacks \"Definition\""),
    ({"Split": 3}, "expected \"Split\""),
    ({"Description Split": {"train": 0}}, "expected \"Split\""),
    ({"Split": {"train": -1, "test": 2}}, "expected \"Split\""),
    ({"Split": {"train": 3}}, "expected \"Split\""),
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
        kept = drop_too_long(suite, tokenizer, 64, "lora")
    assert sum(len(t.train) for t in kept.train) == sum(len(t.train) for t in suite.train) - 1
    with pytest.raises(UserError, match="alpha: every training instance"):
        drop_too_long(suite, tokenizer, 12, "lora")


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


def test_a_model_of_another_name_is_warned_of_and_merged_is_that_model(tiny_t2l, tmp_path):
    shutil.copytree(GOLDEN / "llama", tmp_path / "other")
    done = command("t2l.py", "Say it twice.", "--ckpt", tiny_t2l, "--encoder", GOLDEN / "bert",
                   "--model", tmp_path / "other", "--out", tmp_path / "adapter", "--merged",
                   tmp_path / "merged")
    assert done.returncode == 0 and "makes adapters for llama, not for other" in done.stderr
    model, merged = (mistral.load_model(tmp_path / name, torch.float32)
                     for name in ("other", "merged"))
    ids = torch.randint(3, 90, (2, 9))
    lora = lora_ops.load_peft(tmp_path / "adapter")
    torch.testing.assert_close(merged(ids), model(ids, lora=lora), atol=1e-4, rtol=1e-4)
    assert (merged(ids) - model(ids)).abs().max() > 1e-3
    assert "warning" not in command("t2l.py", "Say it twice.", "--ckpt", tiny_t2l, *TINY,
                                    "--prompt", "hi").stderr
    for name, other, same in (("mistralai/M-v0.2", "M-v0.2", True), ("M-v0.2", "M-v0.1", False),
                              ("", "M", True), (None, "M", True)):
        assert mistral.same_model(name, other) is same


def test_the_order_of_the_modules_can_be_said_on_the_command_line(monkeypatch):
    def load(path, order):
        raise UserError(f"{path} {order}")
    monkeypatch.setattr(t2l_ops, "load_t2l", load)
    assert refused("t2l.py", "Say it.", "--ckpt", "theirs", "--module-order", "v_proj",
                   "q_proj") == "error: theirs ['v_proj', 'q_proj']"
    assert "--module-order" in refused("t2l.py", "Say it.", "--module-order", "v_proj", "mlp")


@pytest.mark.parametrize("file, load", [
    ("t2l.safetensors", t2l_ops.load_t2l), ("model.safetensors", encoder_ops.load_encoder)])
def test_nan_in_other_weights(file, load, tiny_t2l, tmp_path):
    shutil.copytree(GOLDEN / "bert", tmp_path / "bert")
    path = (tiny_t2l if file == "t2l.safetensors" else tmp_path / "bert") / file
    weights = load_file(path)
    name = max(weights, key=lambda k: weights[k].numel())
    weights[name].view(-1)[5] = torch.inf
    save_file(weights, path)
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
        load(path.parent)


@pytest.mark.parametrize("changes", [{"rank": 0}, {"modules": {"q_proj": [1]}}, {"latent": -4},
                                     {"rank": "8"}])
def test_a_checkpoint_with_odd_sizes(changes, tiny_t2l):
    config = json.loads((tiny_t2l / "config.json").read_text())
    config["t2l"] |= changes
    (tiny_t2l / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json"):
        t2l_ops.load_t2l(tiny_t2l)


def test_a_tokenizer_of_another_model(tmp_path):
    shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    shutil.copytree(GOLDEN / "bert", tmp_path / "bert")
    for folder, load in (("model", mistral.load_tokenizer), ("bert", encoder_ops.load_encoder)):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        (tmp_path / folder / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))
        with pytest.raises(UserError, match="belong to different models|word_embeddings"):
            load(tmp_path / folder)


def test_where_nothing_can_be_written(tiny_t2l, tmp_path):
    (tmp_path / "file.txt").write_text("")
    assert "file.txt" in refused("t2l.py", "Say it twice.", "--ckpt", tiny_t2l, *TINY, "--out",
                                 tmp_path / "file.txt" / "adapter")


def test_an_encoder_that_is_the_language_model_must_be_that_model(tiny_t2l, monkeypatch):
    config = json.loads((tiny_t2l / "config.json").read_text())
    config["t2l"] |= {"encoder": "base"}
    (tiny_t2l / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(mistral, "read_config", lambda: mistral.Config.from_json(
        GOLDEN / "mistral" / "config.json"))                             # the default: another
    with pytest.raises(UserError, match="descriptions are embedded by llama itself"):
        t2l_ops.generate_lora(t2l_ops.load_t2l(tiny_t2l), "Say it.")


def test_a_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: PyTorch finds no CUDA device"):
        mistral.load_model(GOLDEN / "llama", device="cuda")


def test_adapters_that_do_not_fit(tmp_path):
    model = mistral.load_model(GOLDEN / "llama", torch.float32)
    A, B = lora_ops.load_peft(GOLDEN / "mistral" / "adapter")                # another head_dim
    with pytest.raises(UserError, match="does not fit the model"):
        t2l_ops.apply_lora(model, A, B)
    batch = lora_ops.mapped((A, B), lambda w: w[None])
    for take in (lambda: t2l_ops.apply_lora(model, *batch),
                 lambda: lora_ops.save_peft(tmp_path / "batch", *batch)):
        with pytest.raises(UserError, match="one adapter is needed here, not a batch"):
            take()
    own = lora_ops.load_peft(GOLDEN / "llama" / "adapter")
    for odd in ((own[0], {"q_proj": own[1]["q_proj"]}),
                (own[0], lora_ops.mapped(own, lambda w: w[:2])[1]),
                (own[0], lora_ops.mapped(own, lambda w: w[..., :1])[1])):
        with pytest.raises(UserError, match="has A .* and B"):
            model(torch.zeros(1, 4, dtype=torch.long), lora=odd)
    short = tuple({m: w[:2] for m, w in side.items()} for side in
                  lora_ops.load_peft(GOLDEN / "llama" / "adapter"))
    with pytest.raises(UserError, match="does not fit the model: its q_proj is"):
        model(torch.zeros(1, 4, dtype=torch.long), lora=short)
    with pytest.raises(UserError, match="adapter_config.json does not exist"):
        lora_ops.load_peft(tmp_path)
