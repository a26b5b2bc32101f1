"""Weights on disk: shards, broken files, numbers that are not finite."""
import json
import shutil
from argparse import Namespace

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file, save_file

import mistral
from encoder import load_encoder
from lora import add_delta, load_peft
from mistral import load_model
from t2l import load_t2l
from utils.cli import UserError
from utils.peft import merge_folder
from utils.weights import chosen_dtype, usual_dtype


pytestmark = pytest.mark.quick


def test_sharded_folders_load_as_single_ones(tmp_path):
    weights = load_file(GOLDEN / "mistral" / "model.safetensors")
    names, shards = sorted(weights), {}
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: weights[n] for n in part}, tmp_path / f"part{i}.safetensors")
        shards |= {n: f"part{i}.safetensors" for n in part}
    shutil.copy(GOLDEN / "mistral" / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    ids = torch.randint(3, 96, (2, 9))
    one, many = (load_model(p, torch.float32)(ids) for p in (GOLDEN / "mistral", tmp_path))
    assert torch.equal(one, many)


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
        config["mlp_bias"] = True
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
    ("another family", "model_type='gpt2'"), ("biases", "mlp_bias=True"),
    ("scaled rope", "rope_type='yarn'"), ("field missing", "intermediate_size"),
    ("config not json", "not readable as JSON"), ("tensor missing", "up_proj.weight is missing"),
    ("tensor extra", "model.extra"), ("wrong shape", r"up_proj.weight is \(3, 4\)"),
    ("NaN", "up_proj.weight holds numbers that are not finite"),
    ("index empty", "expected a weight_map"), ("index outside", "expected a weight_map"),
    ("index short", "holds model.layers.1.mlp.up_proj.weight, but .* puts it in no file"),
    ("index long", "lacks model.extra, but .* puts it in model.safetensors")])
def test_broken_model_folders(kind, said, tmp_path):
    with pytest.raises(UserError, match=said):
        load_model(broken_model(tmp_path, kind))


@pytest.mark.parametrize("file, load", [
    ("t2l.safetensors", load_t2l), ("model.safetensors", load_encoder)])
def test_nan_in_other_weights(file, load, tiny_t2l, tmp_path):
    shutil.copytree(GOLDEN / "bert", tmp_path / "bert")
    path = (tiny_t2l if file == "t2l.safetensors" else tmp_path / "bert") / file
    weights = load_file(path)
    name = max(weights, key=lambda k: weights[k].numel())
    weights[name].view(-1)[5] = torch.inf
    save_file(weights, path)
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
        load(path.parent)


# -------------------------------------------------------------- what contradicts itself

def changed_model(tmp_path, config: dict = {}, **tensors):
    """The tiny Llama with other fields and tensors (None: left out)."""
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "llama", folder)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    weights = load_file(folder / "model.safetensors") | tensors
    save_file({k: w for k, w in weights.items() if w is not None}, folder / "model.safetensors")
    return folder, weights


def test_a_tied_head_that_is_stored(tmp_path):
    """The same numbers: it loads. Others, or in another precision: refused."""
    weights = load_file(GOLDEN / "llama" / "model.safetensors")
    embedded = weights["model.embed_tokens.weight"]
    for i, (head, well) in enumerate([(embedded.clone(), True), (embedded + 1e-3, False),
                                      (embedded.bfloat16(), False)]):
        (tmp_path / f"{i}").mkdir()
        folder, _ = changed_model(tmp_path / f"{i}", {"tie_word_embeddings": True},
                                  **{"lm_head.weight": head})
        if well:
            load_model(folder)
            continue
        with pytest.raises(UserError, match="another lm_head.weight is stored"):
            load_model(folder)


def test_an_index_beside_a_single_file(tmp_path):
    """The single file is read, whether or not the old shards are there; both are named."""
    folder, weights = changed_model(tmp_path)
    expected = load_model(folder, torch.float32).state_dict()
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": dict.fromkeys(weights, "old.safetensors")}))
    for there in (False, True):
        if there:
            save_file({k: w + 1 for k, w in weights.items()}, folder / "old.safetensors")
        with pytest.warns(UserWarning, match="both model.safetensors and model.safetensors.index"):
            found = load_model(folder, torch.float32).state_dict()
        assert all(torch.equal(found[k], expected[k]) for k in expected)
    merged = tmp_path / "merged"
    with pytest.warns(UserWarning, match="both"):
        merge_folder(folder, load_peft(GOLDEN / "llama" / "adapter"), merged, add_delta)
    assert not (merged / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn,
                                   torch.float8_e5m2, torch.bool])
def test_weights_that_are_quantised(dtype, tiny_t2l, tmp_path):
    name = "model.layers.0.self_attn.q_proj.weight"
    folder, weights = changed_model(tmp_path)
    save_file(weights | {name: weights[name].to(dtype)}, folder / "model.safetensors")
    t2l = load_file(tiny_t2l / "t2l.safetensors")
    save_file(t2l | {"mixer.1.bias": t2l["mixer.1.bias"].to(dtype)}, tiny_t2l / "t2l.safetensors")
    lora = load_peft(GOLDEN / "llama" / "adapter")
    for load in (lambda: load_model(folder), lambda: load_t2l(tiny_t2l),
                 lambda: merge_folder(folder, lora, tmp_path / "merged", add_delta)):
        with pytest.raises(UserError, match=f"is stored as {str(dtype)[6:]}; expected float32"):
            load()
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("n", [1, 5, 9999])
def test_layers_are_counted_before_a_model_is_built(n, tmp_path, monkeypatch):
    monkeypatch.setattr(mistral, "Mistral", None)                          # else: a TypeError
    folder, _ = changed_model(tmp_path, {"num_hidden_layers": n})
    with pytest.raises(UserError, match=f"num_hidden_layers {n}, the weights hold 3 layers"):
        load_model(folder)


def test_empty_weights(tmp_path):
    folder, _ = changed_model(tmp_path, **{"model.norm.weight": torch.zeros(0)})
    with pytest.raises(UserError, match=r"model.norm.weight is \(0,\)"):
        load_model(folder)


def test_a_file_in_place_of_a_checkpoints_folder(tiny_t2l):
    for name in ("t2l.safetensors", "config.json"):
        with pytest.raises(UserError, match="is a file; give the folder it is in"):
            load_t2l(tiny_t2l / name)


@pytest.mark.parametrize("device, capability, stored, wanted", [
    ("cpu", "avx512_bf16", 1, torch.bfloat16), ("cpu", "amx_bf16", 1, torch.bfloat16),
    ("cpu", "bf16", 1, torch.bfloat16), ("cpu", "avx2", 1, torch.float32),
    ("cpu", "avx2", 3, torch.bfloat16), ("cuda", "avx2", 1, torch.bfloat16)])
def test_cpus_that_only_emulate_bf16_run_small_models_in_fp32(device, capability, stored, wanted,
                                                              tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    monkeypatch.setattr("utils.weights.SMALL_MODEL", 2)
    (tmp_path / "model.safetensors").write_bytes(bytes(stored))
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nothing")
    args = Namespace(device=device, model=tmp_path, dtype=None)
    assert chosen_dtype(args) == wanted == usual_dtype(device, tmp_path)
    assert chosen_dtype(Namespace(**vars(args) | {"dtype": "float16"})) == torch.float16
