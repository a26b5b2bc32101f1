"""Downloads for people with internet: models, the ten benchmarks, natural-instructions.

    python -m utils.download --model mistral-7b            # comes here
    python -m utils.download --model Qwen/Qwen2.5-0.5B-Instruct
    HF_TOKEN=hf_… python -m utils.download --model gemma-2-2b
    python -m utils.download --benchmarks --sni

No file is used before its size and checksum agree: a model's with those that Hugging Face states, a
benchmark's with those below (as tensorflow-datasets and others recorded them when it was published;
what an address serves can change). What was cut off goes on where it stopped. All lands in the
cache folder; $HF_ENDPOINT names another server.
"""
import functools
import glob
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from utils.cli import UserError
from utils.files import PICKLES, atomic_folder, convert, read_json, weight_files

TROUBLE = (urllib.error.URLError, http.client.HTTPException, OSError, ValueError, KeyError,
           TypeError, RecursionError)
TRIES, PAUSE, BLOCK = 4, 2.0, 1 << 20
SNI = "https://github.com/allenai/natural-instructions"


@dataclass(frozen=True)
class Model:
    """A repository on the hub; what it asks of those who fetch it."""
    repository: str
    licence: str


MODELS = {
    "mistral-7b": Model("mistralai/Mistral-7B-Instruct-v0.2", "Apache-2.0"),
    "mistral-7b-v0.1": Model("mistralai/Mistral-7B-Instruct-v0.1", "Apache-2.0"),
    "llama-3.1-8b": Model("meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 Community License"),
    "gemma-2-2b": Model("google/gemma-2-2b-it", "Gemma Terms of Use"),
    "gte-large": Model("Alibaba-NLP/gte-large-en-v1.5", "Apache-2.0")}
WANTED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
          "model.safetensors.index.json", "1_Pooling/config.json")
