"""Low-rank adapters against PEFT: golden logits always, live where peft is installed."""
import json
import shutil

import pytest
import torch
from conftest import GOLDEN
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lora as lora_ops
import mistral
import t2l as t2l_ops
from data.files import UserError

FAMILIES = ["mistral", "llama", "llama3", "gemma2"]


def setup(name: str):
    folder = GOLDEN / name
    return (mistral.load_model(folder, torch.float32), lora_ops.load_peft(folder / "adapter"),
            load_file(folder / "expected.safetensors"))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_acts_as_in_peft(name):
    """The adapter is from PEFT, with alpha 6, rank 4 and rsLoRA: load_peft folds 6 / √4 into B."""
    model, lora, expected = setup(name)
    logits = model(expected["ids"], lora=lora)
    torch.testing.assert_close(logits, expected["lora_logits"], atol=2e-5, rtol=1e-5)
    assert (expected["lora_logits"] - expected["logits"]).abs().max() > 1    # the adapter matters


@pytest.mark.parametrize("broken", ["q and v swapped", "scale 1", "layers reversed"])
def test_the_comparison_notices_a_wrong_adapter(broken):
    model, (A, B), expected = setup("mistral")
    if broken == "q and v swapped":
        A = {"q_proj": A["v_proj"], "v_proj": A["q_proj"]}
    if broken == "scale 1":
        B = {m: w / 3 for m, w in B.items()}
    if broken == "layers reversed":
        A = {m: w.flip(0) for m, w in A.items()}
    logits = model(expected["ids"], lora=(A, B))
    assert (logits - expected["lora_logits"]).abs().max() > 1e-2


def test_one_adapter_per_sample_equals_each_alone_and_merged():
    model, (A, B), expected = setup("llama")
    b, ids = 3, expected["ids"]
    A = {m: torch.stack([w + 0.1 * torch.randn_like(w) for _ in range(b)]) for m, w in A.items()}
    B = {m: torch.stack([w + 0.1 * torch.randn_like(w) for _ in range(b)]) for m, w in B.items()}
    together, before = model(ids, lora=(A, B)), model(ids)
    for i in range(b):
        own = ({m: w[i] for m, w in A.items()}, {m: w[i] for m, w in B.items()})
        torch.testing.assert_close(together[i:i + 1], model(ids[i:i + 1], lora=own),
                                   atol=1e-4, rtol=1e-5)
        merged = lora_ops.merge(model, own)
        torch.testing.assert_close(together[i:i + 1], merged(ids[i:i + 1]), atol=1e-4, rtol=1e-5)
        assert merged.model["norm"].weight is model.model["norm"].weight     # shared, not copied
    assert torch.equal(before, model(ids))                                   # the base is untouched


def test_gradients_reach_every_entry_of_every_adapter():
    model, (A, B), expected = setup("mistral")
    leaves = [w.expand(3, *w.shape).clone().requires_grad_() for w in (*A.values(), *B.values())]
    lora = (dict(zip(A, leaves[:2])), dict(zip(B, leaves[2:])))
    model(expected["ids"], lora=lora).square().mean().backward()
    assert all((leaf.grad != 0).all() for leaf in leaves)


def test_peft_folder_round_trip_is_exact(tmp_path):
    _, (A, B), _ = setup("llama")
    lora_ops.save_peft(tmp_path / "a", A, B, base_model="tiny", description="Say it twice.")
    A2, B2 = lora_ops.load_peft(tmp_path / "a")
    assert all(torch.equal(A[m], A2[m]) and torch.equal(B[m], B2[m]) for m in A)
    with safe_open(tmp_path / "a" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["description"] == "Say it twice."
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]               # no scratch left


def foreign(folder, config: dict = {}, **tensors) -> None:
    """A LoRA as somebody else would publish it: rank 64, alpha 24, plain scale, two layers."""
    folder.mkdir(exist_ok=True)
    name = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight".format
    weights = {name(i, m, side): torch.randn((64, 48) if side == "A" else (d_out, 64))
               for i in range(2) for m, d_out in (("q_proj", 48), ("v_proj", 16)) for side in "AB"}
    save_file({k: w for k, w in (weights | tensors).items() if w is not None},
              folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 64, "lora_alpha": 24} | config))


def test_adapters_made_by_others(tmp_path):
    """Any rank and scale; what it adapts besides q and v is left out, aloud; gaps are refused."""
    mlp = {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.randn(16, 48)}
    v = {f"base_model.model.model.layers.{i}.self_attn.v_proj.lora_{side}.weight": None
         for i in range(2) for side in "AB"}
    foreign(tmp_path / "plain")
    raw = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    A, B = lora_ops.load_peft(tmp_path / "plain")
    last = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    assert torch.equal(A["q_proj"][1], raw[last.format("A")])
    torch.testing.assert_close(B["q_proj"][1], raw[last.format("B")] * 24 / 64)
    foreign(tmp_path / "q only", config={"use_rslora": True}, **v)
    A, B = lora_ops.load_peft(tmp_path / "q only")
    assert list(A) == ["q_proj"] and A["q_proj"].shape == (2, 64, 48)
    foreign(tmp_path / "more", **mlp)
    with pytest.warns(UserWarning, match="left out 1 tensors such as .*up_proj"):
        lora_ops.load_peft(tmp_path / "more")
    foreign(tmp_path / "gap", **{last.format("B"): None})
    with pytest.raises(UserError, match="for every layer, found gaps"):
        lora_ops.load_peft(tmp_path / "gap")


