"""Layers with fewer and larger kernels (what a GPU runs) against the plain ones, on the CPU."""
import pytest
import torch
from conftest import FAMILIES, GOLDEN
from safetensors.torch import load_file

from lora import MODULES, map_lora, merge
from mistral import load_model
from t2l import adapted_modules
from utils.fused import lay_together, together

pytestmark = pytest.mark.quick
PLAIN = [name for name in FAMILIES if name in ("mistral", "llama", "llama3")]


def adapter_of_all(model, *lead: int):
    n, r = model.cfg.num_hidden_layers, 3
    sizes = adapted_modules(model.cfg, MODULES)
    return ({m: 0.3 * torch.randn(*lead, n, r, d) for m, (d, _) in sizes.items()},
            {m: 0.3 * torch.randn(*lead, n, d, r) for m, (_, d) in sizes.items()})


@pytest.mark.parametrize("name", PLAIN)
def test_the_same_logits_and_gradients(name):
    model = load_model(GOLDEN / name, torch.float32)
    ids = load_file(GOLDEN / name / "expected.safetensors")["ids"]
    ids = ids[:, :model.cfg.sliding_window or 99]               # beyond it the plain layers run
    for lead in ((), (len(ids),)):
        lora = map_lora(adapter_of_all(model, *lead), lambda w: w.requires_grad_())
        expected = model(ids, lora=lora)
        wanted = torch.autograd.grad(expected.square().mean(), [*lora[0].values()])
        before = {k: w.clone() for k, w in model.state_dict().items()}
        assert lay_together(model)
        model.fused = True
        found = model(ids, lora=lora)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.autograd.grad(found.square().mean(), [*lora[0].values()]),
                                   wanted, atol=1e-5, rtol=1e-4)
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(w, before[k]) for k, w in model.state_dict().items())
        model.fused = False


def test_a_window_shorter_than_the_text_and_a_merged_adapter():
    model = load_model(GOLDEN / "mistral", torch.float32)
    expected = load_file(GOLDEN / "mistral" / "expected.safetensors")
    ids, lora = expected["ids"], adapter_of_all(model)
    short = ids[:, :model.cfg.sliding_window]
    assert short.shape[1] < ids.shape[1]
    wanted = model(short, lora=lora)
    assert lay_together(model)
    model.fused = True
    torch.testing.assert_close(model(ids), expected["logits"], atol=1e-5, rtol=1e-5)
    merged = merge(model, lora)
    assert merged.fused
    torch.testing.assert_close(merged(short), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(short, lora=lora), wanted, atol=1e-5, rtol=1e-5)


def test_weights_that_lie_together_are_read_without_a_copy():
    model = load_model(GOLDEN / "llama", torch.float32)
    attention = model.model["layers"][0].self_attn
    linears = [attention.q_proj, attention.k_proj, attention.v_proj]
    whole = torch.cat([linear.weight for linear in linears])
    assert together(linears).data_ptr() != linears[0].weight.data_ptr()
    lay_together(model)
    assert together(linears).data_ptr() == linears[0].weight.data_ptr()
    assert torch.equal(together(linears), whole)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in PLAIN])
def test_other_families_keep_their_own_layers(name):
    assert not lay_together(load_model(GOLDEN / name, torch.float32))
