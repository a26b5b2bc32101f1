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
          "final_logit_softcapping": None, "sliding_window": None, "_name_or_path": ""}
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
# Fields about training, saving and generating, and those that are read by name below.
BESIDES = {"architectures", "attention_dropout", "auto_map", "bos_token_id", "cache_implementation",
           "chunk_size_feed_forward", "dtype", "hidden_act", "hidden_activation", "id2label",
           "initializer_range", "is_llama_config", "label2id", "max_window_layers", "model_type",
           "output_attentions", "output_hidden_states", "pad_token_id", "problem_type",
           "return_dict", "rope_parameters", "rope_scaling", "torch_dtype",
           "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version",
           "use_cache"}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
         "num_attention_heads")
CAPS = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
# … and fields that only other families' classes have: nothing can be said there but null.
NEUTRAL_IN = {"llama": dict.fromkeys(("sliding_window", "layer_types", *CAPS), ()),
              "mistral": dict.fromkeys(CAPS, ()), "gemma2": {}}
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
ROPES = {"default": {"rope_theta"}, "llama3": {"rope_theta", *LLAMA3}}         # kind → its fields
KNOWN = {*ABSENT, *ABSENT_IN["gemma2"], *NEUTRAL, *BESIDES, *SIZES}


def read_fields(path: Path) -> dict:
    """The fields of mistral.Config from a Hugging Face config.json, old style or new.

    Raises UserError that names what cannot be honoured, is missing or odd; warns of fields that are
    not known here.
    """
    said = read_json(path)
    family, unknown = said.get("model_type"), sorted(said.keys() - KNOWN)
    if family not in ABSENT_IN:
        refuse(path, [f"model_type={family!r}", *unknown])
    raw = ABSENT | ABSENT_IN[family] | said
    rope = rope_of(raw)
    refuse(path, refusals(raw, rope))
    if unknown:
        print(f"warning: {path}: fields that are not known here: {', '.join(unknown)}",
              file=sys.stderr)
    missing = [f for f in SIZES if f not in raw]
    if missing := missing + sorted(ROPES[rope["rope_type"]] - rope.keys()):
        raise UserError(f"{path} lacks the field {', '.join(missing)}")
    sizes = [(f, raw[f]) for f in (*SIZES, "head_dim", "num_key_value_heads") if raw[f] is not None]
    if odd := [f"{f}={v!r}" for f, v in sizes if not isinstance(v, int) or v < 1]:
        raise UserError(f"{path}: expected whole numbers above 0, found {', '.join(odd)}")
    if raw["num_attention_heads"] % (raw["num_key_value_heads"] or 1):
        raise UserError(f"{path}: {raw['num_attention_heads']} heads cannot share the keys of "
                        f"{raw['num_key_value_heads']} evenly")
    return derived(raw, rope) | {"name": raw["_name_or_path"] or path.parent.name}


def rope_of(raw: dict) -> dict:
    """RoPE's parameters, wherever they stand: "rope_type", "rope_theta" and what else there is."""
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    given = dict(given) if isinstance(given, dict) else {"rope_type": given}
    kind = given.pop("type", "default")                       # the old name of rope_type
    return {"rope_type": kind, "rope_theta": raw["rope_theta"]} | given


def refuse(path: Path, refused: list[str]) -> None:
    if refused:
        raise UserError(f"{path}: cannot honour {', '.join(refused)}; expected a Mistral, Llama or "
                        "Gemma-2 model without biases, with plain or \"llama3\" RoPE")


def refusals(raw: dict, rope: dict) -> list[str]:
    """"field=value" for everything in a config.json that the decoder would get wrong."""
    family, types = raw["model_type"], raw["layer_types"]
    act = raw.get("hidden_activation") or raw.get("hidden_act")
    neutral = NEUTRAL | NEUTRAL_IN[family]
    refused = [f"{field}={raw[field]!r}" for field in neutral
               if raw.get(field) is not None and raw[field] not in neutral[field]]
    if act not in (None, "gelu_pytorch_tanh" if family == "gemma2" else "silu"):
        refused.append(f"hidden_act={act!r}")
    if types and (not set(types) <= {"sliding_attention", "full_attention"}
                  or len(types) != raw.get("num_hidden_layers")):
        refused.append(f"layer_types={types!r}")
    if raw.get("rope_parameters") and raw.get("rope_scaling"):
        refused.append("rope_parameters beside rope_scaling")
    if rope["rope_type"] not in ROPES:
        return [*refused, f"rope_type={rope['rope_type']!r}"]
    for field in sorted(rope.keys() - {"rope_type"}):
        number = isinstance(rope[field], int | float)
        if not number or field not in ROPES[rope["rope_type"]] and \
                (field, rope[field]) != ("partial_rotary_factor", 1.0):
            refused.append(f"rope_parameters.{field}={rope[field]!r}")
    return refused


def derived(raw: dict, rope: dict) -> dict:
    """The fields as the decoder wants them: what follows from others is worked out."""
    layers, heads, ends = (raw[f] for f in ("num_hidden_layers", "num_attention_heads",
                                            "eos_token_id"))
    gemma, window = raw["model_type"] == "gemma2", raw["sliding_window"]
    # Where layer_types does not say: all of Mistral's layers, every other one of Gemma-2's.
    types = raw["layer_types"] or ["sliding_attention",
                                   "full_attention" if gemma else "sliding_attention"] * layers
    as_they_are = (*SIZES, "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings",
                   *CAPS * gemma)
    return {f: raw[f] for f in as_they_are} | {
        "gemma": gemma, "num_key_value_heads": raw["num_key_value_heads"] or heads,
        "head_dim": raw["head_dim"] or raw["hidden_size"] // heads,
        "rope_theta": rope["rope_theta"], "sliding_window": window,
        "llama3": {f: rope[f] for f in LLAMA3} if rope["rope_type"] == "llama3" else None,
        "windowed": tuple(i for i in range(layers) if window and types[i] == "sliding_attention"),
        "eos_token_id": tuple(ends if isinstance(ends, list) else [] if ends is None else [ends])}
