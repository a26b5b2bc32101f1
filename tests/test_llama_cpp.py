"""--gguf against llama.cpp itself: the default model as an fp32 GGUF file, with adapters of five
tasks, answers token for token as here. Slow, and skipped where llama-cpp-python is not installed
(pip install llama-cpp-python builds it in some minutes).

    python -m pytest -m slow tests/test_llama_cpp.py -s
"""
import itertools
import json

import gguf
import pytest
import torch
from mistral import load_model, load_tokenizer, read_config
from t2l import generate_lora, load_t2l
from utils.download import GGUF_NAMES
from utils.gguf_adapter import interleave, save_gguf
from utils.weights import read_safetensors

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.slow

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
    llm = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, lora_path=lora and str(lora),
                          verbose=False)
    tokens = llm.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
    return list(itertools.islice(tokens, TOKENS))


@pytest.fixture(scope="module")
def parts(default_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write_model(default_models[0], folder / "model.gguf")
    return (folder, default_models[0], load_model(default_models[0], torch.float32),
            load_tokenizer(default_models[0]), load_t2l())


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


def test_it_reads_the_chat_format_alike(parts):
    folder, _, _, tokenizer, _ = parts
    llm = llama_cpp.Llama(str(folder / "model.gguf"), vocab_only=True, verbose=False)
    text = "".join(tokenizer.chat).format("hot, 12 cats")
    assert llm.tokenize(text.encode(), add_bos=False, special=True) == \
        tokenizer.prompt("hot, 12 cats")


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