LAST = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
TOWER = {f"base_model.model.vision_tower.layers.{i}.self_attn.{m}.lora_{side}.weight":
         torch.zeros(16, 16) for i in range(2) for m in ("q_proj", "v_proj") for side in "AB"}


@pytest.mark.parametrize("config, tensors, said", [
    ({"use_dora": True}, {}, "use_dora"), ({"peft_type": "IA3"}, {}, "IA3"),
    ({"init_lora_weights": "pissa_niter_4"}, {}, "for a base it changed"),
    ({"lora_alpha": None}, {}, "lora_alpha None"), ({"lora_alpha": "24"}, {}, "lora_alpha '24'"),
    ({"kasa_config": {"x": 1}}, {}, "kasa_config"),
    ({}, {LAST.format("A"): torch.zeros(4, 48)}, "found ranks 4, 64"),
    ({}, {LAST.format("B"): torch.zeros(48, 4)}, "found ranks 4, 64"),
    ({}, {LAST.format("A"): torch.zeros(64, 40)}, "in all layers alike"),
    ({}, {LAST.format("A"): torch.zeros(64)}, "found ranks 64, none"),
    ({}, {LAST.format("B"): torch.full((48, 64), torch.nan)}, "not finite")])
def test_adapters_that_are_refused(config, tensors, said, tmp_path):
    foreign(tmp_path, config, **tensors)
    with pytest.raises(UserError, match=said):
        lora_ops.load_peft(tmp_path)


def test_layers_of_another_tower_are_not_the_language_models(tmp_path):
    foreign(tmp_path / "both", **TOWER)
    with pytest.warns(UserWarning, match="left out 8 tensors such as .*vision_tower"):
        assert lora_ops.load_peft(tmp_path / "both")[0]["q_proj"].any()


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_merged_folder_is_the_model_with_the_adapter(name, tmp_path):
    model, lora, expected = setup(name)
    source = tmp_path / "sharded"                       # mistral's, cut into two files
    shutil.copytree(GOLDEN / name, source)
    if name == "mistral":
        weights = load_file(source / "model.safetensors")
        (source / "model.safetensors").unlink()
        names = sorted(weights)
        halves = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
        for file, half in halves.items():
            save_file({k: weights[k] for k in half}, source / file)
        (source / "model.safetensors.index.json").write_text(json.dumps(
            {"weight_map": {k: file for file, half in halves.items() for k in half}}))
    (source / "pytorch_model.bin").write_bytes(b"other weights, not merged: not to come along")
    lora_ops.merge_folder(source, lora, tmp_path / "merged")
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "tokenizer.json" in files and not files & {"pytorch_model.bin", "expected.safetensors"}
    merged = mistral.load_model(tmp_path / "merged", torch.float32)
    torch.testing.assert_close(merged(expected["ids"]), expected["lora_logits"],
                               atol=2e-5, rtol=1e-5)
    deep = tuple({m: torch.cat([w, w]) for m, w in side.items()} for side in lora)
    shallow = tuple({m: w[:2] for m, w in side.items()} for side in lora)
    for wrong, said in (
            (deep, "layers.3.self_attn.q_proj.weight is .*, the model's weight is missing"),
            (shallow, "its ΔW for model.layers.2.self_attn.q_proj.weight is missing")):
        with pytest.raises(UserError, match=said):
            lora_ops.merge_folder(source, wrong, tmp_path / "wrong")
        with pytest.raises(UserError, match=said):
            lora_ops.merge(model, wrong)
    assert not (tmp_path / "wrong").exists()
    for full in (source / ".." / "sharded", tmp_path / "merged"):
        with pytest.raises(UserError, match="is not empty"):
            lora_ops.merge_folder(source, lora, full)
    with pytest.raises(UserError, match="model.safetensors does not exist"):
        lora_ops.merge_folder(tmp_path / "nowhere", lora, tmp_path / "wrong")


def test_live_apply_lora_takes_a_transformers_model():
    transformers = pytest.importorskip("transformers")
    _, (A, B), expected = setup("mistral")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        GOLDEN / "mistral", attn_implementation="eager")
    adapted = t2l_ops.apply_lora(theirs, A, B)
    with torch.no_grad():
        torch.testing.assert_close(adapted(expected["ids"]).logits, expected["lora_logits"],
                                   atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(theirs(expected["ids"]).logits, expected["logits"],
                                   atol=1e-4, rtol=1e-4)                 # left as it was
    new = adapted.generate(expected["ids"][:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert new.shape[1] == expected["ids"].shape[1] + 3


def test_live_peft_loads_what_we_write(tmp_path):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    model, (A, B), expected = setup("mistral")
    lora_ops.save_peft(tmp_path, A, B, base_model="tiny")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        GOLDEN / "mistral", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(expected["ids"]).logits, expected["lora_logits"],
                                   atol=1e-4, rtol=1e-4)
