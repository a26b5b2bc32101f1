"""An adapter as a GGUF file, for llama.cpp and Ollama: python t2l.py "…" --gguf FILE.

What llama.cpp wants to find, as its src/llama-adapter.cpp reads it: general.type "adapter",
adapter.type "lora", the architecture of the model's own GGUF file, and for every adapted weight
blk.N.NAME.weight.lora_a (r, d_in) and .lora_b (d_out, r). It computes W x + alpha / r · B A x; the
scale is in B already, so alpha = r.
"""
import shlex
from pathlib import Path

from torch import Tensor

from utils.cli import UserError, note
from utils.files import atomic_folder, read_json, read_text
from utils.hf_config import read_decoder_config
from utils.modules import GGUF
from utils.peft import LoRA, check_single

# Hugging Face's model_type → llama.cpp's architecture.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "gemma2": "gemma2", "qwen2": "qwen2",
                 "qwen3": "qwen3"}


def interleave(w: Tensor, heads: int) -> Tensor:
    """Rows of q or k (heads · c, …), from Hugging Face's order into llama.cpp's "llama".

    RoPE turns pairs of channels: there 0 and c/2, 1 and c/2 + 1, …; here neighbours. So a head's
    rows become 0, c/2, 1, c/2 + 1, …
    """
    return w.view(heads, 2, -1, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def gguf_tensors(lora: LoRA, architecture: str, heads: dict[str, int]) -> dict[str, Tensor]:
    """{llama.cpp's name: an fp32 tensor}; `heads` of q_proj and k_proj."""
    check_single(lora)
    found = {}
    for module in lora[0]:
        for layer, (A, B) in enumerate(zip(lora[0][module], lora[1][module])):
            if architecture == "llama" and module in heads:
                B = interleave(B, heads[module])
            name = f"blk.{layer}.{GGUF[module]}.weight"
            found[f"{name}.lora_a"] = A.float().contiguous()
            found[f"{name}.lora_b"] = B.float().contiguous()
    return found


def save_gguf(path: str | Path, lora: LoRA, model: str | Path, description: str = "") -> None:
    """Write A[m] (n, r, d_in), B[m] (n, d_out, r) for the GGUF file of the Hugging Face folder
    `model`, of which the config alone is read; says how to load it. UserError for an architecture
    whose names are not known here."""
    import gguf                                    # needed here only, and slow to import
    config = Path(model) / "config.json"
    family = read_json(config).get("model_type")
    if family not in ARCHITECTURES:
        raise UserError(f"{config} says model_type {family!r}; adapters for llama.cpp are written "
                        f"for {', '.join(ARCHITECTURES)}")
    fields = read_decoder_config(config)
    heads = {"q_proj": fields["num_attention_heads"], "k_proj": fields["num_key_value_heads"]}
    tensors = gguf_tensors(lora, ARCHITECTURES[family], heads)

    path, rank = Path(path), next(iter(lora[0].values())).shape[-2]
    with atomic_folder(path.parent) as scratch:
        writer = gguf.GGUFWriter(scratch / path.name, ARCHITECTURES[family])
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        if description:
            writer.add_description(description)
        for name, w in tensors.items():
            writer.add_tensor(name, w.detach().cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    note(how_to_load(path, Path(model)))


def how_to_load(path: Path, model: Path) -> str:
    """The line that loads the file in llama.cpp, and Ollama's. Where prompts are in ChatML they
    have no system message here, but many a GGUF file's own template adds one."""
    tokenizer, llama, ollama = model / "tokenizer.json", "", ""
    if tokenizer.exists() and "<|im_start|>" in read_text(tokenizer):
        llama = " --chat-template chatml"
        ollama = ('TEMPLATE """<|im_start|>user\\n{{ .Prompt }}<|im_end|>\\n'
                  '<|im_start|>assistant\\n"""\\n')
    return (f"llama.cpp: llama-cli -m MODEL.gguf --lora {shlex.quote(str(path))}{llama}\n"
            f"Ollama:    printf 'FROM ./MODEL.gguf\\nADAPTER {path.absolute()}\\n{ollama}' "
            "> Modelfile && ollama create NAME -f Modelfile")
