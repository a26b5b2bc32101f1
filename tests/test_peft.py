"""Adapter folders: ours, those that others publish, what is refused; folders with one merged in."""
import json
import shutil
import warnings

import pytest
import torch
from conftest import GOLDEN
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora import MODULES, add_delta, load_peft, map_lora, merge, save_peft
from mistral import load_model
from utils.cli import UserError
from utils.peft import merge_folder

pytestmark = pytest.mark.quick


def setup(name: str):
    folder = GOLDEN / name
    return (load_model(folder, torch.float32), load_peft(folder / "adapter"),
            load_file(folder / "expected.safetensors"))


def test_peft_folder_round_trip_is_exact(tmp_path):
    _, (A, B), _ = setup("llama")
    save_peft(tmp_path / "a", A, B, base_model="tiny", description="Say it twice.")
    A2, B2 = load_peft(tmp_path / "a")
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
    """Any rank and scale; what it adapts besides is left out, aloud; gaps are refused."""
    head = {"base_model.model.lm_head.lora_A.weight": torch.randn(16, 48)}
    v = {f"base_model.model.model.layers.{i}.self_attn.v_proj.lora_{side}.weight": None
         for i in range(2) for side in "AB"}
    foreign(tmp_path / "plain")
    raw = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    A, B = load_peft(tmp_path / "plain")
    last = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    assert torch.equal(A["q_proj"][1], raw[last.format("A")])
    torch.testing.assert_close(B["q_proj"][1], raw[last.format("B")] * 24 / 64)
    foreign(tmp_path / "q only", config={"use_rslora": True}, **v)
    A, B = load_peft(tmp_path / "q only")
    assert list(A) == ["q_proj"] and A["q_proj"].shape == (2, 64, 48)
    foreign(tmp_path / "more", **head)
    with pytest.warns(UserWarning, match="left out 1 tensors such as .*lm_head"):
        load_peft(tmp_path / "more")
    foreign(tmp_path / "gap", **{last.format("B"): None})
    with pytest.raises(UserError, match="for every layer, found gaps"):
        load_peft(tmp_path / "gap")


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
        load_peft(tmp_path)


def test_layers_of_another_tower_are_not_the_language_models(tmp_path):
    foreign(tmp_path / "both", **TOWER)
    with pytest.warns(UserWarning, match="left out 8 tensors such as .*vision_tower"):
        assert load_peft(tmp_path / "both")[0]["q_proj"].any()


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
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
    merge_folder(source, lora, tmp_path / "merged", add_delta)
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "tokenizer.json" in files and not files & {"pytorch_model.bin", "expected.safetensors"}
    merged = load_model(tmp_path / "merged", torch.float32)
    torch.testing.assert_close(merged(expected["ids"]), expected["lora_logits"],
                               atol=2e-5, rtol=1e-5)
    deep = tuple({m: torch.cat([w, w]) for m, w in side.items()} for side in lora)
    shallow = tuple({m: w[:2] for m, w in side.items()} for side in lora)
    for wrong, said in (
            (deep, "layers.3.self_attn.q_proj.weight is .*, the model's weight is missing"),
            (shallow, "its ΔW for model.layers.2.self_attn.q_proj.weight is missing")):
        with pytest.raises(UserError, match=said):
            merge_folder(source, wrong, tmp_path / "wrong", add_delta)
        with pytest.raises(UserError, match=said):
            merge(model, wrong)
    assert not (tmp_path / "wrong").exists()
    for full in (source / ".." / "sharded", tmp_path / "merged"):
        with pytest.raises(UserError, match="is not empty"):
            merge_folder(source, lora, full, add_delta)
    with pytest.raises(UserError, match="model.safetensors does not exist"):
        merge_folder(tmp_path / "nowhere", lora, tmp_path / "wrong", add_delta)


def test_live_peft_loads_what_we_write(tmp_path):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    model, (A, B), expected = setup("mistral")
    save_peft(tmp_path, A, B, base_model="tiny")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        GOLDEN / "mistral", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(expected["ids"]).logits, expected["lora_logits"],
                                   atol=1e-4, rtol=1e-4)


