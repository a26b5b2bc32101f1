"""The hypernetwork: the paper's counts, every shape, the authors' outputs, initialisation."""
import math
import random

import pytest
import torch
from conftest import GOLDEN

import encoder as encoder_ops
import mistral
import t2l as t2l_ops

MISTRAL_7B = dict(n_layers=32, modules={"q_proj": (4096, 4096), "v_proj": (4096, 1024)})
SMOLLM2 = dict(n_layers=30, modules={"q_proj": (576, 576), "v_proj": (576, 192)})
COUNTS = {  # arXiv 2506.06105: 16 one-hot tasks without head bias; with gte-large and head bias
    ("L", 16, False): 55_252_992, ("L", 1024, True): 55_424_000,
    ("M", 16, False): 34_282_240, ("M", 1024, True): 34_412_288,
    ("S", 16, False): 4_923_392, ("S", 1024, True): 4_996_096}


def made(arch: str, **sizes) -> t2l_ops.T2L:
    """A hypernetwork whose heads are not at their initial zero."""
    t2l = t2l_ops.T2L(t2l_ops.Config(arch, **sizes)).eval()
    for head in t2l.heads.values():
        torch.nn.init.normal_(head.weight, std=0.1)
    return t2l


@pytest.mark.parametrize("arch, emb, bias", COUNTS)
def test_parameter_counts_for_mistral_7b(arch, emb, bias):
    with torch.device("meta"):
        t2l = t2l_ops.T2L(t2l_ops.Config(arch, emb, head_bias=bias, **MISTRAL_7B))
    assert sum(p.numel() for p in t2l.parameters()) == COUNTS[arch, emb, bias]


LLAMA_8B = MISTRAL_7B                                     # the same widths and layers
GEMMA_2B = dict(n_layers=26, modules={"q_proj": (2304, 2048), "v_proj": (2304, 1024)})


