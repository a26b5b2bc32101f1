"""The text encoders against transformers' BERT (golden) and sentence-transformers' MiniLM (live).
The language model as reader: means of its states, also beside a text encoder; --read-with.
"""
import json
import math
import os
import shutil

import pytest
import torch
from conftest import GOLDEN, TINY, command, refused, train_tiny
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from encoder import Encoder, EncoderConfig, Joined, OneHot, States, embed, encoder_for, load_encoder
from lora import load_peft
from mistral import load_model, read_config, softcap
from t2l import T2LConfig, generate_lora, load_t2l
from utils import embedding_cache
from utils.cli import UserError, reads_states
from utils.peft import READER, read_reader


BOTH = f"{GOLDEN / 'bert'}+states"
READ = ["Say it twice.", "Shout.", "a", "", "Write the longest word of the list, in capitals."]


@pytest.mark.quick
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_live_means_of_transformers_states(name):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32)
    ours = States(load_model(GOLDEN / name, torch.float32))
    n = ours.model.cfg.num_hidden_layers
    assert n == 3 and ours.depths == [0, 1]                      # of 30 layers 6, 12 and 18
    rows = ours.embed(READ)                                     # one padded batch
    assert rows.shape == (len(READ), ours.width) == (len(READ), 2 * 48)
    for row, text in zip(rows, READ):
        ids = ours.tokenizer.encode(text).ids or [0]
        states = theirs(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for depth, mean in zip(ours.depths, row.split(48)):      # [0] are the embeddings
            wanted = states[depth + 1][0, 1 if len(ids) > 1 else 0:].mean(0)
            torch.testing.assert_close(mean, wanted, atol=1e-4, rtol=1e-4)
            if len(ids) > 1:                                     # negative control
                assert (states[depth + 1][0].mean(0) - mean).abs().max() > 1e-3


@pytest.mark.quick
def test_both_side_by_side_each_part_normalised_by_itself():
    model = load_model(GOLDEN / "llama", torch.float32)
    both = load_encoder(BOTH, model)
    assert isinstance(both, Joined) and both.name == BOTH and both.width == 32 + 2 * 48
    rows = embed(both, READ)
    torch.testing.assert_close(rows[:, :32], embed(load_encoder(GOLDEN / "bert"), READ))
    torch.testing.assert_close(rows[:, 32:], embed(load_encoder("states", model), READ))
    for part in rows[:3].split(both.parts, -1):
        torch.testing.assert_close(part.square().mean(1), torch.ones(3))


@pytest.mark.quick
def test_what_decides_a_vector_is_told_to_the_cache():
    model = load_model(GOLDEN / "llama", torch.float32)
    lora = load_peft(GOLDEN / "llama" / "adapter")
    names = {load_encoder(name, model, with_lora).identity()[1]
             for name in ("base", "states", BOTH) for with_lora in (None, lora)}
    assert len(names) == 5                                       # "base" reads with no LoRA
    changed = (lora[0], {m: w * 1.01 for m, w in lora[1].items()})
    assert load_encoder("states", model, changed).identity()[1] not in names


@pytest.fixture
def rival(tiny_tasks, tmp_path):
    train_tiny("--mode", "mtlora", "--describe", "prompt", "--tasks", tiny_tasks, "--steps", 4,
               "--lr", 0.05, "--eval-samples", 0, "--out", tmp_path / "rival")
    return tmp_path / "rival"


def test_a_t2l_reads_with_the_lora_that_lies_beside_it(rival, tiny_tasks, tmp_path):
    common = ["--mode", "sft", "--encoder", BOTH, "--tasks", tiny_tasks, "--eval-samples", 0]
    train_tiny(*common, "--read-with", rival, "--steps", 6, "--lr", 0.01, "--out", tmp_path / "a")
    t2l = load_t2l(tmp_path / "a")
    assert t2l.cfg.arch == "bank" and t2l.cfg.emb_size == 32 + 2 * 48
    for side, kept in zip(load_peft(rival), read_reader(tmp_path / "a")):
        assert all(torch.equal(w, kept[m]) for m, w in side.items())

    # It is used: by the T2L as it is loaded, and not without it.
    model = load_model(GOLDEN / "llama", torch.float32)
    with_lora = load_encoder(BOTH, model, load_peft(rival))
    wanted = generate_lora(t2l, "say it", with_lora)[1]["q_proj"]
    bare = generate_lora(t2l, "say it", load_encoder(BOTH, model))[1]["q_proj"]
    found = generate_lora(t2l, "say it", encoder_for(t2l.cfg, model))[1]["q_proj"]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert (found - bare).abs().max() > 1e-6

    # --init takes it along.
    train_tiny(*common, "--init", tmp_path / "a", "--steps", 1, "--out", tmp_path / "b")
    for side, kept in zip(load_peft(rival), read_reader(tmp_path / "b")):
        assert all(torch.equal(w, kept[m]) for m, w in side.items())
    (tmp_path / "a" / READER).unlink()
    with pytest.raises(UserError, match="reader.safetensors is missing"):
        load_t2l(tmp_path / "a")


def test_what_init_takes_along_is_found_by_a_checkpoints_name(rival, tiny_tasks, tmp_path,
                                                              monkeypatch):
    """And config.json names the file, not the folder of this machine."""
    common = ["--mode", "sft", "--encoder", BOTH, "--tasks", tiny_tasks, "--eval-samples", 0,
              "--steps", 1]
    train_tiny(*common, "--read-with", rival, "--out", tmp_path / "kept")
    monkeypatch.setattr("utils.weights.CHECKPOINTS", tmp_path)
    train_tiny(*common, "--init", "kept", "--out", tmp_path / "b")
    assert (tmp_path / "b" / READER).read_bytes() == (tmp_path / "kept" / READER).read_bytes()
    assert json.loads((tmp_path / "b" / "config.json").read_text())["t2l"]["reader"] == READER


@pytest.mark.quick
def test_an_encoder_is_the_language_model_by_its_whole_name():
    for name, expected in (("states", True), (BOTH, True), ("base", False), (None, False),
                           ("my-states", False), ("bert", False)):
        assert reads_states(name) == expected
    cfg = T2LConfig("L", 32, 3, {"q_proj": (8, 8)}, base_model="another", encoder="gte-base")
    with pytest.raises(UserError, match="gte-base is not a folder"):    # not: by "another" itself
        encoder_for(cfg)


def last_line(*flags) -> str:
    """Of a command that is refused after it has said what it loads."""
    done = command(*flags)
    assert done.returncode == 2
    return done.stderr.splitlines()[-1]


def test_what_cannot_be_read_with_is_refused_before_any_training(rival, tiny_tasks, tmp_path):
    out = ["--tasks", tiny_tasks, "--out", tmp_path / "x"]
    sft = ["--mode", "sft", *TINY[:2], "--read-with", rival, *out]
    assert "a text encoder has no use" in refused("train", *sft, "--encoder", GOLDEN / "bert")
    assert "a text encoder has no use" in refused("train", *sft, "--arch", "L")
    said = last_line("train", *sft, "--encoder", BOTH, "--modules", "q_proj", "o_proj")
    assert "adapts q_proj, v_proj, this run q_proj, o_proj" in said
    said = last_line("train", "--mode", "sft", "--model", GOLDEN / "gemma2", "--read-with", rival,
                     "--encoder", "states", *out)
    assert "does not fit the model" in said and "--read-with" in said
    assert "has no use for --read-with" in refused("train", "--mode", "mtlora", *TINY,
                                                   "--read-with", rival, *out)
    assert not (tmp_path / "x").exists()


def test_a_run_goes_on_with_the_head_of_its_start_and_with_no_other(tiny_t2l, tiny_tasks, tmp_path):
    flags = ["--mode", "sft", *TINY, "--init", tiny_t2l, "--tasks", tiny_tasks]
    train_tiny(*flags[:2], *flags[6:], "--steps", 1, "--eval-samples", 0, "--out", tmp_path / "a")
    assert load_t2l(tmp_path / "a").cfg.arch == "S"
    said = last_line("train", *flags, "--arch", "bank", "--out", tmp_path / "x")
    assert "its arch is 'S', this run's 'bank'; give --arch S" in said


@pytest.mark.quick
def test_the_defaults_of_each_head(monkeypatch):
    import train
    from utils.cli import train_args

    def given(*flags):
        monkeypatch.setattr("sys.argv", ["train.py", *flags])
        args = train_args(train.DEFAULTS, train.HEADS, train.SAMPLES_PER_TASK, train.init_fields)
        return args.arch, args.encoder
    assert given("--mode", "sft") == ("bank", "all-MiniLM-L6-v2+states")
    assert given("--mode", "sft", "--arch", "L") == ("L", None)       # all-MiniLM-L6-v2
    assert given("--mode", "sft", "--encoder", "base") == ("bank", "base")
    assert given("--mode", "recon", "--loras", "x") == ("L", None)
    assert given("--mode", "mtlora") == ("L", None)


# ------------------------------------------------------------------------------------ text encoders

@pytest.mark.quick
def test_mean_pooled_states_equal_transformers():
    expected = load_file(GOLDEN / "bert" / "expected.safetensors")
    encoder = load_encoder(GOLDEN / "bert")
    ours = encoder(expected["ids"], expected["mask"])
    torch.testing.assert_close(ours, expected["mean"], atol=1e-5, rtol=1e-5)
    everything = torch.ones_like(expected["mask"])                        # negative control
    assert (encoder(expected["ids"], everything) - expected["mean"]).abs().max() > 1e-2


@pytest.mark.quick
def test_a_batch_of_any_order_embeds_as_each_text_alone():
    encoder = load_encoder(GOLDEN / "bert")
    texts = ["a long description of a task", "b", "something else.", "", "a"]
    together = encoder.embed(texts, batch_size=2)
    alone = torch.cat([encoder.embed([text]) for text in texts])
    torch.testing.assert_close(together[[0, 1, 2, 4]], alone[[0, 1, 2, 4]], atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()


@pytest.mark.quick
def test_embeddings_are_normalised_and_end_in_a_full_stop():
    encoder = load_encoder(GOLDEN / "bert")
    x = embed(encoder, ["say it", "say it.", "say it!"])
    torch.testing.assert_close(x.norm(dim=1), torch.full((3,), math.sqrt(32)))
    torch.testing.assert_close(x[0], x[1])
    assert (x[1] - x[2]).abs().max() > 1e-3


# ------------------------------------------------------------------- gte-large's architecture

SMALL = {"model_type": "new", "vocab_size": 96, "hidden_size": 24, "num_hidden_layers": 3,
         "num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 64,
         "type_vocab_size": 0, "layer_norm_eps": 1e-12, "rope_theta": 50.0, "hidden_act": "gelu",
         "rope_scaling": {"type": "ntk", "factor": 2.0}, "position_embedding_type": "rope",
         "pack_qkv": True, "layer_norm_type": "layer_norm"}


def gte_folder(folder, pooling: str = "cls_token", **changes) -> dict[str, torch.Tensor]:
    """A small random model in the layout of gte-large-en-v1.5; its weights."""
    config = SMALL | changes
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{pooling}": True, "pooling_mode_max_tokens": False}))
    shutil.copy(GOLDEN / "bert" / "tokenizer.json", folder)
    d, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"embeddings.word_embeddings.weight": (96, d), "embeddings.LayerNorm": (d,)}
    if config["type_vocab_size"]:
        shapes["embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}."
        shapes |= {at + "attention.qkv_proj.weight": (3 * d, d),
                   at + "attention.qkv_proj.bias": (3 * d,), at + "attention.o_proj.weight": (d, d),
                   at + "attention.o_proj.bias": (d,),
                   at + "mlp.up_gate_proj.weight": (2 * inner, d),
                   at + "mlp.down_proj.weight": (d, inner), at + "mlp.down_proj.bias": (d,),
                   at + "attn_ln": (d,), at + "mlp_ln": (d,)}
    weights = {}
    for name, shape in shapes.items():
        if len(shape) == 1 and not name.endswith("bias"):                    # a LayerNorm
            weights[name + ".weight"] = 1 + 0.2 * torch.randn(shape)
            name += ".bias"
        weights[name] = (0.5 if "word" in name else 0.2) * torch.randn(shape)
    save_file({"new." + k: w for k, w in weights.items()}, folder / "model.safetensors")
    return weights


def by_hand(w: dict, ids: list[int], theta: float = 50.0, factor: float = 2.0) -> torch.Tensor:
    """The states of one text, written down anew in float64: token by token, head by head, with
    rotations of complex numbers (arXiv 2407.19669; pairs and order of q, k, v, up, gate as
    text-embeddings-inference's gte.rs has them)."""
    w, (d, h) = {k: v.double() for k, v in w.items()}, (24, 3)
    c = d // h

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return x * w[name + ".weight"] + w[name + ".bias"]

    def turned(vector, position):
        pairs = torch.complex(vector[:c // 2], vector[c // 2:])
        angle = [position * (factor * theta) ** (-2 * i / c) / factor ** (2 / c)
                 for i in range(c // 2)]
        pairs = pairs * torch.polar(torch.ones(c // 2, dtype=torch.double),
                                    torch.tensor(angle, dtype=torch.double))
        return torch.cat([pairs.real, pairs.imag])
    x = w["embeddings.word_embeddings.weight"][ids]
    if "embeddings.token_type_embeddings.weight" in w:
        x = x + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for i in range(3):
        at = f"encoder.layer.{i}."
        qkv = x @ w[at + "attention.qkv_proj.weight"].T + w[at + "attention.qkv_proj.bias"]
        heads = []
        for n in range(h):
            q, k, v = (qkv[:, j * d + n * c:j * d + (n + 1) * c] for j in range(3))
            q, k = (torch.stack([turned(row, p) for p, row in enumerate(z)]) for z in (q, k))
            heads.append(torch.softmax(q @ k.T / c ** 0.5, -1) @ v)
        y = torch.cat(heads, -1) @ w[at + "attention.o_proj.weight"].T
        x = norm(x + y + w[at + "attention.o_proj.bias"], at + "attn_ln")
        up, gate = (x @ w[at + "mlp.up_gate_proj.weight"].T).split(20, -1)
        gelu = gate * (1 + torch.erf(gate / 2 ** 0.5)) / 2
        y = (up * gelu) @ w[at + "mlp.down_proj.weight"].T + w[at + "mlp.down_proj.bias"]
        x = norm(x + y, at + "mlp_ln")
    return x


@pytest.mark.quick
@pytest.mark.parametrize("pooling, segments", [("cls_token", 0), ("mean_tokens", 2)])
def test_gtes_architecture_is_what_its_description_says(pooling, segments, tmp_path):
    weights = gte_folder(tmp_path, pooling, type_vocab_size=segments)
    encoder = load_encoder(tmp_path)
    texts = ["a long description of a task", "b", "something else."]
    ours = encoder.embed(texts)                                      # one padded batch
    for row, text in zip(ours, texts):
        states = by_hand(weights, encoder.tokenizer.encode(text).ids)
        expected = states[0] if pooling == "cls_token" else states.mean(0)
        assert torch.cosine_similarity(row.double(), expected, dim=0) > 0.9999
        torch.testing.assert_close(row, expected.float(), atol=1e-4, rtol=1e-4)
    ids = encoder.tokenizer.encode(texts[0]).ids
    def rolled(part: str, n: int) -> dict:                 # its n blocks of rows in another order
        return weights | {k: w.roll(len(w) // n, 0) for k, w in weights.items() if part in k}
    for other in (by_hand(weights, ids, theta=20.0), by_hand(weights, ids, factor=1.0),
                  by_hand(rolled("up_gate_proj", 2), ids), by_hand(rolled("qkv_proj", 3), ids)):
        assert (other[0] - by_hand(weights, ids)[0]).abs().max() > 1e-2


@pytest.mark.quick
def test_published_sizes_of_gte_large():
    """24 layers of width 1024: 434 million weights, as its model card says."""
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(
            30528, 1024, 24, 16, 4096, 8192, 2, 1e-12, rope_theta=160_000.0, rope_factor=2.0))
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6) == 434


@pytest.mark.quick
@pytest.mark.parametrize("changes, said", [
    ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "yarn"), ({"hidden_act": "silu"}, "silu"),
    ({"rope_scaling": {"type": "ntk"}}, "rope_scaling"), ({"pack_qkv": False}, "pack_qkv=False"),
    ({"logn_attention_scale": True}, "logn_attention"), ({"layer_norm_type": "rms_norm"}, "rms_n"),
    ({"layer_norm_eps": "x"}, "layer_norm_eps='x'"), ({"rope_scaling": "ntk"}, "rope_scaling"),
    ({"num_attention_heads": 5}, "5 heads of a width of 24")])
def test_an_encoder_that_cannot_be_honoured(changes, said, tmp_path):
    gte_folder(tmp_path, **changes)
    with pytest.raises(UserError, match=said):
        load_encoder(tmp_path)


@pytest.mark.quick
def test_without_a_file_that_says_so_gte_pools_by_its_first_token(tmp_path):
    gte_folder(tmp_path)
    said = load_encoder(tmp_path).embed(["a b c"])
    shutil.rmtree(tmp_path / "1_Pooling")
    assert torch.equal(load_encoder(tmp_path).embed(["a b c"]), said)
    for mode, same in (("cls", True), ("mean", False)):                  # as newer versions write
        (tmp_path / "1_Pooling").mkdir(exist_ok=True)
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
        assert torch.equal(load_encoder(tmp_path).embed(["a b c"]), said) == same


@pytest.mark.quick
def test_a_pooling_that_is_neither_mean_nor_cls(tmp_path):
    gte_folder(tmp_path, "lasttoken")
    with pytest.raises(UserError, match="expected mean or CLS pooling, found pooling_mode_last"):
        load_encoder(tmp_path)


# ------------------------------------------------------------------ the language model itself


@pytest.mark.quick
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_language_model_embeds_by_its_last_token(name, tmp_path):
    """Each text alone, through the whole model: logits = head(state), so it must give them."""
    shutil.copytree(GOLDEN / name, tmp_path, dirs_exist_ok=True)
    shutil.copy(GOLDEN / "llama" / "tokenizer.json", tmp_path)
    encoder = load_encoder("base", tmp_path)
    model = encoder.model.float()
    texts = ["a long description", "b", "something else."]
    ours = encoder.embed(texts, batch_size=2)
    assert ours.shape == (3, model.cfg.hidden_size) and encoder.name == "base"
    head = model.model["embed_tokens"].weight
    for row, text in zip(ours, texts):
        ids = torch.tensor([encoder.tokenizer.encode(text).ids])
        logits = softcap(head @ row, model.cfg.final_logit_softcapping)
        torch.testing.assert_close(logits, model(ids)[0, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.quick
def test_an_encoder_that_is_the_language_model_must_be_that_model(tiny_t2l, monkeypatch):
    config = json.loads((tiny_t2l / "config.json").read_text())
    config["t2l"] |= {"encoder": "base"}
    (tiny_t2l / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("encoder.read_config", lambda: read_config(GOLDEN / "mistral"))  # default
    with pytest.raises(UserError, match="descriptions are embedded by llama itself"):
        generate_lora(load_t2l(tiny_t2l), "Say it.")


# -------------------------------------------------------------- sentence-transformers' folders

def write(path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def sentence_folder(folder, bert: str = "", pooling: str = "1_Pooling", mode: str = "mean",
                    after=(), **text) -> None:
    """The tiny BERT with letters as its vocabulary, put together by modules.json; `after`: Dense
    layers' fields, {} for a normalisation; `text` is sentence_bert_config.json."""
    parts = [(bert, "Transformer"), (pooling, "Pooling")]
    shutil.copytree(GOLDEN / "bert", folder / bert, dirs_exist_ok=True)
    raw = Tokenizer(models.WordPiece(
        {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
         *(f"{mark}{c}" for c in "abcdefghijklmnopqrstuvwxyzAB." for mark in ("", "##"))])},
        unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=False)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    raw.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    raw.save(str(folder / bert / "tokenizer.json"))
    write(folder / bert / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "cls_token": "[CLS]",
        "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]",
        "model_max_length": 40})
    write(folder / bert / "sentence_bert_config.json", text)
    write(folder / pooling / "config.json", {
        "word_embedding_dimension": 32, "pooling_mode_cls_token": mode == "cls",
        "pooling_mode_mean_tokens": mode == "mean", "pooling_mode_max_tokens": mode == "max"})
    for i, fields in enumerate(after, 2):
        parts.append((f"{i}_{'Dense' if fields else 'Normalize'}",
                      "Dense" if fields else "Normalize"))
        write(folder / parts[-1][0] / "config.json", fields)
        if fields:
            weights = {"linear.weight": torch.randn(fields["out_features"], fields["in_features"])}
            if fields.get("bias", True):
                weights["linear.bias"] = torch.randn(fields["out_features"])
            save_file(weights, folder / parts[-1][0] / "model.safetensors")
    write(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts)])


TANH, RELU = "torch.nn.modules.activation.Tanh", "torch.nn.modules.activation.ReLU"
LAYOUTS = {
    "plain": {}, "first token": {"mode": "cls", "pooling": "9_Pooling"},
    "own folder": {"bert": "0_Transformer", "max_seq_length": 9},
    "normalised": {"after": [{}]}, "capitals": {"do_lower_case": True, "max_seq_length": 12},
    "dense": {"after": [{"in_features": 32, "out_features": 8, "activation_function": TANH}, {}]},
    "two": {"after": [{"in_features": 32, "out_features": 8, "bias": False,
                       "activation_function": RELU},
                      {"in_features": 8, "out_features": 3}], "mode": "cls"}}


@pytest.mark.quick
@pytest.mark.parametrize("layout", LAYOUTS)
def test_live_sentence_transformers_folders(layout, tmp_path):
    """The same vectors, for texts short and long, with capitals and without."""
    theirs = pytest.importorskip("sentence_transformers")
    sentence_folder(tmp_path, **LAYOUTS[layout])
    texts = ["a", "say it TWICE, ABBA.", "many " * 30 + "words."]
    expected = theirs.SentenceTransformer(str(tmp_path), device="cpu").encode(
        texts, convert_to_tensor=True)
    ours = load_encoder(tmp_path)
    torch.testing.assert_close(ours.embed(texts), expected, atol=1e-4, rtol=1e-4)
    assert ours.width == expected.shape[1]
    sentence_folder(tmp_path / "other")                             # negative control
    if layout != "plain":
        other = load_encoder(tmp_path / "other").embed(texts)
        assert other.shape != expected.shape or (other - expected).abs().max() > 1e-2


@pytest.mark.quick
@pytest.mark.parametrize("layout, file, changes, said", [
    ("plain", "1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max"),
    ("plain", "config_sentence_transformers.json", {"default_prompt_name": "q"}, "default_prompt"),
    ("plain", "config_sentence_transformers.json", {"truncate_dim": 4}, "truncate_dim=4"),
    ("plain", "sentence_bert_config.json", {"max_seq_length": 8.0}, "max_seq_length=8.0"),
    ("plain", "sentence_bert_config.json", {"max_seq_length": 2}, "leaves none"),
    ("plain", "sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task"),
    ("dense", "2_Dense/config.json", {"in_features": 16}, "reads 16 numbers, but is given 32"),
    ("dense", "2_Dense/config.json", {"use_residual": True}, "use_residual"),
    ("dense", "2_Dense/config.json", {"activation_function": "os.system"}, "activation_function"),
    ("dense", "2_Dense/config.json", {"out_features": 9}, "after.0.linear")])
def test_a_sentence_transformers_folder_that_is_refused(layout, file, changes, said, tmp_path):
    sentence_folder(tmp_path, **LAYOUTS[layout])
    path = tmp_path / file
    write(path, (json.loads(path.read_text()) if path.exists() else {}) | changes)
    with pytest.raises(UserError, match=said):
        load_encoder(tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize("rows, said", [
    ([("", "Transformer")], "cannot honour Transformer;"), ([], "no module"),
    (5, "a list of modules"),
    ([("", "Transformer"), ("../x", "Pooling")], "path '../x'"),
    ([("", "Transformer"), ("7_Pooling", "Pooling")], "7_Pooling, which has no"),
    ([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_LSTM", "LSTM")], "Pooling, LSTM;")])
def test_modules_that_are_not_known(rows, said, tmp_path):
    sentence_folder(tmp_path)
    write(tmp_path / "modules.json", rows if rows == 5 else [
        {"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in rows])
    with pytest.raises(UserError, match=said):
        load_encoder(tmp_path)


# ------------------------------------------------------------------------- vectors kept across runs

TEXTS = [f"Write the word {i} backwards." for i in range(12)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache that lists of ten texts are worth."""
    monkeypatch.setenv("T2L_CACHE", str(tmp_path))
    monkeypatch.setattr(embedding_cache, "FEWEST", 10)
    return tmp_path / "embeddings"


@pytest.fixture
def encoder(monkeypatch):
    """The tiny BERT, which counts how often it embeds as `encoder.calls`."""
    encoder = load_encoder(GOLDEN / "bert")
    plain, encoder.calls = encoder.embed, 0

    def counted(texts, **more):
        encoder.calls += 1
        return plain(texts, **more)
    monkeypatch.setattr(encoder, "embed", counted)
    return encoder


def files(cache) -> list:
    return sorted(cache.glob("*.safetensors")) if cache.exists() else []


@pytest.mark.quick
def test_the_second_time_nothing_is_embedded_and_the_bytes_are_the_same(cache, encoder):
    first, second = embed(encoder, TEXTS), embed(encoder, TEXTS)
    assert encoder.calls == 1 and torch.equal(first, second) and first.std() > 0.1
    assert len(files(cache)) == 1
    embed(encoder, TEXTS[:5])                                    # too few to be worth it
    embed(OneHot([text[:-1] for text in TEXTS]), TEXTS)          # no identity: never kept
    assert encoder.calls == 2 and len(files(cache)) == 1


@pytest.mark.quick
def test_what_decides_the_vectors_decides_the_file(cache, encoder):
    """Another text, order, weight, tokenizer or limit, or number of threads: made anew."""
    embed(encoder, TEXTS)
    for change in (lambda: TEXTS[::-1], lambda: [*TEXTS[:-1], "Other."],
                   lambda: encoder.embeddings.word_embeddings.weight.data[5, 0].add_(1e-6),
                   lambda: setattr(encoder, "limit", 9),
                   lambda: encoder.tokenizer.add_tokens(["backwards"])):
        texts = found if isinstance(found := change(), list) else TEXTS
        before = encoder.calls
        embed(encoder, texts)
        embed(encoder, texts)
        assert encoder.calls == before + 1
    assert len(files(cache)) == 6
    key, threads = embedding_cache.cache_key(encoder, TEXTS), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert embedding_cache.cache_key(encoder, TEXTS) != key
    finally:
        torch.set_num_threads(threads)


@pytest.mark.quick
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"",
                                    lambda data: data[:-1] + bytes([data[-1] ^ 1]),
                                    lambda data: b"no tensors here" * 9])
def test_a_damaged_file_is_made_anew(damage, cache, encoder):
    first, path = embed(encoder, TEXTS), files(cache)[0]
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match="made anew"):
        assert torch.equal(embed(encoder, TEXTS), first)
    assert encoder.calls == 2 and path.read_bytes() == whole


@pytest.mark.quick
def test_the_ones_unused_for_longest_go(cache, encoder, monkeypatch):
    for n in (10, 11):
        embed(encoder, TEXTS[:n])
    old, newer = sorted(files(cache), key=lambda file: file.stat().st_size)
    os.utime(newer, (1, 1))                                      # the larger one, long ago
    monkeypatch.setattr(embedding_cache, "LIMIT", 2 * newer.stat().st_size)
    embed(encoder, TEXTS)
    assert old in files(cache) and newer not in files(cache) and len(files(cache)) == 2


@pytest.mark.quick
def test_a_cache_that_cannot_be_written_is_told_and_does_not_stop_anything(cache, encoder):
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert embed(encoder, TEXTS).shape == (12, encoder.width)
