"""Weights on disk: shards, broken files, numbers that are not finite."""
import json
import shutil

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file, save_file

from encoder import load_encoder
from mistral import load_model
from t2l import load_t2l
from utils.cli import UserError


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
