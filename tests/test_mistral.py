"""The decoder against transformers: golden tensors always, live where transformers is installed."""
import json
import re
import shutil

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import lora as lora_ops
import mistral
from data.files import UserError

FAMILIES = ["mistral", "llama", "llama3", "gemma2"]


def loaded(name: str) -> tuple[mistral.Mistral, dict]:
    model = mistral.load_model(GOLDEN / name, torch.float32)
    return model, load_file(GOLDEN / name / "expected.safetensors")


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_transformers(name):
    model, expected = loaded(name)
    torch.testing.assert_close(model(expected["ids"]), expected["logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_long_sequences_use_the_fused_kernel_and_agree(name, monkeypatch):
    model, expected = loaded(name)
    monkeypatch.setattr(mistral, "PLAIN_ATTENTION_UP_TO", 0)
    torch.testing.assert_close(model(expected["ids"]), expected["logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("broken, name", [
    ("no rope", "llama"), ("interleaved rope", "llama"), ("no window", "mistral"),
    ("one theta", "llama"), ("not stretched", "llama3"), ("no window", "gemma2"),
    ("window everywhere", "gemma2"), ("w for 1 + w", "gemma2"), ("scores not capped", "gemma2"),
    ("logits not capped", "gemma2"), ("usual scale", "gemma2"), ("silu", "gemma2")])
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
    lengths, c = (3, 9, 5, 12, 4, 8, 7, 6), model.cfg.head_dim
    prompts = [torch.randint(3, 96, (n,)).tolist() for n in lengths]
    A = {m: 0.3 * torch.randn(8, 3, 2, 48) for m in lora_ops.TARGETS}
    B = {"q_proj": 0.3 * torch.randn(8, 3, 6 * c, 2), "v_proj": 0.3 * torch.randn(8, 3, 2 * c, 2)}
    stop = tuple(range(5, 96, 5))                                     # so that some rows end early
    made = mistral.generate_ids(model, prompts, (A, B), max_new_tokens=10, stop=stop)
    assert len({len(ids) for ids in made}) > 1
    for i, (prompt, new) in enumerate(zip(prompts, made)):
        own = ({m: w[i] for m, w in A.items()}, {m: w[i] for m, w in B.items()})
        for n in range(min(len(new) + 1, 10)):
            best = model(torch.tensor([prompt + new[:n]]), lora=own)[0, -1].argmax().item()
            assert best == new[n] if n < len(new) else best in stop


def test_sharded_folders_load_as_single_ones(tmp_path):
    weights = load_file(GOLDEN / "mistral" / "model.safetensors")
    names, shards = sorted(weights), {}
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: weights[n] for n in part}, tmp_path / f"part{i}.safetensors")
        shards |= {n: f"part{i}.safetensors" for n in part}
    shutil.copy(GOLDEN / "mistral" / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    ids = torch.randint(3, 96, (2, 9))
    one, many = (mistral.load_model(p, torch.float32)(ids) for p in (GOLDEN / "mistral", tmp_path))
    assert torch.equal(one, many)


def test_a_tokenizer_whose_chat_format_is_not_known(tmp_path):
    """One without the BOS token, and Mistral v0.3's, in which [INST] is one token."""
    for special, said in ((["</s>"], "lacks <s>"), (["<s>", "</s>", "[INST]"], "plain-text")):
        raw = Tokenizer(models.BPE({"x": 0}, []))
        raw.add_special_tokens(special)
        raw.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(UserError, match=said):
            mistral.load_tokenizer(tmp_path)


def test_a_truncation_saved_with_the_tokenizer_is_not_applied(tmp_path):
    raw = Tokenizer.from_file(str(GOLDEN / "llama" / "tokenizer.json"))
    raw.enable_truncation(4)
    raw.enable_padding(length=9)
    raw.save(str(tmp_path / "tokenizer.json"))
    ours, usual = (mistral.load_tokenizer(path) for path in (tmp_path, GOLDEN / "llama"))
    for text in ("a", "a much longer text"):
        assert ours.encode(text) == usual.encode(text)


CHATS = {  # as the families' own templates write a single user message
    "<|im_end|>": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|eot_id|>": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<end_of_turn>": "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "</s>": "<s>[INST] hi [/INST]"}


@pytest.mark.parametrize("end", CHATS)
def test_every_familys_chat_format(end, tmp_path):
    """A tokenizer with one token a byte and the family's special tokens."""
    special = sorted(set(re.findall(r"<[^>]+>", CHATS[end])) | {end})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(special + alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = mistral.load_tokenizer(tmp_path)
    ids = tokenizer.prompt("hi")
    assert tokenizer.tokenizer.decode(ids, skip_special_tokens=False) == CHATS[end]
    assert [i for i in ids if i < len(special)] == [
        special.index(token) for token in re.findall(r"<[^>]+>", CHATS[end])]
    assert tokenizer.end == special.index(end) and tokenizer.answer("x")[-1] == tokenizer.end


def test_chat_format_and_special_tokens_in_a_text():
    tokenizer = mistral.load_tokenizer(GOLDEN / "llama")
    ids = tokenizer.prompt("hi")
    assert tokenizer.tokenizer.decode(ids, skip_special_tokens=False) == \
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.prompt("<|im_end|>").count(tokenizer.end) == 1          # only the format's own
    assert tokenizer.answer("hi")[-1] == tokenizer.end


@pytest.mark.parametrize("name", FAMILIES)
def test_live_parity_on_random_sizes(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    from make_golden import randomised
    pick = lambda *values: values[int(torch.randint(len(values), ()))]          # noqa: E731
    torch.seed()
    k, g, c = pick(1, 2, 3), pick(1, 2, 4), pick(8, 10, 16)
    kind = {"mistral": "Mistral", "gemma2": "Gemma2"}.get(name, "Llama")
    sizes = dict(vocab_size=pick(50, 77), hidden_size=pick(24, 48), intermediate_size=pick(32, 56),
                 num_hidden_layers=pick(1, 2, 4), num_attention_heads=k * g, head_dim=c,
                 num_key_value_heads=k, rope_theta=pick(100.0, 1e5),
                 tie_word_embeddings=pick(True, False))
    if name in ("mistral", "gemma2"):
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
    model = mistral.load_model(tmp_path, torch.float32)
    b, t = ids.shape
    padded = torch.cat([ids, torch.zeros(b, 3, dtype=torch.long)], 1)
    cache = [tuple(torch.zeros(b, t, k, c) for _ in "kv") for _ in model.model["layers"]]
    steps = [model(ids[:, i:j], cache=cache, positions=torch.arange(i, j).expand(b, -1))
             for i, j in [(0, 2), *((n, n + 1) for n in range(2, t))]]           # then one by one
    with torch.no_grad():
        expected = theirs(ids).logits
    for found in (model(ids), model(padded)[:, :t], torch.cat(steps, 1)):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=str(sizes))


SMOLLM2 = json.loads((GOLDEN / "smollm2.json").read_text())       # transformers' own GGUF reader
QUESTIONS = [row["question"] for row in SMOLLM2["rows"]]


def test_default_model_is_what_transformers_reads_from_the_gguf_file(default_models):
    """Weights of one layer (q and k un-permuted), ids of ten prompts, their greedy answers."""
    model = mistral.load_model(default_models[0], torch.float32)
    for name, column in SMOLLM2["weights"].items():
        ours, theirs = model.state_dict()[name][:80, 17], torch.tensor(column)
        torch.testing.assert_close(ours, theirs, atol=0, rtol=2 ** -8)            # bf16's rounding
        if "q_proj" in name:                                   # negative control: one head permuted
            assert (ours[:64].view(2, 32).T.flatten() - theirs[:64]).abs().max() > 0.05
    tokenizer = mistral.load_tokenizer(default_models[0])
    prompts = [tokenizer.prompt(question) for question in QUESTIONS]
    assert prompts == [row["ids"] for row in SMOLLM2["rows"]]
    made = mistral.generate_ids(model, prompts, None, max_new_tokens=12, stop=(2,))
    assert made == [[t for t in row["answer"] if t != 2] for row in SMOLLM2["rows"]]


def test_live_default_model_answers_like_transformers(default_models):
    """Ten prompts: the same ids in, the same greedy tokens out, in fp32."""
    transformers = pytest.importorskip("transformers")
    folder = default_models[0]
    model, tokenizer = mistral.load_model(folder, torch.float32), mistral.load_tokenizer(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    their_tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"))
    their_tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\n' }}")
    prompts = [tokenizer.prompt(q) for q in QUESTIONS]
    made = mistral.generate_ids(model, prompts, None, max_new_tokens=12, stop=(2,))
    for question, prompt, new in zip(QUESTIONS, prompts, made):
        text = their_tokenizer.apply_chat_template([{"role": "user", "content": question}],
                                                   tokenize=False)
        assert prompt == their_tokenizer(text, add_special_tokens=False)["input_ids"]
        out = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False,
                              pad_token_id=0)[0, len(prompt):].tolist()
        assert new == out[:out.index(2)] if 2 in out else new == out


def test_default_model_knows_paris(default_models):
    model, tokenizer = (load(default_models[0]) for load in
                        (mistral.load_model, mistral.load_tokenizer))
    assert "Paris" in mistral.generate(model, tokenizer, QUESTIONS[:1])[0]
