"""Adapters as GGUF files, read back; against llama.cpp itself: test_llama_cpp.py."""
import json
import shutil

import gguf
import pytest
import torch
from conftest import GOLDEN, TINY, command, refused
from torch import nn

from lora import load_peft, lora_linear
from mistral import read_config
from utils.cli import UserError
from utils.gguf_adapter import ARCHITECTURES, interleave, save_gguf
from utils.modules import GGUF

pytestmark = pytest.mark.quick


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


def test_the_order_is_that_of_the_weights_in_a_gguf_file():
    """The interleaved B A is the interleaved W's: y comes out in the same order."""
    linear, A, B, x = nn.Linear(5, 16), torch.randn(2, 5), torch.randn(16, 2), torch.randn(1, 3, 5)
    y = lora_linear(x, linear, (A, B))
    for w in linear.parameters():
        w.data = interleave(w.data.view(16, -1), 2).view(w.shape)
    found = lora_linear(x, linear, (A, interleave(B, 2)))
    torch.testing.assert_close(half_split(found[0].T, 2).T, y[0])
    assert interleave(torch.arange(16)[:, None], 2)[:5, 0].tolist() == [0, 4, 1, 5, 2]


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


def test_chatml_without_a_system_message_is_asked_for(tmp_path, capsys):
    shutil.copytree(GOLDEN / "llama", tmp_path / "m")
    lora = lora_for(read_config(GOLDEN / "llama"))
    for text, asked in (("{}", False), ('{"added_tokens": "<|im_start|>"}', True)):
        (tmp_path / "m" / "tokenizer.json").write_text(text)
        save_gguf(tmp_path / "a.gguf", lora, tmp_path / "m")
        said = capsys.readouterr().err
        assert ("--chat-template chatml" in said) is ("TEMPLATE" in said) is asked


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