NAME = re.compile(r"(?!.*--|.*\.\.)[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def server_of(url: str) -> tuple[str, str]:
    return urllib.parse.urlsplit(url)[:2]                     # https and host are one thing


class DropToken(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but shows the token to the server it was meant for only."""

    def redirect_request(self, request, *answer):
        new = super().redirect_request(request, *answer)
        if new and server_of(new.full_url) != server_of(request.full_url):
            new.remove_header("Authorization")
        return new


def opened(url: str, start: int = 0):
    """The server's answer to a request for `url` from byte `start`; UserError where it refuses.

    $HF_TOKEN is shown to the hub alone.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "text-to-lora"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and server_of(url) == server_of(endpoint()):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        return urllib.request.build_opener(DropToken).open(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            mend = "accept the licence on the model's page and set HF_TOKEN to a token of yours " \
                "that may read it" if server_of(url) == server_of(endpoint()) else "try again later"
            raise UserError(f"{url}: refused ({error.code}); {mend}") from None
        if error.code == 404:
            raise UserError(f"{url} does not exist (404)") from None
        if error.code == 416:
            raise UserError(f"{url}: has no byte {start}; delete the .part file") from None
        raise


def fetch_file(url: str, path: Path, size: int | None, digest: str) -> None:
    """`url` → `path`, of `size` bytes (None: as many as the server says) whose sha256 (64 digits)
    or git blob sha1 (40) is `digest`.

    The bytes so far are in path.part; an interrupted download goes on from there.
    """
    part = Path(f"{path}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if size is None:
        with opened(url) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
        if not size:
            raise UserError(f"{url}: the server does not say how long it is; try again")
    for attempt in range(TRIES):
        have = part.stat().st_size if part.exists() else 0
        if have >= size:
            break
        try:
            append(url, part, have, size)
        except TROUBLE as error:
            if attempt == TRIES - 1:
                raise UserError(f"{url}: {error}; run the command again to go on from "
                                f"{have:,} bytes") from None
            time.sleep(PAUSE * attempt)
    have = part.stat().st_size if part.exists() else 0
    if have < size:
        raise UserError(f"{url}: broke off at {have:,} of {size:,} bytes; run the command again to "
                        "go on from there")
    if have > size or checksum(part, size, digest) != digest:
        part.unlink()
        raise UserError(f"{url}: not {size:,} bytes with the checksum {digest[:12]}…; it was "
                        "deleted. Run the command again; if that does not help, it has changed")
    part.replace(path)


def append(url: str, part: Path, have: int, size: int) -> None:
    """Add to `part` what the server sends from byte `have` on, at most one byte too many."""
    with opened(url, have) as answer:
        if have and answer.status != 206:               # it sends everything again
            have = 0
        with open(part, "ab" if have else "wb") as file, \
                tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem) as bar:
            while have <= size and (block := answer.read(min(BLOCK, size + 1 - have))):
                file.write(block)
                have += len(block)
                bar.update(len(block))


def checksum(path: Path, size: int, digest: str) -> str:
    """sha256 as for large files on the hub, or git's sha1 of "blob <size>\\0" and the content."""
    found = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(f"blob {size}\0".encode())
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def wanted(path: str) -> bool:
    """By whole names only: a server must not choose where we write."""
    return path in WANTED or bool(re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", path))


def is_name(text: str) -> bool:
    """Whether a text is like org/name, a model's name on the hub."""
    return bool(NAME.fullmatch(text))


def hub_cache() -> Path:
    """The folder in which Hugging Face's libraries keep what they fetch."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")))


def snapshot(cache: Path, repository: str) -> Path | None:
    """The newest version of a repository in a cache that is laid out as Hugging Face's; None where
    there is none, or where its config or weights were never fetched."""
    home = cache / f"models--{repository.replace('/', '--')}"
    try:
        version = (home / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return None
    if not re.fullmatch("[0-9a-f]{40}", version):
        return None
    return complete(home / "snapshots" / version)


def complete(folder: Path) -> Path | None:
    """The folder of a model if it has a config and weights, of whatever kind."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return folder if (folder / "config.json").exists() and weights else None


def fetch_model(name: str, cache: Path) -> Path:
    """A model's folder in the cache, whole or not there under that name: `name` is of MODELS, or
    the model's on the hub, which the folder's path then tells as in Hugging Face's own cache."""
    if name not in MODELS and not is_name(name):
        raise UserError(f"no model {name!r}; choose from {', '.join(MODELS)}, or give org/name as "
                        f"on {endpoint()}")
    model, hub = MODELS.get(name) or Model(name, "its licence is on its page there"), endpoint()
    home = cache / f"models--{name.replace('/', '--')}"
    folder = cache / model.repository.split("/")[1] if name in MODELS else snapshot(cache, name)
    if folder and folder.is_dir():
        return folder

    # What is there?
    print(f"fetching {model.repository} ({model.licence}) from {hub}", file=sys.stderr)
    version, files = list_files(model.repository, hub)
    folder = folder or home / "snapshots" / version

    # One file after the other, then all of them under their name.
    scratch = folder.parent / f"{model.repository.split('/')[1]}.{version[:12]}.part"
    for other in set(folder.parent.glob(f"{glob.escape(scratch.name[:-18])}.*.part")) - {scratch}:
        shutil.rmtree(other)                            # begun when the hub had another version
    for path, size, digest in files:
        if (scratch / path).exists():                   # of an earlier, interrupted run
            continue
        fetch_file(f"{hub}/{model.repository}/resolve/{version}/{path}", scratch / path,
                   size, digest)
    if not folder.is_dir():
        scratch.rename(folder)
    if name not in MODELS:
        with atomic_folder(home / "refs") as part:
            (part / "main").write_text(version)
    return folder


def list_files(repository: str, hub: str) -> tuple[str, list[tuple[str, int, str]]]:
    """(The version of a repository, the (path, size, checksum) of each file that is wanted), as the
    hub states them. UserError where it has no weights or no tokenizer that can be read here."""
    try:
        with opened(f"{hub}/api/models/{repository}?blobs=true") as answer:
            listing = json.load(answer)
        names = [file["rfilename"] for file in listing["siblings"]]
        files = [(file["rfilename"], file["size"], (file.get("lfs") or {}).get("sha256")
                  or file["blobId"]) for file in listing["siblings"] if wanted(file["rfilename"])]
        version = listing["sha"]
        if not re.fullmatch("[0-9a-f]{40}", version):
            raise ValueError(f"its version is {version!r}")
    except TROUBLE as error:
        raise UserError(f"{hub} could not be asked for the files of {repository}: "
                        f"{error}") from None
    if not any(path.endswith(".safetensors") for path, _, _ in files):
        pickles = [path for path in names if Path(path).suffix in PICKLES]
        raise UserError(f"{repository} lists no safetensors"
                        + (f", only {pickles[0]}, which may run any code when it is opened and is "
                           f"not fetched; {convert(repository)}" if pickles else ""))
    older = [path for path in names if path in ("tokenizer.model", "vocab.json", "vocab.txt")]
    if older and "tokenizer.json" not in names:
        raise UserError(f"{repository} lists no tokenizer.json, only {older[0]}; "
                        f"{convert(repository)}")
    return version, files


def check_whole(folder: Path) -> Path:
    """The folder of a cached model; UserError where it lacks a file or has one that is cut off. As
    the folder is there, nothing would be fetched: the line says to delete it. Reads no tensor."""
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns)
             for file in sorted(folder.iterdir())]
    check_files(folder, tuple(files))
    return folder


@functools.cache
def check_files(folder: Path, files: tuple) -> None:
    """check_whole for `files` as they are now: every loader asks, one reading answers all."""
    try:
        for name in ("config.json", "tokenizer.json"):
            read_json(folder / name)
        for file in weight_files(folder):
            with safe_open(folder / file, framework="np"):
                pass                                    # its header and its size agree
    except (SafetensorError, *TROUBLE, AttributeError) as error:
        raise UserError(f"the model in the cache is damaged ({error}); delete the folder {folder} "
                        "and run the command again, which fetches it anew") from None


# --------------------------------------------------------------------------------- benchmarks

@dataclass(frozen=True)
class Source:
    """Where a benchmark is published, the file in its archive, how many questions it has."""
    url: str
    member: str
    questions: int
    licence: str
    sha256: str


AI2, MOSAIC = "https://ai2-public-datasets.s3.amazonaws.com", \
    "https://storage.googleapis.com/ai2-mosaic/public"
GITHUB = "https://raw.githubusercontent.com"
ARC = f"{AI2}/arc/ARC-V1-Feb2018.zip"
ARC_SHA = "6d2d5ab50b2ceec6ba5f79c921be77cf2de712ea25a2b3f4fff3acc101cecfa0"
SOURCES = {
    "arc_challenge": Source(ARC, "ARC-Challenge-Test.jsonl", 1172, "CC BY-SA 4.0", ARC_SHA),
    "arc_easy": Source(ARC, "ARC-Easy-Test.jsonl", 2376, "CC BY-SA 4.0", ARC_SHA),
    "boolq": Source("https://storage.googleapis.com/boolq/dev.jsonl", "", 3270, "CC BY-SA 3.0",
                    "ebc29ea3808c5c611672384b3de56e83349fe38fc1fe876fd29b674d81d0a80a"),
    "gsm8k": Source(f"{GITHUB}/openai/grade-school-math/master/grade_school_math/data/test.jsonl",
                    "", 1319, "MIT",
                    "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
    "hellaswag": Source(f"{GITHUB}/rowanz/hellaswag/master/data/hellaswag_val.jsonl", "", 10042,
                        "MIT", "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588"),
    "humaneval": Source(f"{GITHUB}/openai/human-eval/master/data/HumanEval.jsonl.gz", "", 164,
                        "MIT", "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"),
    "mbpp": Source(f"{GITHUB}/google-research/google-research/master/mbpp/mbpp.jsonl", "", 500,
                   "CC BY 4.0", "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f"),
    "openbookqa": Source(f"{AI2}/open-book-qa/OpenBookQA-V1-Sep2018.zip", "Main/test.jsonl", 500,
                         "Apache-2.0",
                         "82368cf05df2e3b309c17d162e10b888b4d768fad6e171e0a041954c8553be46"),
    "piqa": Source(f"{MOSAIC}/physicaliqa/physicaliqa-train-dev.zip", "dev.jsonl", 1838, "AFL-3.0",
                   "54d32a04f59a7e354396f321723c8d7ec35cc6b08506563d8d1ffcc15ce98ddd"),
    "winogrande": Source(f"{MOSAIC}/winogrande/winogrande_1.1.zip", "/dev.jsonl", 1267, "CC BY 2.0",
                         "3619ab104d8be2977b25c90ff420cb42d491707dcc75362a1e5d22bc082b7318")}


def fetch_benchmarks(folder: Path, sources: dict[str, Source] = SOURCES) -> Path:
    """Each benchmark as `folder`/<name>.jsonl; those that are there already are left alone."""
    for name, source in sources.items():
        if (folder / f"{name}.jsonl").exists():
            continue
        print(f"fetching {name} ({source.licence}) from {source.url}", file=sys.stderr)
        packed = folder / "published" / source.url.split("/")[-1]
        try:
            if not packed.exists():                     # two benchmarks come in one archive
                fetch_file(source.url, packed, None, source.sha256)
            rows = read_rows(name, source, packed.read_bytes())
        except (*TROUBLE, zipfile.BadZipFile, EOFError, zlib.error, StopIteration) as error:
            raise UserError(f"{source.url}: {error}; run the command again") from None
        if len(rows) != source.questions:
            raise UserError(f"{source.url}: {len(rows)} questions, expected {source.questions}; it "
                            "was not kept")
        part = folder / f"{name}.jsonl.part"
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        part.replace(folder / f"{name}.jsonl")
    shutil.rmtree(folder / "published", ignore_errors=True)
    return folder


def read_rows(name: str, source: Source, data: bytes) -> list[dict]:
    """The questions in a published file, which may be packed; PIQA's labels are in a file of their
    own, MBPP's test questions are numbers 11 to 510."""
    labels = []
    if source.url.endswith(".gz"):
        data = gzip.decompress(data)
    if source.url.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [m for m in archive.namelist()
                       if m.endswith(source.member) and not m.startswith("__MACOSX")]
            data = archive.read(members[0] if members else source.member)
            if name == "piqa":
                found = next(m for m in archive.namelist() if m.endswith("dev-labels.lst"))
                labels = archive.read(found).decode().split()
    rows = [json.loads(line) for line in data.decode("utf-8").split("\n") if line.strip()]
    if name == "mbpp":
        rows = [row for row in rows if 11 <= row["task_id"] <= 510]
    return [row | {"label": int(label)} for row, label in zip(rows, labels)] if labels else rows


def fetch_sni(folder: Path) -> Path:
    """A shallow clone of natural-instructions (Apache-2.0); its tasks/ folder is for --tasks."""
    if not (folder / "tasks").is_dir():
        if not shutil.which("git"):
            raise UserError(f"git is needed to clone {SNI}; install it, or unpack a copy there")
        part = Path(f"{folder}.part")                   # a clone that was cut off lacks tasks
        shutil.rmtree(part, ignore_errors=True)
        if subprocess.run(["git", "clone", "--depth", "1", SNI, str(part)]).returncode:
            raise UserError(f"git could not clone {SNI} into {part}; its message is above")
        part.rename(folder)
    return folder / "tasks"
