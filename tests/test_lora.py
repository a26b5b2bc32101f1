"""Low-rank adapters against PEFT: golden logits always, live where transformers is installed."""
import itertools

import pytest
import torch
from conftest import FAMILIES, GOLDEN, random_lora
from safetensors.torch import load_file

from lora import (MODULES, LoRA, load_peft, lora_linear, map_lora, merge, mix_loras,
                  save_peft)
from mistral import load_model
from t2l import apply_lora
from utils.cli import UserError
from utils.modules import layer_name

pytestmark = pytest.mark.quick


def setup(name: str):
    folder = GOLDEN / name
    return (load_model(folder, torch.float32), load_peft(folder / "adapter"),
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


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])         # qwen2's modules have biases
def test_one_adapter_per_sample_equals_each_alone_and_merged(name):
    model, (A, B), expected = setup(name)
    b, ids = 3, expected["ids"]
    A = {m: torch.stack([w + 0.1 * torch.randn_like(w) for _ in range(b)]) for m, w in A.items()}
    B = {m: torch.stack([w + 0.1 * torch.randn_like(w) for _ in range(b)]) for m, w in B.items()}
    together, before = model(ids, lora=(A, B)), model(ids)
    for i in range(b):
        own = ({m: w[i] for m, w in A.items()}, {m: w[i] for m, w in B.items()})
        torch.testing.assert_close(together[i:i + 1], model(ids[i:i + 1], lora=own),
                                   atol=1e-4, rtol=1e-5)
        merged = merge(model, own)
        torch.testing.assert_close(together[i:i + 1], merged(ids[i:i + 1]), atol=1e-4, rtol=1e-5)
        assert merged.model["norm"].weight is model.model["norm"].weight     # shared, not copied
    assert torch.equal(before, model(ids))                                   # the base is untouched


def sizes_in(folder) -> dict[str, tuple[int, int]]:
    """The adapted modules' (d_out, d_in), as the model's own weights say."""
    weights = load_file(folder / "model.safetensors")
    return {m: tuple(weights[f"{layer_name(0, m)}.weight"].shape) for m in MODULES}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_of_an_adapter_for_every_family_and_module(name, module):
    """One module adapted alone, shared or sample by sample; every size wrong by one is refused."""
    model, _, expected = setup(name)
    (d_out, d_in), ids = sizes_in(GOLDEN / name)[module], expected["ids"]
    right = {"n": 3, "r": 4, "d_in": d_in, "d_out": d_out}

    def adapter(*lead: int, **wrong: int) -> LoRA:
        n, r, d_in, d_out = (right | wrong).values()
        return ({module: torch.randn(*lead, n, r, d_in)}, {module: torch.randn(*lead, n, d_out, r)})

    for lead in ((), (3,)):
        lora = adapter(*lead)
        assert (model(ids, lora=lora) - model(ids)).abs().max() > 1e-2
        for size, by in itertools.product(right, (-1, 1)):
            wrong = adapter(*lead, **{size: right[size] + by})
            if size == "r":                                # any rank will do, if both sides agree
                assert model(ids, lora=wrong).shape == (3, 20, 96)
                wrong = (wrong[0], lora[1])
            with pytest.raises(ValueError, match=f"{module} (is|has A)"):
                model(ids, lora=wrong)
            if not lead:
                with pytest.raises(ValueError, match=f"{module}"):
                    merge(model, wrong)
    for b in (2, 4):                                       # adapters for three samples
        with pytest.raises(ValueError, match="for each of 3 samples"):
            model(ids, lora=adapter(b))


def test_shapes_of_one_adapted_layer():
    """lora_linear on its own: W (d_out, d_in), A (r, d_in), B (d_out, r), shared or (b, …)."""
    x, linear = torch.randn(2, 5, 7), torch.nn.Linear(7, 11, bias=False)
    for lead in ((), (2,)):
        adapter = torch.randn(*lead, 3, 7), torch.randn(*lead, 11, 3)
        y = lora_linear(x, linear, adapter)
        assert y.shape == lora_linear(x, linear, None).shape == (2, 5, 11)
        expected = x @ (linear.weight + adapter[1] @ adapter[0]).transpose(-1, -2)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_the_mix_of_adapters_is_the_sum_of_their_deltas():
    """Shared or one a sample, of other ranks too; a single one's weight is its strength."""
    for lead in ((), (3,)):
        first, second = random_lora(*lead), map_lora(random_lora(*lead), torch.randn_like)
        second = {m: w[..., :1, :] for m, w in second[0].items()}, {
            m: w[..., :1] for m, w in second[1].items()}
        A, B = mix_loras([(first, 0.5), (second, -2.0)])
        for m in A:
            expected = 0.5 * first[1][m] @ first[0][m] - 2 * second[1][m] @ second[0][m]
            assert expected.abs().max() > 1 and A[m].shape[-2] == first[0][m].shape[-2] + 1
            torch.testing.assert_close(B[m] @ A[m], expected, atol=1e-5, rtol=1e-5)
        A, B = mix_loras([(first, 2.0)])
        assert all(torch.equal(A[m], first[0][m]) and torch.equal(B[m], 2 * first[1][m]) for m in A)