def theirs_with(name: str, **options):
    """transformers' model of a golden folder under a PEFT LoRA with random weights."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN / name,
                                                             attn_implementation="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                   # PEFT's of rsLoRA with patterns
        model = peft.get_peft_model(base, peft.LoraConfig(
            target_modules=list(MODULES), r=4, lora_alpha=6, **options))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.normal_(0.0, 0.2)
    return model.eval()


@pytest.mark.parametrize("name", ["mistral", "llama", "gemma2"])
def test_live_peft_and_we_agree_on_all_seven_modules(name, tmp_path):
    """Theirs read here, and that written by us read there: the same logits."""
    theirs, (model, _, expected) = theirs_with(name), setup(name)
    theirs.save_pretrained(tmp_path / "theirs")
    lora, ids = load_peft(tmp_path / "theirs"), expected["ids"]
    assert list(lora[0]) == list(MODULES)
    with torch.no_grad():
        logits = theirs(ids).logits
    torch.testing.assert_close(model(ids, lora=lora), logits, atol=1e-4, rtol=1e-4)
    for m in MODULES:                                                # each of them matters
        without = tuple({k: w for k, w in side.items() if k != m} for side in lora)
        assert (model(ids, lora=without) - logits).abs().max() > 1e-2

    other = map_lora(lora, lambda w: w + 0.1)
    save_peft(tmp_path / "ours", *other, base_model="tiny")
    assert set(json.loads((tmp_path / "ours" / "adapter_config.json").read_text())[
        "target_modules"]) == set(MODULES)
    theirs.load_adapter(tmp_path / "ours", "ours")
    theirs.set_adapter("ours")
    with torch.no_grad():
        found = theirs.eval()(ids).logits
    torch.testing.assert_close(found, model(ids, lora=other), atol=1e-4, rtol=1e-4)
    assert (found - logits).abs().max() > 1e-2


@pytest.mark.parametrize("rslora", [False, True])
def test_live_patterns_of_ranks_and_alphas_mean_what_they_mean_in_peft(rslora, tmp_path):
    """A rank and an alpha of their own for a module, for a layer's module, for a whole name."""
    theirs = theirs_with("llama", use_rslora=rslora, rank_pattern={
        "layers.1.self_attn.q_proj": 2, "q_proj": 3, "^model.layers.0.mlp.up_proj": 5},
        alpha_pattern={"mlp.down_proj": 1, "o_proj": 20, r"layers\.2\.mlp\.up_proj": 9})
    theirs.save_pretrained(tmp_path)
    model, _, expected = setup("llama")
    A, B = load_peft(tmp_path)
    assert {w.shape[-2] for w in A.values()} == {5} and not A["q_proj"][1, 2:].any()
    with torch.no_grad():
        logits = theirs(expected["ids"]).logits
    torch.testing.assert_close(model(expected["ids"], lora=(A, B)), logits, atol=1e-4, rtol=1e-4)

    # Negative controls: without its patterns it is refused, or another adapter.
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for field, found in (("alpha_pattern", None), ("rank_pattern", "found ranks 2, 3, 4, 5"),
                         ("rank_pattern", "says r 4, its tensors have rank 3 in model.layers.0")):
        changed = {"alpha_pattern": {}} if found is None else {
            "rank_pattern": {"q_proj": 4, "up_proj": 5} if "says" in found else {}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | changed))
        if found is None:
            assert (model(expected["ids"], lora=load_peft(tmp_path)) - logits).abs().max() > 1e-2
        else:
            with pytest.raises(UserError, match=found):
                load_peft(tmp_path)


@pytest.mark.parametrize("options, said", [
    ({"layers_to_transform": [0, 2]}, "layers_to_transform=.0, 2.; an adapter of all layers"),
    ({"layers_to_transform": [0], "layers_pattern": "layers"}, "layers_to_transform=.0.;"),
    ({"rank_pattern": {r"layers.\d+.mlp.*": 2}}, "rank_pattern=.*only names of modules"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"use_dora": True}, "use_dora"),
    ({"bias": "all"}, "bias='all' .expected none"), ({"init_lora_weights": "olora"}, "'olora'"),
    ({"init_lora_weights": "pissa"}, "'pissa'"), ({"lora_bias": True}, "lora_bias"),
    ({"trainable_token_indices": [3]}, "trainable_token_indices"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out")])
def test_live_what_peft_can_do_beyond_is_refused_by_name(options, said, tmp_path):
    """As PEFT itself writes it, where it can for a model of Linears."""
    if options.keys() & {"fan_in_fan_out"}:                          # PEFT resets it for a Linear
        foreign(tmp_path, options)
    else:
        theirs_with("mistral", **options).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"found peft_type 'LORA'.*{said}"):
        load_peft(tmp_path)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "eva"])
def test_starts_that_leave_the_base_as_it_is_are_read(init, tmp_path):
    foreign(tmp_path, {"init_lora_weights": init})
    assert load_peft(tmp_path)[0]["q_proj"].any()


def test_an_adapter_that_does_not_say_its_model_warns(tmp_path):
    _, lora, _ = setup("llama")
    with pytest.warns(UserWarning, match="will not say which model it is for; save_peft takes"):
        save_peft(tmp_path / "a", *lora)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_peft(tmp_path / "b", *lora, base_model="tiny")
    assert "tiny" in (tmp_path / "b" / "adapter_config.json").read_text()


@pytest.mark.parametrize("config, tensors, said", [
    ({"layers_to_transform": [0, 1]}, {}, "layers_to_transform=.0, 1.; an adapter of all layers"),
    ({"layers_to_transform": 0}, {}, "layers_to_transform=0;"),
    ({"r": 32}, {}, "says r 32, its tensors have rank 64"), ({"r": 64.0}, {}, "r=64.0"),
    ({"lora_alpha": float("nan")}, {}, "lora_alpha nan"), ({"lora_alpha": True}, {}, "alpha True"),
    ({"use_rslora": "no"}, {}, "use_rslora='no'"), ({"base_model_name_or_path": [1]}, {}, "=.1."),
    ({}, {LAST.format("B"): torch.zeros(48, 64, dtype=torch.int8)}, "stored as int8"),
    ({}, {LAST.format("B"): torch.full((48, 64), 3e38)}, "too large to add up"),
    ({"lora_alpha": 1e8}, {LAST.format("B"): torch.full((48, 64), 1e33)}, "times its scale")])
def test_more_adapters_that_are_refused(config, tensors, said, tmp_path):
    foreign(tmp_path, config, **tensors)
    with pytest.raises(UserError, match=said):
        load_peft(tmp_path)


@pytest.mark.parametrize("changed", [lambda key, w: w[:0] if "_A" in key else w[:, :0],
                                     lambda key, w: w[:, :0] if "_A" in key else w])
def test_adapters_without_numbers(changed, tmp_path):
    """Rank 0, and an A without columns."""
    foreign(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({k: changed(k, w).contiguous() for k, w in load_file(file).items()}, file)
    with pytest.raises(UserError, match="holds tensors without numbers"):
        load_peft(tmp_path)
