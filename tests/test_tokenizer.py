"""Every family's chat format, and tokenizers that are broken, odd or another model's."""
import json
import re
import shutil

import pytest
from conftest import GOLDEN
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

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


# ------------------------------------------------------------------- what is beside the tokenizer

def beside(tmp_path, **files):
    """The tiny Llama (ChatML) with these files beside it, given as their content."""
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "llama", folder)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
          "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@pytest.mark.parametrize("files, said", [
    ({"tokenizer_config__json": {"chat_template": CHATML}}, ""),
    ({"chat_template__jinja": "<|im_start|>system\nBe kind.<|im_end|>\n" + CHATML}, ""),
    ({"tokenizer_config__json": {"bos_token": {"content": "<|im_start|>"}, "chat_template": [
        {"name": "tools", "template": "x"}, {"name": "default", "template": CHATML}]}}, ""),
    ({"tokenizer_config__json": {"chat_template": None}}, ""),
    ({"chat_template__jinja": "### User: {{ messages[0]['content'] }}<|im_end|>",
      "special_tokens_map__json": {"eos_token": "<|im_end|>"}}, "'### User: hi<.im_end.>'"),
    ({"chat_template__json": {"chat_template": CHATML + "Well: "}}, "assistant.nWell: '"),
    ({"chat_template__jinja": "Hello. " + CHATML}, "'Hello. <.im_start.>user")])
def test_a_chat_template_other_than_the_familys(files, said, tmp_path, capsys):
    """The four formats stay, with or without a default system message; else it is the template's,
    which is said, and the ids are others."""
    plain = load_tokenizer(GOLDEN / "llama").prompt("hi")
    tokenizer = load_tokenizer(beside(tmp_path, **files))
    err = capsys.readouterr().err
    assert re.search(f"prompts are what its chat template writes, .*{said}", err) if said \
        else err == ""
    assert (tokenizer.prompt("hi") != plain) == bool(said)
    assert tokenizer.answer("a")[-1] == 2                                    # <|im_end|>


def test_added_tokens_beyond_the_embeddings(tmp_path):
    """A special one can never be given and loads; one that texts may hold is refused, and so is a
    chat format whose tokens the model lacks."""
    size = json.loads((GOLDEN / "llama" / "config.json").read_text())["vocab_size"]
    for special in (True, False):
        folder = beside(tmp_path / f"{special}")
        raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        raw.add_tokens([AddedToken(f"[x{i}]", special=special) for i in range(100)])
        raw.save(str(folder / "tokenizer.json"))
        if special:
            assert max(load_tokenizer(folder).encode("a[x99]b")) < size
            continue
        with pytest.raises(UserError, match="belong to different models"):
            load_tokenizer(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    raw.add_special_tokens(["<|im_start|>", "<|im_end|>"])                   # 256 and 257
    raw.save(str(tmp_path / "tokenizer.json"))
    for size in (257, 258):
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": size}))
        if size == 258:
            load_tokenizer(tmp_path)
            continue
        with pytest.raises(UserError, match="ids up to 257, config.json 257 embeddings"):
            load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_json(tmp_path):
    folder = beside(tmp_path, vocab__json="{}", merges__txt="")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="only vocab.json, merges.txt; make it with transformers"):
        load_tokenizer(folder)
