"""The decoder against transformers: golden tensors always, live where transformers is installed."""
from argparse import Namespace

import pytest
import torch
from conftest import FAMILIES, GOLDEN
from safetensors.torch import load_file
from torch import Tensor

import mistral
from lora import MODULES, load_peft, map_lora, merge
from mistral import Mistral, generate, generate_ids, load_model, load_tokenizer, stream, stream_ids
from t2l import adapted_modules
from utils.cli import UserError
from utils.fused import CudaGraphs, lay_together, set_up_layers, together
from utils.modules import layer_name

pytestmark = pytest.mark.quick


def loaded(name: str) -> tuple[Mistral, dict]:
    model = load_model(GOLDEN / name, torch.float32)
    return model, load_file(GOLDEN / name / "expected.safetensors")


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_transformers(name):
    model, expected = loaded(name)
    torch.testing.assert_close(model(expected["ids"]), expected["logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_of_logits_whole_and_kept(name):
    """With no adapter, a shared one, one for each sample; and the states below the vocabulary."""
    model, expected = loaded(name)
    ids, (b, t) = expected["ids"], expected["ids"].shape
    shared = load_peft(GOLDEN / name / "adapter")
    keep = torch.arange(t).expand(b, t) >= t - 2
    assert (b, t, model.cfg.vocab_size) == (3, 20, 96) and keep.sum() == 6
    for lora in (None, shared, map_lora(shared, lambda w: torch.stack([w] * b))):
        assert model(ids, lora=lora).shape == (3, 20, 96)
        assert model(ids, lora=lora, keep=keep).shape == (6, 96)
        assert model.states(ids, lora).shape == (3, 20, 48)
        assert model.states(ids, lora, keep).shape == (6, 48)


@pytest.mark.parametrize("name", FAMILIES)
def test_long_sequences_use_the_fused_kernel_and_agree(name, monkeypatch):
    model, expected = loaded(name)
    monkeypatch.setattr(mistral, "PLAIN_ATTENTION_UP_TO", 0)
    torch.testing.assert_close(model(expected["ids"]), expected["logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("broken, name", [
    ("no rope", "llama"), ("interleaved rope", "llama"), ("no window", "mistral"),
    ("one theta", "llama"), ("not stretched", "llama3"), ("no window", "gemma2"),
    ("window everywhere", "gemma2"), ("w for 1 + w", "gemma2"), ("scores not capped", "gemma2"),
    ("logits not capped", "gemma2"), ("usual scale", "gemma2"), ("silu", "gemma2"),
    ("no bias", "qwen2"), ("no window", "qwen2"), ("window everywhere", "qwen2"),
    ("no q norm", "qwen3"), ("no k norm", "qwen3")])
def test_the_comparison_notices_a_wrong_model(broken, name, monkeypatch):
    model, expected = loaded(name)
    layers = model.model["layers"]
    if broken == "not stretched":
        model.cfg.llama3 = None
    if broken == "window everywhere":
        model.cfg.windowed = tuple(range(len(layers)))
    if broken == "logits not capped":
        model.cfg.final_logit_softcapping = None
    for layer in layers:
        if broken == "w for 1 + w":
            layer.input_layernorm.gemma = False
        if broken == "scores not capped":
            layer.self_attn.cap = None
        if broken == "usual scale":
            layer.self_attn.scale = layer.self_attn.c ** -0.5
        if broken == "no bias":
            layer.self_attn.q_proj.bias = None
        if broken in ("no q norm", "no k norm"):
            setattr(layer.self_attn, f"{broken[3]}_norm", torch.nn.Identity())
        if broken == "silu":
            layer.mlp.act = torch.nn.functional.silu
    if broken == "no rope":
        monkeypatch.setattr(mistral, "rotate", lambda x, rope: x)
    if broken == "interleaved rope":
        def neighbours(x, rope):
            order = torch.arange(x.shape[-1]).view(2, -1).T.flatten()
            return rotate(x[..., order.argsort()], rope)[..., order]
        rotate = mistral.rotate
        monkeypatch.setattr(mistral, "rotate", neighbours)
    if broken == "no window":
        model.cfg.sliding_window = None
    if broken == "one theta":
        model.cfg.rope_theta = 10000.0
    assert (model(expected["ids"]) - expected["logits"]).abs().max() > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_at_the_right_changes_nothing(name):
    model, expected = loaded(name)
    ids, n = expected["ids"], 11
    padded = torch.cat([ids[:, :n], torch.zeros(3, 5, dtype=torch.long)], 1)
    torch.testing.assert_close(model(padded)[:, :n], model(ids[:, :n]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_kept_positions_are_those_of_the_full_logits(name):
    model, expected = loaded(name)
    keep = torch.rand(expected["ids"].shape) < 0.3
    torch.testing.assert_close(model(expected["ids"], keep=keep), model(expected["ids"])[keep])


@pytest.mark.parametrize("name", FAMILIES)
def test_cached_generation_is_what_rescoring_without_a_cache_gives(name):
    """Prompts of different lengths, one adapter each, beyond the window; finished rows drop out."""
    model, _ = loaded(name)
    lengths = (3, 9, 5, 12, 4, 8, 7, 6)
    prompts = [torch.randint(3, 96, (n,)).tolist() for n in lengths]
    sizes = {m: model.get_parameter(f"{layer_name(0, m)}.weight").shape for m in MODULES}
    A = {m: 0.3 * torch.randn(8, 3, 2, d_in) for m, (_, d_in) in sizes.items()}
    B = {m: 0.3 * torch.randn(8, 3, d_out, 2) for m, (d_out, _) in sizes.items()}
    stop = tuple(range(5, 96, 5))                                     # so that some rows end early
    made = generate_ids(model, prompts, (A, B), max_new_tokens=10, stop=stop)
    assert len({len(ids) for ids in made}) > 1
    for i, (prompt, new) in enumerate(zip(prompts, made)):
        own = ({m: w[i] for m, w in A.items()}, {m: w[i] for m, w in B.items()})
        for n in range(min(len(new) + 1, 10)):
            best = model(torch.tensor([prompt + new[:n]]), lora=own)[0, -1].argmax().item()
            assert best == new[n] if n < len(new) else best in stop


def test_stepwise_generation_gives_a_token_at_a_time_and_ends_as_the_whole():
    model, _ = loaded("llama")
    prompts, stop = [[3, 4, 5], [6, 7], [8, 9, 10, 11]], tuple(range(5, 96, 5))
    whole = generate_ids(model, prompts, None, 10, stop)
    assert len({len(ids) for ids in whole}) > 1
    steps = [[list(ids) for ids in found] for found in stream_ids(model, prompts, None, 10, stop)]
    for n, found in enumerate(steps, 1):
        assert found == [ids[:n] for ids in whole]
    assert steps[-1] == whole and len(steps) == min(10, 1 + max(map(len, whole)))
    assert generate_ids(model, prompts, None, 0, stop) == [[], [], []]


def test_streamed_texts_are_those_of_generate_and_grow(monkeypatch):
    model, tokenizer = loaded("llama")[0], load_tokenizer(GOLDEN / "llama")
    prompts = ["one", "a longer second prompt"]
    found = list(stream(model, tokenizer, prompts, None, 8))
    assert found[-1] == generate(model, tokenizer, prompts, None, 8) and len(found) > 1
    assert all(b.startswith(a) for before, after in zip(found, found[1:])
               for a, b in zip(before, after))
    monkeypatch.setattr(tokenizer, "decode", lambda ids: "caf\ufffd")       # half a character
    assert next(stream(model, tokenizer, prompts, None, 8)) == ["caf", "caf"]


def test_as_many_adapters_as_prompts():
    model, tokenizer = (load(GOLDEN / "llama")
                        for load in (load_model, load_tokenizer))
    A, B = load_peft(GOLDEN / "llama" / "adapter")
    two = tuple({m: torch.stack([w, w]) for m, w in side.items()} for side in (A, B))
    with pytest.raises(ValueError, match="2 adapters for 3 prompts"):
        generate(model, tokenizer, ["a", "b", "c"], two)


def test_a_text_has_an_answer_and_a_list_has_a_list():
    """As generate_lora: one text and one adapter, or several and one for each."""
    model, tokenizer = (load(GOLDEN / "llama") for load in (load_model, load_tokenizer))
    lora = load_peft(GOLDEN / "llama" / "adapter")
    one = generate(model, tokenizer, "hot", lora)
    assert isinstance(one, str) and one and generate(model, tokenizer, ["hot"], lora) == [one]
    assert generate(model, tokenizer, ("hot",), map_lora(lora, lambda w: w[None])) == [one]
    assert generate(model, tokenizer, "hot", map_lora(lora, lambda w: w[None])) == one
    assert generate(model, tokenizer, "hot") != one and generate(model, tokenizer, []) == []


def test_a_prompt_longer_than_the_context():
    model, tokenizer = (load(GOLDEN / "llama")
                        for load in (load_model, load_tokenizer))
    with pytest.raises(UserError, match="exceed the model's 64 positions"):
        generate(model, tokenizer, ["word " * 50])


def test_a_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: PyTorch finds no CUDA device"):
        load_model(GOLDEN / "llama", device="cuda")


@pytest.mark.parametrize("name", FAMILIES)
def test_live_parity_on_random_sizes(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    from make_golden import randomised
    pick = lambda *values: values[int(torch.randint(len(values), ()))]          # noqa: E731
    torch.seed()
    k, g, c = pick(1, 2, 3), pick(1, 2, 4), pick(8, 10, 16)
    kind = {"llama3": "Llama"}.get(name, name.capitalize())
    sizes = dict(vocab_size=pick(50, 77), hidden_size=pick(24, 48), intermediate_size=pick(32, 56),
                 num_hidden_layers=pick(1, 2, 4), num_attention_heads=k * g, head_dim=c,
                 num_key_value_heads=k, rope_theta=pick(100.0, 1e5),
                 tie_word_embeddings=pick(True, False))
    if name in ("qwen2", "qwen3"):
        sizes |= dict(use_sliding_window=pick(True, False), max_window_layers=pick(0, 1, 3))
    if name in ("llama", "qwen3"):
        sizes["attention_bias"] = pick(True, False)
    if name in ("mistral", "gemma2", "qwen2", "qwen3"):
        sizes["sliding_window"] = pick(3, 8)
    if name == "gemma2":
        sizes |= dict(query_pre_attn_scalar=pick(5, 40), attn_logit_softcapping=pick(2.0, 50.0),
                      final_logit_softcapping=pick(3.0, None))
    if name == "llama3":
        theta = sizes.pop("rope_theta")
        sizes["rope_parameters"] = dict(
            rope_type="llama3", rope_theta=theta, factor=pick(2.0, 8.0), low_freq_factor=1.0,
            high_freq_factor=pick(2.0, 4.0), original_max_position_embeddings=pick(16, 40))
    cfg = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation="eager")
    theirs = randomised(getattr(transformers, f"{kind}ForCausalLM")(cfg))
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(0, sizes["vocab_size"], (pick(1, 3), pick(5, 17)))
    model = load_model(tmp_path, torch.float32)
    b, t = ids.shape
    padded = torch.cat([ids, torch.zeros(b, 3, dtype=torch.long)], 1)
    cache = [tuple(torch.zeros(b, t, k, c) for _ in "kv") for _ in model.model["layers"]]
    steps = [model(ids[:, i:j], cache=cache, positions=torch.arange(i, j).expand(b, -1))
             for i, j in [(0, 2), *((n, n + 1) for n in range(2, t))]]           # then one by one
    with torch.no_grad():
        expected = theirs(ids).logits
    for found in (model(ids), model(padded)[:, :t], torch.cat(steps, 1)):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=str(sizes))


# ------------------------------------------------------------------------- fewer and larger kernels

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


def test_cuda_graphs_give_the_layers_states_and_gradients(captured):
    model, graphed = (load_model(GOLDEN / "llama", torch.float32) for _ in "ab")
    assert lay_together(graphed)
    graphed.fused, graphed.graphs = True, CudaGraphs(graphed)
    for b, t, lead, graphs in ((2, 5, (2,), 1), (2, 11, (2,), 1), (2, 17, (2,), 2), (3, 5, (3,), 3),
                               (2, 5, (), 4), (2, 9, (2,), 4)):
        ids = torch.randint(3, 60, (b, t))
        lora = map_lora(adapter_of_all(model, *lead), lambda w: w.requires_grad_())
        weights = [w for side in lora for w in side.values()]
        wanted, found = (one(ids, lora=lora) for one in (model, graphed))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.autograd.grad(found.square().mean(), weights),
                                   torch.autograd.grad(wanted.square().mean(), weights),
                                   atol=1e-5, rtol=1e-4)
        assert len(captured) == graphs and captured[-1][0].shape[1] % 16 == 0

    # Only for training, and with the weights that they were captured with.
    with torch.no_grad():
        assert graphed(torch.randint(3, 60, (2, 40)), lora=lora).shape[1] == 40
    graphed(ids, lora=map_lora(lora, Tensor.detach))
    assert len(captured) == 5                                        # a graph without gradients
    assert merge(graphed, map_lora(lora, lambda w: w[0].detach())).graphs is None


def test_models_that_cannot_be_captured():
    args = Namespace(activation_checkpointing=False, cuda_graphs=True, compile=False)
    with pytest.raises(UserError, match="--cuda-graphs is for models like Llama"):
        set_up_layers(load_model(GOLDEN / "gemma2", torch.float32), args)


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