def test_gradients_reach_every_entry_of_every_adapter():
    model, (A, B), expected = setup("mistral")
    leaves = [w.expand(3, *w.shape).clone().requires_grad_() for w in (*A.values(), *B.values())]
    lora = (dict(zip(A, leaves[:2])), dict(zip(B, leaves[2:])))
    model(expected["ids"], lora=lora).square().mean().backward()
    assert all((leaf.grad != 0).all() for leaf in leaves)


def test_adapters_that_do_not_fit(tmp_path):
    model = load_model(GOLDEN / "llama", torch.float32)
    A, B = load_peft(GOLDEN / "mistral" / "adapter")                # another head_dim
    with pytest.raises(UserError, match="does not fit the model"):
        apply_lora(model, A, B)
    batch = map_lora((A, B), lambda w: w[None])
    for take in (lambda: apply_lora(model, *batch),
                 lambda: save_peft(tmp_path / "batch", *batch)):
        with pytest.raises(ValueError, match="one adapter is needed here, not a batch"):
            take()
    own = load_peft(GOLDEN / "llama" / "adapter")
    for odd in ((own[0], {"q_proj": own[1]["q_proj"]}),
                (own[0], map_lora(own, lambda w: w[:2])[1]),
                (own[0], map_lora(own, lambda w: w[..., :1])[1])):
        with pytest.raises(ValueError, match="has A .* and B"):
            model(torch.zeros(1, 4, dtype=torch.long), lora=odd)
    short = tuple({m: w[:2] for m, w in side.items()} for side in
                  load_peft(GOLDEN / "llama" / "adapter"))
    with pytest.raises(ValueError, match="does not fit the model: its q_proj is"):
        model(torch.zeros(1, 4, dtype=torch.long), lora=short)
    with pytest.raises(UserError, match="adapter_config.json does not exist"):
        load_peft(tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_live_apply_lora_takes_a_transformers_model(name):
    """And the pair, or A and B one after the other."""
    transformers = pytest.importorskip("transformers")
    _, lora, expected = setup(name)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        GOLDEN / name, attn_implementation="eager")
    adapted = apply_lora(theirs, lora) if name != "mistral" else apply_lora(theirs, *lora)
    assert type(adapted) is type(theirs)
    with torch.no_grad():
        torch.testing.assert_close(adapted(expected["ids"]).logits, expected["lora_logits"],
                                   atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(theirs(expected["ids"]).logits, expected["logits"],
                                   atol=1e-4, rtol=1e-4)                 # left as it was
    new = adapted.generate(expected["ids"][:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert new.shape[1] == expected["ids"].shape[1] + 3


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_an_adapter_of_a_module_acts_as_if_merged(name, module):
    model = load_model(GOLDEN / name, torch.float32)
    d_out, d_in = sizes_in(GOLDEN / name)[module]
    n, ids = model.cfg.num_hidden_layers, torch.arange(3, 12)[None]
    lora = ({module: 0.3 * torch.randn(n, 2, d_in)}, {module: 0.3 * torch.randn(n, d_out, 2)})
    torch.testing.assert_close(model(ids, lora=lora), merge(model, lora)(ids), atol=1e-4, rtol=1e-4)
    assert (model(ids, lora=lora) - model(ids)).abs().max() > 1e-2


def test_what_is_no_adapter_says_what_was_expected():
    """Of another module, of none, or nothing of the kind."""
    model, (A, B), expected = setup("llama")
    for wrong, said in ((({"lm_head": A["q_proj"]}, {"lm_head": B["q_proj"]}), "is of 'lm_head'"),
                        (({}, {}), "no layer reads it"), (A, "two dicts by module, found a dict"),
                        ((A, B, A), "found a tuple of 3"), ([A["q_proj"]] * 2, "a list of 2")):
        for take in (lambda: model(expected["ids"], lora=wrong), lambda: apply_lora(model, wrong)):
            with pytest.raises(ValueError, match=said):
                take()
