"""The hypernetwork: the paper's counts, every shape, initialisation, description → a new model."""
import json
import math
import random
import re
import shutil

import pytest
import torch
from conftest import FAMILIES, GOLDEN, TINY, command, refused
from safetensors import safe_open

from encoder import embed, load_encoder
from lora import MODULES, TARGETS, LoRA, load_peft
from mistral import generate, load_model, load_tokenizer
from t2l import HEADS, T2L, T2LConfig, apply_lora, generate_lora, load_t2l, save_t2l, t2l_config
from utils.cli import UserError
from utils.modules import layer_name
from utils.peft import same_model

pytestmark = pytest.mark.quick

MISTRAL_7B = dict(n_layers=32, rank=8, modules={"q_proj": (4096, 4096), "v_proj": (4096, 1024)})

SMOLLM2 = dict(n_layers=30, modules={"q_proj": (576, 576), "v_proj": (576, 192)})

COUNTS = {  # arXiv 2506.06105: 16 one-hot tasks without head bias; with gte-large and head bias
    ("L", 16, False): 55_252_992, ("L", 1024, True): 55_424_000,
    ("M", 16, False): 34_282_240, ("M", 1024, True): 34_412_288,
    ("S", 16, False): 4_923_392, ("S", 1024, True): 4_996_096}


def made(arch: str, **sizes) -> T2L:
    """A hypernetwork whose heads are not at their initial zero."""
    t2l = T2L(T2LConfig(arch, **sizes)).eval()
    at_zero = t2l.bank.B.values() if arch == "bank" else [x.weight for x in t2l.heads.values()]
    for weight in at_zero:
        torch.nn.init.normal_(weight, std=0.1)
    return t2l


@pytest.mark.parametrize("arch, emb, bias", COUNTS)
def test_parameter_counts_for_mistral_7b(arch, emb, bias):
    with torch.device("meta"):
        t2l = T2L(T2LConfig(arch, emb, head_bias=bias, **MISTRAL_7B))
    assert sum(p.numel() for p in t2l.parameters()) == COUNTS[arch, emb, bias]


LLAMA_8B = MISTRAL_7B                                     # the same widths and layers

GEMMA_2B = dict(n_layers=26, rank=8, modules={"q_proj": (2304, 2048), "v_proj": (2304, 1024)})