def counted_by_hand(arch: str, e: int, z: int, h: int, n_layers: int, modules: dict) -> int:
    """The weights, added up from the paper's description of each block (biases everywhere)."""
    def linear(a, b):
        return a * b + b
    r = 8
    task = linear(e, z // 2) + 2 * (z // 2)
    ids = (n_layers + len(modules)) * (z // 4) + 2 * 2 * (z // 4)         # and their LayerNorms
    wide = linear(z, 4 * z) + linear(4 * z, z)
    trunk = wide + 2 * (2 * z + wide) + 2 * z + linear(z, 4 * z) + linear(4 * z, h)
    heads = sum(linear(h, {"L": r * (a + b), "M": r * max(a, b), "S": max(a, b)}[arch])
                for a, b in modules.values())
    marks = 0 if arch == "L" else len(modules) * 2 * z + 2 * z            # A or B, its LayerNorm
    return task + ids + trunk + heads + marks + (r * z + 2 * z if arch == "S" else 0)


@pytest.mark.parametrize("arch", "LMS")
@pytest.mark.parametrize("model", [LLAMA_8B, GEMMA_2B], ids=["llama-3.1-8b", "gemma-2-2b"])
@pytest.mark.parametrize("latent, head_in", [(128, 512), (512, 2048)], ids=["paper", "released"])
def test_parameter_counts_for_llama_and_gemma(arch, model, latent, head_in):
    with torch.device("meta"):
        t2l = t2l_ops.T2L(t2l_ops.Config(arch, 1024, latent=latent, head_in=head_in, **model))
    count = sum(p.numel() for p in t2l.parameters())
    assert count == counted_by_hand(arch, 1024, latent, head_in, **model)
    if (arch, model, latent) == ("L", LLAMA_8B, 128):     # the formula itself, against the paper's
        assert count == COUNTS["L", 1024, True]


def test_one_lora_of_mistral_7b_has_the_papers_size():
    with torch.device("meta"):
        t2l = t2l_ops.T2L(t2l_ops.Config("S", 16, **MISTRAL_7B))
    sizes = [n for sides in t2l.cfg.modules.values() for n in sides]
    assert t2l.cfg.n_layers * t2l.cfg.rank * sum(sizes) == 3_407_872


@pytest.mark.parametrize("sizes", [SMOLLM2, None], ids=["smollm2", "random"])
@pytest.mark.parametrize("arch", "LMS")
def test_shapes_of_every_head_layer_and_module(arch, sizes):
    rng = random.Random()
    sizes = sizes or dict(n_layers=rng.randint(1, 5), rank=rng.randint(1, 9), modules={
        "q_proj": (rng.randint(3, 40), rng.randint(3, 40)),
        "v_proj": (rng.randint(3, 40), rng.randint(3, 40))})
    b, emb, n, r = rng.randint(1, 4), rng.randint(2, 30), sizes["n_layers"], sizes.get("rank", 8)
    t2l = made(arch, emb_size=emb, **sizes)
    A, B = t2l(torch.randn(b, emb))
    for module, (d_in, d_out) in sizes["modules"].items():
        out = {"L": r * (d_in + d_out), "M": r * max(d_in, d_out), "S": max(d_in, d_out)}[arch]
        assert t2l.heads[module].weight.shape == (out, 512)
        assert A[module].shape == (b, n, r, d_in) and B[module].shape == (b, n, d_out, r)
        for w in (A[module], B[module]):           # layers, and texts if several, differ
            assert w.isfinite().all()
            assert n == 1 or (w[:, 0] != w[:, 1]).any()
            assert b == 1 or (w[0] != w[1]).any()


@pytest.mark.parametrize("arch", "LMS")
def test_initial_adapter(arch):
    """L starts exactly at the base model; M and S at the paper's small random adapter."""
    t2l = t2l_ops.T2L(t2l_ops.Config(arch, 24, **SMOLLM2)).eval()
    A, B = t2l(torch.randn(2, 24))
    bound = {"L": 1 / math.sqrt(576),
             "M": 1 / math.sqrt(2 * 576),
             "S": 1 / math.sqrt(16 * 576)}[arch]
    for module in A:
        assert 0.98 * bound < A[module].abs().max() <= bound
        assert torch.equal(A[module][0], A[module][1])          # heads of zero weight: no task yet
        if arch == "L":
            assert not B[module].any()
        else:
            assert 0.9 * bound < B[module].abs().max() <= bound


@pytest.mark.parametrize("arch", "LMS")
def test_save_and_load_then_description_to_adapted_model(arch, tmp_path):
    """The whole contract on tiny models: load_t2l, generate_lora, apply_lora, one or many texts."""
    model = mistral.load_model(GOLDEN / "llama", torch.float32)
    encoder = encoder_ops.load_encoder(GOLDEN / "bert")
    cfg = t2l_ops.for_model(model.cfg, arch, encoder)
    t2l = made(arch, **{k: v for k, v in vars(cfg).items() if k != "arch"})
    t2l_ops.save_t2l(t2l, tmp_path, torch.float32, {"mode": "sft"})
    again = t2l_ops.load_t2l(tmp_path)
    assert again.cfg == t2l.cfg
    texts = ["say it twice", "shout"]
    A, B = t2l_ops.generate_lora(again, texts)              # loads the encoder named in config.json
    one_A, one_B = t2l_ops.generate_lora(t2l, texts[1], encoder)
    raw_A, raw_B = t2l(t2l_ops.embed(encoder, texts))
    ids = torch.randint(3, 96, (2, 8))
    for m in A:
        torch.testing.assert_close(A[m][1], one_A[m], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one_B[m], raw_B[m][1] * 16 / math.sqrt(8), atol=1e-5, rtol=1e-4)
    adapted = t2l_ops.apply_lora(model, one_A, one_B)
    logits = model(ids, lora=(one_A, one_B))
    torch.testing.assert_close(adapted(ids), logits, atol=1e-3, rtol=1e-4)
    assert (logits - model(ids)).abs().max() > 1e-3
    assert t2l_ops.generate_lora(t2l, "", encoder)[0]["q_proj"].isfinite().all()
    half_A, _ = t2l_ops.generate_lora(t2l.bfloat16(), texts[1], encoder)     # in its own precision
    for m, w in half_A.items():
        assert w.dtype == torch.bfloat16
        torch.testing.assert_close(w.float(), one_A[m], atol=0.1, rtol=0.1)


def test_embeddings_are_normalised_and_end_in_a_full_stop():
    encoder = encoder_ops.load_encoder(GOLDEN / "bert")
    x = t2l_ops.embed(encoder, ["say it", "say it.", "say it!"])
    torch.testing.assert_close(x.norm(dim=1), torch.full((3,), math.sqrt(32)))
    torch.testing.assert_close(x[0], x[1])
    assert (x[1] - x[2]).abs().max() > 1e-3


def test_the_committed_checkpoint_reads_its_description(default_models):
    """Four descriptions for one input: nothing else can tell which answer is asked for."""
    model, tokenizer = mistral.load_model(), mistral.load_tokenizer()
    t2l = t2l_ops.load_t2l()
    lines = ["Write the word in capital letters.", "Put the word in double quotes.",
             "Give the first letter of the word, in lower case.",
             "Write the word followed by an exclamation mark."]
    answers = mistral.generate(model, tokenizer, ["hot"] * 4, t2l_ops.generate_lora(t2l, lines))
    assert answers == ["HOT", '"hot"', "h", "hot!"]
    file = t2l_ops.CHECKPOINT / "t2l.safetensors"
    assert file.stat().st_size < 18_000_000
