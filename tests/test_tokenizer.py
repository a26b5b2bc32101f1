"""Every family's chat format, and tokenizers that are broken, odd or another model's."""
import json
import re
import shutil

import pytest
from conftest import GOLDEN
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from encoder import load_encoder
from mistral import load_tokenizer
from utils.cli import UserError


pytestmark = pytest.mark.quick

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
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.prompt("hi")
    assert tokenizer.tokenizer.decode(ids, skip_special_tokens=False) == CHATS[end]
    assert [i for i in ids if i < len(special)] == [
        special.index(token) for token in re.findall(r"<[^>]+>", CHATS[end])]
    assert tokenizer.end == special.index(end) and tokenizer.answer("x")[-1] == tokenizer.end


def test_chat_format_and_special_tokens_in_a_text():
    tokenizer = load_tokenizer(GOLDEN / "llama")
    ids = tokenizer.prompt("hi")
    assert tokenizer.tokenizer.decode(ids, skip_special_tokens=False) == \
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.prompt("<|im_end|>").count(tokenizer.end) == 1          # only the format's own
    assert tokenizer.answer("hi")[-1] == tokenizer.end


def test_a_tokenizer_whose_chat_format_is_not_known(tmp_path):
    """One without the BOS token, and Mistral v0.3's, in which [INST] is one token."""
    for special, said in ((["</s>"], "lacks <s>"), (["<s>", "</s>", "[INST]"], "plain-text")):
        raw = Tokenizer(models.BPE({"x": 0}, []))
        raw.add_special_tokens(special)
        raw.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(UserError, match=said):
            load_tokenizer(tmp_path)


def test_a_truncation_saved_with_the_tokenizer_is_not_applied(tmp_path):
    raw = Tokenizer.from_file(str(GOLDEN / "llama" / "tokenizer.json"))
    raw.enable_truncation(4)
    raw.enable_padding(length=9)
    raw.save(str(tmp_path / "tokenizer.json"))
    ours, usual = (load_tokenizer(path) for path in (tmp_path, GOLDEN / "llama"))
    for text in ("a", "a much longer text"):
        assert ours.encode(text) == usual.encode(text)


@pytest.mark.parametrize("load", [load_tokenizer, load_encoder])
def test_a_broken_tokenizer(load, tmp_path):
    shutil.copytree(GOLDEN / "bert", tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable tokenizer.json"):
        load(tmp_path)


def test_a_tokenizer_of_another_model(tmp_path):
    shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    shutil.copytree(GOLDEN / "bert", tmp_path / "bert")
    for folder, load in (("model", load_tokenizer), ("bert", load_encoder)):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        (tmp_path / folder / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))
        with pytest.raises(UserError, match="belong to different models|word_embeddings"):
            load(tmp_path / folder)
