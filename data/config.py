"""What a language model's config.json may say: which fields mistral.py honours, what an absent one
means, and what it refuses. No field is passed over in silence.
"""
import sys
from pathlib import Path

from data.files import UserError, read_json

# What Hugging Face's classes take where a field is absent; the other fields must be there.
ABSENT = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": None, "head_dim": None,
          "num_key_value_heads": None, "layer_types": None, "tie_word_embeddings": False,
          "query_pre_attn_scalar": None, "attn_logit_softcapping": None,
          "final_logit_softcapping": None, "_name_or_path": ""}
ABSENT_IN = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8,
                "sliding_window": 4096},
    "gemma2": {"max_position_embeddings": 8192, "num_key_value_heads": 4, "sliding_window": 4096,
               "head_dim": 256, "tie_word_embeddings": True, "query_pre_attn_scalar": 256,
               "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}}
# Fields that change what a model computes → the values at which they do not, beside null.
NEUTRAL = {"attention_bias": (False,), "mlp_bias": (False,), "pretraining_tp": (0, 1),
           "partial_rotary_factor": (1.0,), "use_bidirectional_attention": (False,),
           "rope_interleaved": (False,), "quantization_config": (), "clip_qkv": (),
           "is_encoder_decoder": (False,), "add_cross_attention": (False,)}
# Fields about training, saving and generating.
BESIDES = {"architectures", "attention_dropout", "auto_map", "bos_token_id", "cache_implementation",
           "chunk_size_feed_forward", "dtype", "hidden_act", "hidden_activation", "id2label",
           "initializer_range", "is_llama_config", "label2id", "max_window_layers", "model_type",
           "output_attentions", "output_hidden_states", "pad_token_id", "problem_type",
           "return_dict", "rope_parameters", "rope_scaling", "torch_dtype",
           "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version",
           "use_cache"}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
         "num_attention_heads")
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_fields(path: Path) -> dict:
    """The fields of mistral.Config from a Hugging Face config.json, old style or new.

    Raises UserError that names what cannot be honoured, is missing or odd; warns of fields that are
    not known here.
    """
    said = read_json(path)
    family = said.get("model_type")
    rope = said.get("rope_parameters") or said.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    refused = refusals(said, rope, kind)
    if refused:
        raise UserError(f"{path}: cannot honour {', '.join(refused)}; expected a Mistral, Llama or "
                        "Gemma-2 model without biases, with plain or \"llama3\" RoPE")
    known = {*ABSENT, *ABSENT_IN["gemma2"], *NEUTRAL, *BESIDES, *SIZES}
    if unknown := sorted(said.keys() - known):
        print(f"warning: {path}: fields that are not known here: {', '.join(unknown)}",
              file=sys.stderr)
    raw = ABSENT | ABSENT_IN[family] | said
    missing = [f for f in SIZES if f not in raw] + [f for f in LLAMA3 * (kind == "llama3")
                                                    if f not in rope]
    if missing:
        raise UserError(f"{path} lacks the field {', '.join(missing)}")
    odd = [f"{f}={raw[f]!r}" for f in SIZES if not isinstance(raw[f], int) or raw[f] < 1]
    if odd or raw["num_attention_heads"] % (raw["num_key_value_heads"] or 1):
        raise UserError(f"{path}: expected sizes, and heads that share their keys evenly; found "
                        + (", ".join(odd) or f"{raw['num_key_value_heads']} heads of keys"))
    return derived(raw, family, rope, kind) | {"name": raw["_name_or_path"] or path.parent.name}


def derived(raw: dict, family: str, rope: dict, kind: str) -> dict:
    """The fields as the decoder wants them: what follows from others is worked out."""
    layers, heads, ends = (raw["num_hidden_layers"], raw["num_attention_heads"],
                           raw["eos_token_id"])
    window = raw["sliding_window"] if family != "llama" else None       # Llama's class has none
    # Where layer_types does not say: all of Mistral's layers, every other one of Gemma-2's.
    types = raw["layer_types"] or ["sliding_attention", "full_attention" if family == "gemma2"
                                   else "sliding_attention"] * layers
    gemma = {f: raw[f] for f in ("query_pre_attn_scalar", "attn_logit_softcapping",
                                 "final_logit_softcapping")} if family == "gemma2" else {}
    return gemma | {f: raw[f] for f in SIZES} | {
        "gemma": bool(gemma), "rms_norm_eps": raw["rms_norm_eps"],
        "num_key_value_heads": raw["num_key_value_heads"] or heads,
        "head_dim": raw["head_dim"] or raw["hidden_size"] // heads,
        "rope_theta": rope.get("rope_theta", raw["rope_theta"]),
        "llama3": {f: rope[f] for f in LLAMA3} if kind == "llama3" else None,
        "sliding_window": window,
        "windowed": tuple(i for i in range(layers) if window and types[i] == "sliding_attention"),
        "tie_word_embeddings": raw["tie_word_embeddings"],
        "max_position_embeddings": raw["max_position_embeddings"],
        "eos_token_id": tuple(ends if isinstance(ends, list) else [] if ends is None else [ends])}


def refusals(said: dict, rope: dict, kind: str) -> list[str]:
    """"field=value" for everything in a config.json that the decoder would get wrong."""
    family = said.get("model_type")
    if family not in ABSENT_IN:
        return [f"model_type={family!r}"]
    act = said.get("hidden_activation") or said.get("hidden_act")
    refused = [f"{field}={said[field]!r}" for field, neutral in NEUTRAL.items()
               if said.get(field) is not None and said[field] not in neutral]
    if act not in (None, "gelu_pytorch_tanh" if family == "gemma2" else "silu"):
        refused.append(f"hidden_act={act!r}")
    if kind not in ("default", "llama3") or any(isinstance(v, dict) for v in rope.values()):
        refused.append(f"rope_type={kind!r}" if kind != "default" else f"rope_parameters={rope!r}")
    types = said.get("layer_types") or []
    if not set(types) <= {"sliding_attention", "full_attention"} or \
            types and len(types) != said.get("num_hidden_layers"):
        refused.append(f"layer_types={types!r}")
    return refused