def counted_by_hand(arch: str, e: int, z: int, h: int, n_layers: int, rank: int,
                    modules: dict) -> int:
    """The weights, added up from the paper's description of each block (biases everywhere)."""
    def linear(a, b):
        return a * b + b
    r = rank
    if arch == "bank":                         # its code, N bases for each module, their weights
        N = T2LConfig.bases
        return linear(e, z) + 2 * z + sum(N * r * (a + b) + linear(z, n_layers * 2 * N)
                                          for a, b in modules.values())
    task = linear(e, z // 2) + 2 * (z // 2)
    ids = (n_layers + len(modules)) * (z // 4) + 2 * 2 * (z // 4)         # and their LayerNorms
    wide = linear(z, 4 * z) + linear(4 * z, z)
    trunk = wide + 2 * (2 * z + wide) + 2 * z + linear(z, 4 * z) + linear(4 * z, h)
    heads = sum(linear(h, {"L": r * (a + b), "M": r * max(a, b), "S": max(a, b)}[arch])
                for a, b in modules.values())
    marks = 0 if arch == "L" else len(modules) * 2 * z + 2 * z            # A or B, its LayerNorm
    return task + ids + trunk + heads + marks + (r * z + 2 * z if arch == "S" else 0)


@pytest.mark.parametrize("arch", list(HEADS))
@pytest.mark.parametrize("model", [LLAMA_8B, GEMMA_2B], ids=["llama-3.1-8b", "gemma-2-2b"])
@pytest.mark.parametrize("latent, head_in", [(128, 512), (512, 2048)], ids=["paper", "released"])
def test_parameter_counts_for_llama_and_gemma(arch, model, latent, head_in):
    with torch.device("meta"):
        t2l = T2L(T2LConfig(arch, 1024, latent=latent, head_in=head_in, **model))
    count = sum(p.numel() for p in t2l.parameters())
    assert count == counted_by_hand(arch, 1024, latent, head_in, **model)
    if (arch, model, latent) == ("L", LLAMA_8B, 128):     # the formula itself, against the paper's
        assert count == COUNTS["L", 1024, True]


def test_one_lora_of_mistral_7b_has_the_papers_size():
    with torch.device("meta"):
        t2l = T2L(T2LConfig("S", 16, **MISTRAL_7B))
    sizes = [n for sides in t2l.cfg.modules.values() for n in sides]
    assert t2l.cfg.n_layers * t2l.cfg.rank * sum(sizes) == 3_407_872


@pytest.mark.parametrize("sizes", [SMOLLM2, None], ids=["smollm2", "random"])
@pytest.mark.parametrize("arch", list(HEADS))
def test_shapes_of_every_head_layer_and_module(arch, sizes):
    rng = random.Random()
    sizes = sizes or dict(n_layers=rng.randint(1, 5), rank=rng.randint(1, 9), modules={
        "q_proj": (rng.randint(3, 40), rng.randint(3, 40)),
        "v_proj": (rng.randint(3, 40), rng.randint(3, 40))})
    b, emb, n, r = rng.randint(1, 4), rng.randint(2, 30), sizes["n_layers"], \
        sizes.get("rank", T2LConfig.rank)
    t2l = made(arch, emb_size=emb, **sizes)
    A, B = t2l(torch.randn(b, emb))
    for module, (d_in, d_out) in sizes["modules"].items():
        if arch == "bank":
            assert t2l.bank.A[module].shape == (T2LConfig.bases, r, d_in)
            assert t2l.bank.B[module].shape == (T2LConfig.bases, r, d_out)
        else:
            out = {"L": r * (d_in + d_out), "M": r * max(d_in, d_out), "S": max(d_in, d_out)}[arch]
            assert t2l.heads[module].weight.shape == (out, T2LConfig.head_in)
        assert A[module].shape == (b, n, r, d_in) and B[module].shape == (b, n, d_out, r)
        for w in (A[module], B[module]):           # layers, and texts if several, differ
            assert w.isfinite().all()
            assert n == 1 or (w[:, 0] != w[:, 1]).any()
            assert b == 1 or (w[0] != w[1]).any()


@pytest.mark.parametrize("modules", [TARGETS, tuple(MODULES)], ids=["usual", "all"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("arch", list(HEADS))
def test_shapes_of_every_head_for_every_family(arch, name, modules):
    """raw, forward, adapters, generate_lora of one text and of several: they fit the model."""
    model, encoder = load_model(GOLDEN / name, torch.float32), load_encoder(GOLDEN / "bert")
    cfg = t2l_config(model.cfg, arch, encoder, modules[::-1])               # in any order
    t2l = made(arch, **{k: v for k, v in vars(cfg).items() if k != "arch"})
    weights = {m: model.get_parameter(f"{layer_name(0, m)}.weight") for m in modules}
    assert list(t2l.cfg.modules) == list(modules)

    def check(lora: LoRA, *lead: int) -> None:
        for m, W in weights.items():
            d_out, d_in = W.shape
            assert lora[0][m].shape == (*lead, 3, cfg.rank, d_in)          # A (…, n, r, d_in)
            assert lora[1][m].shape == (*lead, 3, d_out, cfg.rank)         # B (…, n, d_out, r)
        ids = torch.randint(3, 96, (lead or (2,)) + (5,))
        assert model(ids, lora=lora).shape == (*(lead or (2,)), 5, 96)

    for b in (1, 3):
        emb = embed(encoder, ["say it", "shout", "be brief"][:b])
        assert emb.shape == (b, 32)
        for emit in (t2l.raw, t2l.forward, t2l.adapters):
            check(emit(emb), b)
        check(generate_lora(t2l, ["say it", "shout", "be brief"][:b], encoder), b)
    check(generate_lora(t2l, "say it", encoder))


@pytest.mark.parametrize("arch", list(HEADS))
def test_shapes_of_embeddings_that_t2l_does_not_read(arch):
    t2l = made(arch, emb_size=24, **SMOLLM2)
    for shape in ((2, 23), (2, 25), (24,), (1, 2, 24)):
        for emit in (t2l.raw, t2l.forward, t2l.adapters):
            with pytest.raises(ValueError, match=re.escape(f"task_emb is {shape}")):
                emit(torch.zeros(shape))


def test_a_bank_adds_up_bases_by_weights_linear_in_the_code():
    """Against loops over layers and bases; and what a code in the middle of two others gives."""
    t2l = made("bank", emb_size=5, n_layers=2, rank=3, latent=4, bases=6,
               modules={"q_proj": (7, 8), "v_proj": (7, 2)})
    codes = torch.randn(2, 4)
    for module, (d_in, d_out) in t2l.cfg.modules.items():
        A, B = t2l.bank(module, codes)
        linear = t2l.bank.weights[module]
        said = (codes @ linear.weight.T + linear.bias).view(2, 2, 2, 6)     # b, layer, side, base
        for i in range(2):
            for layer in range(2):
                for side, found, width in ((0, A, d_in), (1, B, d_out)):
                    bases = (t2l.bank.A, t2l.bank.B)[side][module]
                    wanted = sum(w * base for w, base in zip(said[i, layer, side], bases))
                    assert found.shape == (2, 2, 3, width)
                    torch.testing.assert_close(found[i, layer], wanted, atol=1e-5, rtol=1e-5)
        middle = t2l.bank(module, codes.mean(0, keepdim=True))
        for whole, half in zip((A, B), middle):
            torch.testing.assert_close(whole.mean(0), half[0], atol=1e-5, rtol=1e-5)


def test_a_bank_starts_at_the_base_model():
    t2l = T2L(T2LConfig("bank", 24, **SMOLLM2)).eval()
    A, B = t2l(torch.randn(16, 24))
    for module in A:
        assert A[module].std().item() == pytest.approx(576 ** -0.5, rel=0.1)
        assert not B[module].any()


@pytest.mark.parametrize("arch", "LMS")
def test_initial_adapter(arch):
    """L starts exactly at the base model; M and S at the paper's small random adapter."""
    t2l = T2L(T2LConfig(arch, 24, **SMOLLM2)).eval()
    A, B = t2l(torch.randn(2, 24))
    bound = {"L": 1 / math.sqrt(576),
             "M": 1 / math.sqrt(2 * 576),
             "S": 1 / math.sqrt(2 * T2LConfig.rank * 576)}[arch]
    for module in A:
        assert 0.98 * bound < A[module].abs().max() <= bound
        assert torch.equal(A[module][0], A[module][1])          # heads of zero weight: no task yet
        if arch == "L":
            assert not B[module].any()
        else:
            assert 0.9 * bound < B[module].abs().max() <= bound


@pytest.mark.parametrize("arch", list(HEADS))
def test_save_and_load_then_description_to_adapted_model(arch, tmp_path):
    """The whole contract on tiny models: load_t2l, generate_lora, apply_lora, one or many texts."""
    model = load_model(GOLDEN / "llama", torch.float32)
    encoder = load_encoder(GOLDEN / "bert")
    cfg = t2l_config(model.cfg, arch, encoder)
    t2l = made(arch, **{k: v for k, v in vars(cfg).items() if k != "arch"})
    save_t2l(t2l, tmp_path, torch.float32, {"mode": "sft"})
    again = load_t2l(tmp_path)
    assert again.cfg == t2l.cfg
    texts = ["say it twice", "shout"]
    A, B = generate_lora(again, texts)              # loads the encoder named in config.json
    one_A, one_B = generate_lora(t2l, texts[1], encoder)
    raw_A, raw_B = t2l(embed(encoder, texts))
    ids = torch.randint(3, 96, (2, 8))
    for m in A:
        torch.testing.assert_close(A[m][1], one_A[m], atol=1e-5, rtol=1e-4)
        scale = cfg.alpha / math.sqrt(cfg.rank)
        torch.testing.assert_close(one_B[m], raw_B[m][1] * scale, atol=1e-5, rtol=1e-4)
    adapted = apply_lora(model, one_A, one_B)
    logits = model(ids, lora=(one_A, one_B))
    torch.testing.assert_close(adapted(ids), logits, atol=1e-3, rtol=1e-4)
    assert (logits - model(ids)).abs().max() > 1e-3
    assert all(A.isfinite().all() for A in generate_lora(t2l, "", encoder)[0].values())
    half_A, _ = generate_lora(t2l.bfloat16(), texts[1], encoder)     # in its own precision
    for m, w in half_A.items():
        assert w.dtype == torch.bfloat16
        torch.testing.assert_close(w.float(), one_A[m], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", ["smollm2-135m", None])
def test_a_committed_checkpoint_has_a_name(name, monkeypatch, tmp_path):
    assert load_t2l(name).cfg.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    monkeypatch.chdir(tmp_path)
    for wrong in ("smollm2", tmp_path / "smollm2-135m"):
        with pytest.raises(UserError, match=f"^{wrong} does not exist; expected a folder that .*, "
                                            "or a committed checkpoint's name: smollm2-135m$"):
            load_t2l(wrong)


def test_what_is_handed_over_wrongly_says_what_was_expected():
    model, encoder = load_model(GOLDEN / "llama"), load_encoder(GOLDEN / "bert")
    t2l, tokenizer = T2L(t2l_config(model.cfg, "S", encoder)), load_tokenizer(GOLDEN / "llama")
    two = generate_lora(t2l, ["say it", "shout"], encoder)
    for take, said in (
            (lambda: generate(tokenizer, model, "hi"), "model is a Tokenizer, expected a Mistral"),
            (lambda: generate(model, encoder, "hi"), "tokenizer is an Encoder, expected a Tok"),
            (lambda: generate(model, tokenizer, {"a": 1}), "prompts: expected a text or a list of"),
            (lambda: generate(model, tokenizer, [["hi"]]), "list of texts, found a list of 1"),
            (lambda: generate(model, tokenizer, "hi", two), "2 adapters for 1 prompts; give one"),
            (lambda: generate(model, tokenizer, "hi", two[0]), "an adapter .A, B., two dicts"),
            (lambda: generate(model, tokenizer, "hi", load_peft(GOLDEN / "mistral" / "adapter")),
             "the adapter does not fit the model: its q_proj is .3, 72, 48. .layers, d_out, d_in., "
             "the model's .3, 48, 48."),
            (lambda: apply_lora(model, two), "one adapter is needed here, not a batch of them"),
            (lambda: apply_lora(model, load_peft(GOLDEN / "mistral" / "adapter")), "q_proj.weight "
             "is .72, 48., the model's weight is .48, 48."),
            (lambda: apply_lora(tokenizer, two), "model is a Tokenizer, expected a Module"),
            (lambda: generate_lora(model, "say it", encoder), "t2l is a Mistral, expected a T2L"),
            (lambda: generate_lora(t2l, 5, encoder), "description: expected a text or a list of"),
            (lambda: t2l("say it"), "task_emb is a str, expected .b, 32.")):
        with pytest.raises(ValueError, match=said):
            take()


# ------------------------------------------------------------------------------ the command


@pytest.mark.parametrize("text", ["", " ", "x"])
def test_an_empty_or_one_character_description(text, tiny_t2l):
    assert "the description is" in refused("t2l", text, "--ckpt", tiny_t2l, *TINY)


@pytest.mark.parametrize("text, warning", [
    ("word " * 10000, "tokens; the encoder reads the first 64"),
    ("Ответь словом, противоположным данному.", "English"),
    ("Réponds avec le contraire du mot.", "English")])
def test_long_and_foreign_descriptions_work_with_a_warning(text, warning, tiny_t2l, tmp_path):
    done = command("t2l", text, "--ckpt", tiny_t2l, *TINY, "--prompt", "hot",
                   "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stderr and warning in done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == \
        ["prompt", "base", "adapted", "adapter"]
    load_peft(tmp_path / "a")


def test_strength_and_more_descriptions(tiny_t2l, tmp_path):
    """The written adapter is X ΔW of the first and W ΔW of each other; of 0 and 0 it is nothing."""
    t2l = load_t2l(tiny_t2l)                            # its heads are 0: one adapter for all
    for head in t2l.heads.values():
        torch.nn.init.normal_(head.weight, std=0.2)
    save_t2l(t2l, tiny_t2l, torch.float32, {"mode": "sft"})

    def written(name: str, *flags) -> dict[str, torch.Tensor]:
        done = command("t2l", *flags, "--ckpt", tiny_t2l, *TINY, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        A, B = load_peft(tmp_path / name)
        return {m: B[m] @ A[m] for m in A}
    one, two = written("one", "Say it twice."), written("two", "Say nothing.")
    both = written("both", "Say it twice.", "--strength", -0.5, "--mix", " Say nothing. ", 3,
                   "--mix", "Say nothing.", -1)
    none = written("none", "Say it twice.", "--strength", 0, "--mix", "Say nothing.", 0)
    for m in one:
        assert (one[m] - two[m]).abs().max() > 1e-6 and not none[m].any()
        torch.testing.assert_close(both[m], 2 * two[m] - 0.5 * one[m], atol=1e-5, rtol=1e-4)
    with safe_open(tmp_path / "both" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["description"] == \
            "-0.5 × Say it twice. + 3 × Say nothing. + -1 × Say nothing."

    common = ["Say it twice.", "--ckpt", tiny_t2l, *TINY]
    assert "invalid strength value: 'nan'" in refused("t2l", *common, "--strength", "nan")
    for number in ("much", "inf", "1e39"):
        assert f"--mix 'Say nothing.' '{number}': expected a description and a number" in refused(
            "t2l", *common, "--mix", "Say nothing.", number)
    assert "the description is ''" in refused("t2l", *common, "--mix", " ", 1)


def test_a_model_of_another_name_is_warned_of_and_merged_is_that_model(tiny_t2l, tmp_path):
    shutil.copytree(GOLDEN / "llama", tmp_path / "other")
    done = command("t2l", "Say it twice.", "--ckpt", tiny_t2l, "--encoder", GOLDEN / "bert",
                   "--model", tmp_path / "other", "--out", tmp_path / "adapter", "--merged",
                   tmp_path / "merged")
    assert done.returncode == 0 and "makes adapters for llama, not for other" in done.stderr
    model, merged = (load_model(tmp_path / name, torch.float32)
                     for name in ("other", "merged"))
    ids = torch.randint(3, 90, (2, 9))
    lora = load_peft(tmp_path / "adapter")
    torch.testing.assert_close(merged(ids), model(ids, lora=lora), atol=1e-4, rtol=1e-4)
    assert (merged(ids) - model(ids)).abs().max() > 1e-3
    assert "warning" not in command("t2l", "Say it twice.", "--ckpt", tiny_t2l, *TINY,
                                    "--prompt", "hi").stderr
    assert refused("t2l", "Say it twice.", "--ckpt", tiny_t2l, "--encoder", GOLDEN / "bert",
                   "--model", GOLDEN / "qwen3", "--prompt", "hi").endswith(
        f"or train a T2L for this: python train.py --mode sft --model {GOLDEN / 'qwen3'}")
    for name, other, same in (("mistralai/M-v0.2", "M-v0.2", True), ("M-v0.2", "M-v0.1", False),
                              ("", "M", True), (None, "M", True)):
        assert same_model(name, other) is same


def test_the_order_of_the_modules_can_be_said_on_the_command_line(monkeypatch):
    def load(path, order):
        raise UserError(f"{path} {order}")
    monkeypatch.setattr("t2l.load_t2l", load)
    assert refused("t2l", "Say it.", "--ckpt", "theirs", "--module-order", "v_proj",
                   "q_proj") == "error: theirs ['v_proj', 'q_proj']"
    assert "--module-order" in refused("t2l", "Say it.", "--module-order", "v_proj", "mlp")


def test_where_nothing_can_be_written(tiny_t2l, tmp_path):
    (tmp_path / "file.txt").write_text("")
    assert "file.txt" in refused("t2l", "Say it twice.", "--ckpt", tiny_t2l, *TINY, "--out",
                                 tmp_path / "file.txt" / "adapter")


def test_checkpoints_that_do_not_belong(tiny_t2l, tmp_path):
    with pytest.raises(ValueError, match="trained with another encoder"):
        load_t2l(tiny_t2l)(torch.zeros(1, 33))
    config = json.loads((tiny_t2l / "config.json").read_text())
    config["t2l"]["emb_size"] = 40
    (tiny_t2l / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="task_encoder"):
        load_t2l(tiny_t2l)
    with pytest.raises(UserError, match="does not exist"):
        load_t2l(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no \"t2l\" section"):
        load_t2l(GOLDEN / "llama")


@pytest.mark.parametrize("changes", [{"rank": 0}, {"modules": {"q_proj": [1]}}, {"latent": -4},
                                     {"rank": "8"}])
def test_a_checkpoint_with_odd_sizes(changes, tiny_t2l):
    config = json.loads((tiny_t2l / "config.json").read_text())
    config["t2l"] |= changes
    (tiny_t2l / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json"):
        load_t2l(tiny_t2l)


@pytest.mark.parametrize("changes, said", [
    ({"encoder": 5}, "encoder=5"), ({"tasks": 5}, "tasks=5"), ({"tasks": ["a"]}, "1 tasks, but an"),
    ({"dropout": float("nan")}, "dropout=nan"), ({"latent": 130}, "latent=130"),
    ({"modules": {}}, "expected modules"), ({"modules": {"q_proj": [8, 2.0]}}, "modules="),
    ({"n_layers": 10**8}, "n_layers=100000000"), ({"z_scored": 1}, "z_scored=1"),
    ({"base_model": None}, "base_model=None"), ({"arch": ["S"]}, "arch="), ({"arch": "Q"}, "Q")])
def test_a_checkpoint_with_odd_fields(changes, said, tiny_t2l):
    config = json.loads((tiny_t2l / "config.json").read_text())
    config["t2l"] |= changes
    (tiny_t2l / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"config.json, section .*{said}"):
        load_t2l(tiny_t2l)
