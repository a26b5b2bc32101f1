"""Low-rank adapters against PEFT: golden logits always, live where peft is installed."""
import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file

import lora as lora_ops
import mistral

FAMILIES = ["mistral", "llama"]


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
    _, metadata = lora_ops.read_safetensors(tmp_path / "a" / "adapter_model.safetensors")
    assert metadata["description"] == "Say it twice."
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]               # no scratch left


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
