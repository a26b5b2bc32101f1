"""Adapters as GGUF files, read back; and --gguf against llama.cpp itself: the default model as an
fp32 GGUF file, with adapters of five tasks, answers token for token as here (slow, and skipped
where llama-cpp-python is not installed; pip install llama-cpp-python builds it in some minutes).

    python -m pytest -m slow tests/test_gguf_adapter.py -s
"""
import itertools
import json
import shutil
import sys

import gguf
import pytest
import torch
from conftest import GOLDEN, TINY, command, refused
from torch import nn

from lora import load_peft, lora_linear
from mistral import load_model, load_tokenizer, read_config
from t2l import generate_lora, load_t2l
from utils.cli import UserError
from utils.download import GGUF_NAMES
from utils.gguf_adapter import ARCHITECTURES, interleave, save_gguf
from utils.modules import GGUF
from utils.weights import read_safetensors


TASKS = [("Write the animal of the list in round brackets.", "apple, dog, chair, green, violin"),
         ("Write the word in capital letters.", "hot"),
         ("Write the first letter of the word.", "window"),
         ("Give the French word.", "house"),
         ("Write the second number.", "14 and 73")]
TOKENS = 10


def write_model(source, path):
    """A Hugging Face folder of the Llama family with a byte-level BPE as a GGUF file, all fp32."""
    cfg, raw = read_config(source), json.loads((source / "tokenizer.json").read_text())
    names = {new: old for old, new in GGUF_NAMES.items()}
    special = {token["id"] for token in raw["added_tokens"]}
    vocabulary = sorted(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(cfg.num_hidden_layers)
    writer.add_context_length(cfg.max_position_embeddings)
    writer.add_embedding_length(cfg.hidden_size)
    writer.add_feed_forward_length(cfg.intermediate_size)
    writer.add_head_count(cfg.num_attention_heads)
    writer.add_head_count_kv(cfg.num_key_value_heads)
    writer.add_rope_dimension_count(cfg.head_dim)
    writer.add_rope_freq_base(cfg.rope_theta)
    writer.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if i in special else 1 for i in range(len(vocabulary))])
    writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(cfg.eos_token_id[0])
    writer.add_add_bos_token(False)

    heads = {"q_proj": cfg.num_attention_heads, "k_proj": cfg.num_key_value_heads}
    for name, w in read_safetensors(source / "model.safetensors").items():
        part = name.split(".")[-2]
        w = interleave(w, heads[part]) if part in heads else w
        if name not in names:                        # model.layers.3.self_attn.q_proj.weight
            _, _, layer, rest = name.removesuffix(".weight").split(".", 3)
            name = f"blk.{layer}.{names[rest]}.weight"
        else:
            name = names[name]
        writer.add_tensor(name, w.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.inference_mode()
def ours(model, prompt, lora=None):
    """Our greedy tokens; neither side stops at the end token."""
    ids = list(prompt)
    for _ in range(TOKENS):
        ids.append(int(model(torch.tensor([ids]), lora=lora)[0, -1].argmax()))
    return ids[len(prompt):]


def theirs(path, prompt, lora=None):
    """llama.cpp's greedy tokens."""
    llm = sys.modules["llama_cpp"].Llama(str(path), n_ctx=256, n_threads=1,
                                         lora_path=lora and str(lora), verbose=False)
    tokens = llm.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
    return list(itertools.islice(tokens, TOKENS))


@pytest.fixture(scope="module")
def parts(default_models, tmp_path_factory):
    pytest.importorskip("llama_cpp")
    folder = tmp_path_factory.mktemp("gguf")
    write_model(default_models[0], folder / "model.gguf")
    return (folder, default_models[0], load_model(default_models[0], torch.float32),
            load_tokenizer(default_models[0]), load_t2l())


@pytest.mark.slow
@pytest.mark.parametrize("description, text", TASKS)
def test_llama_cpp_answers_token_for_token(description, text, parts):
    folder, source, model, tokenizer, t2l = parts
    prompt, lora = tokenizer.prompt(text), generate_lora(t2l, description)
    save_gguf(folder / "a.gguf", lora, source)
    expected, plain = ours(model, prompt, lora), ours(model, prompt)
    found = theirs(folder / "model.gguf", prompt, folder / "a.gguf")
    print(f"{description} | {text} → {tokenizer.decode(found)!r}; base {tokenizer.decode(plain)!r}")
    assert found == expected
    assert theirs(folder / "model.gguf", prompt) == plain != expected


@pytest.mark.slow
def test_it_reads_the_chat_format_alike(parts):
    folder, _, _, tokenizer, _ = parts
    llm = sys.modules["llama_cpp"].Llama(str(folder / "model.gguf"), vocab_only=True,
                                         verbose=False)
    text = "".join(tokenizer.chat).format("hot, 12 cats")
    assert llm.tokenize(text.encode(), add_bos=False, special=True) == \
        tokenizer.prompt("hot, 12 cats")


@pytest.mark.slow
def test_rows_in_the_other_order_are_another_adapter(parts, monkeypatch):
    """The control: without the order of llama.cpp the answers differ."""
    folder, source, model, tokenizer, t2l = parts
    monkeypatch.setattr("utils.gguf_adapter.interleave", lambda w, heads: w)
    differ = 0
    for description, text in TASKS:
        prompt, lora = tokenizer.prompt(text), generate_lora(t2l, description)
        save_gguf(folder / "wrong.gguf", lora, source)
        differ += theirs(folder / "model.gguf", prompt, folder / "wrong.gguf") != \
            ours(model, prompt, lora)
    assert differ


# --------------------------------------------------------------------------------- files, read back

def read(path):
    """(metadata, tensors by name) of a GGUF file."""
    reader = gguf.GGUFReader(path)
    return ({name: field.contents() for name, field in reader.fields.items()},
            {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors})


def lora_for(cfg, rank=3):
    """A random adapter of all seven modules of a model."""
    d, c = cfg.hidden_size, cfg.head_dim
    q, kv, m = cfg.num_attention_heads * c, cfg.num_key_value_heads * c, cfg.intermediate_size
    sizes = dict(zip(GGUF, [(d, q), (d, kv), (d, kv), (q, d), (d, m), (d, m), (m, d)]))
    n = cfg.num_hidden_layers
    return ({name: torch.randn(n, rank, d_in) for name, (d_in, _) in sizes.items()},
            {name: torch.randn(n, d_out, rank) for name, (_, d_out) in sizes.items()})


def half_split(w, heads):
    """llama.cpp's order undone, written in another way: even rows of a head first, then the odd."""
    return torch.cat([part for head in w.chunk(heads) for part in (head[::2], head[1::2])])


@pytest.mark.quick
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_all_seven_modules_read_back(family, tmp_path):
    cfg = read_config(GOLDEN / family)
    lora = lora_for(cfg)
    save_gguf(tmp_path / "a.gguf", lora, GOLDEN / family, "Say it.")
    fields, tensors = read(tmp_path / "a.gguf")
    architecture = ARCHITECTURES[family]
    wanted = {"general.type": "adapter", "general.architecture": architecture,
              "adapter.type": "lora", "adapter.lora.alpha": 3.0, "general.description": "Say it."}
    assert {key: fields[key] for key in wanted} == wanted
    assert len(tensors) == 2 * 7 * cfg.num_hidden_layers
    heads = {"q_proj": cfg.num_attention_heads, "k_proj": cfg.num_key_value_heads}
    for module, name in GGUF.items():
        for i, (A, B) in enumerate(zip(lora[0][module], lora[1][module])):
            back = tensors[f"blk.{i}.{name}.weight.lora_b"]
            if architecture == "llama" and module in heads:
                assert not torch.equal(back, B)
                back = half_split(back, heads[module])
            assert torch.equal(back, B) and torch.equal(tensors[f"blk.{i}.{name}.weight.lora_a"], A)


@pytest.mark.quick
def test_the_order_is_that_of_the_weights_in_a_gguf_file():
    """The interleaved B A is the interleaved W's: y comes out in the same order."""
    linear, A, B, x = nn.Linear(5, 16), torch.randn(2, 5), torch.randn(16, 2), torch.randn(1, 3, 5)
    y = lora_linear(x, linear, (A, B))
    for w in linear.parameters():
        w.data = interleave(w.data.view(16, -1), 2).view(w.shape)
    found = lora_linear(x, linear, (A, interleave(B, 2)))
    torch.testing.assert_close(half_split(found[0].T, 2).T, y[0])
    assert interleave(torch.arange(16)[:, None], 2)[:5, 0].tolist() == [0, 4, 1, 5, 2]


@pytest.mark.quick
def test_the_command_writes_the_adapter_that_peft_gets(tiny_t2l, tmp_path):
    done = command("t2l", "Say it twice.", "--ckpt", tiny_t2l, *TINY, "--out", tmp_path / "peft",
                   "--gguf", tmp_path / "new" / "a.gguf")
    assert done.returncode == 0 and "a.gguf" in done.stdout
    assert f"llama-cli -m MODEL.gguf --lora {tmp_path}/new/a.gguf" in done.stderr
    assert f"FROM ./MODEL.gguf\\nADAPTER {tmp_path}/new/a.gguf" in done.stderr
    A, B = load_peft(tmp_path / "peft")
    fields, tensors = read(tmp_path / "new" / "a.gguf")
    heads = read_config(GOLDEN / "llama").num_attention_heads
    for i, (a, b) in enumerate(zip(A["q_proj"], B["q_proj"])):
        back = half_split(tensors[f"blk.{i}.attn_q.weight.lora_b"], heads)
        found = back @ tensors[f"blk.{i}.attn_q.weight.lora_a"]
        torch.testing.assert_close(found, b @ a)
    assert fields["adapter.lora.alpha"] == A["q_proj"].shape[1]


@pytest.mark.quick
def test_chatml_without_a_system_message_is_asked_for(tmp_path, capsys):
    shutil.copytree(GOLDEN / "llama", tmp_path / "m")
    lora = lora_for(read_config(GOLDEN / "llama"))
    for text, asked in (("{}", False), ('{"added_tokens": "<|im_start|>"}', True)):
        (tmp_path / "m" / "tokenizer.json").write_text(text)
        save_gguf(tmp_path / "a.gguf", lora, tmp_path / "m")
        said = capsys.readouterr().err
        assert ("--chat-template chatml" in said) is ("TEMPLATE" in said) is asked


@pytest.mark.quick
def test_what_cannot_be_written(tiny_t2l, tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    for name, said in (("a.bin", "does not end in .gguf"), ("folder.gguf", "is a folder")):
        assert said in refused("t2l", "Say it.", "--ckpt", tiny_t2l, *TINY, "--gguf",
                               tmp_path / name)
    (tmp_path / "phi").mkdir()
    (tmp_path / "phi" / "config.json").write_text(json.dumps({"model_type": "phi3"}))
    with pytest.raises(UserError, match="model_type 'phi3'; adapters for llama.cpp are written"):
        save_gguf(tmp_path / "a.gguf", lora_for(read_config(GOLDEN / "llama")), tmp_path / "phi")
    with pytest.raises(ValueError, match="one adapter is needed"):
        save_gguf(tmp_path / "a.gguf", ({"q_proj": torch.zeros(2, 1, 1, 4)},
                                        {"q_proj": torch.zeros(2, 1, 4, 1)}), GOLDEN / "llama")
    assert not (tmp_path / "a.gguf").exists()
