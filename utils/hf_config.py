"""config.json of a Hugging Face folder → the fields that our decoder and our encoder honour.

What an absent field means, what is refused, what is ignored: no field is passed over in silence.
"""
from pathlib import Path

from utils.cli import UserError, warn
from utils.files import read_json

# ------------------------------------------------------------------------- language models

# What Hugging Face's classes take where a field is absent; the other fields must be there.
DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": None, "head_dim": None,
            "num_key_value_heads": None, "layer_types": None, "tie_word_embeddings": False,
            "query_pre_attn_scalar": None, "attn_logit_softcapping": None,
            "final_logit_softcapping": None, "sliding_window": None, "_name_or_path": ""}
FAMILY_DEFAULTS = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8,
                "sliding_window": 4096},
    "gemma2": {"max_position_embeddings": 8192, "num_key_value_heads": 4, "sliding_window": 4096,
               "head_dim": 256, "tie_word_embeddings": True, "query_pre_attn_scalar": 256,
               "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}}
# Fields that change what a model computes → the values at which they do not, beside null.
UNSUPPORTED = {"attention_bias": (False,), "mlp_bias": (False,), "pretraining_tp": (0, 1),
               "partial_rotary_factor": (1.0,), "use_bidirectional_attention": (False,),
               "rope_interleaved": (False,), "quantization_config": (), "clip_qkv": (),
               "is_encoder_decoder": (False,), "add_cross_attention": (False,)}
# Fields about training, saving and generating, and those that are read by name below.
IGNORED = {"architectures", "attention_dropout", "auto_map", "bos_token_id", "cache_implementation",
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
FAMILY_UNSUPPORTED = {"llama": dict.fromkeys(("sliding_window", "layer_types", *CAPS), ()),
                      "mistral": dict.fromkeys(CAPS, ()), "gemma2": {}}
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
ROPES = {"default": {"rope_theta"}, "llama3": {"rope_theta", *LLAMA3}}         # kind → its fields
KNOWN = {*DEFAULTS, *FAMILY_DEFAULTS["gemma2"], *UNSUPPORTED, *IGNORED, *SIZES}


def read_decoder_config(path: Path) -> dict:
    """The fields of MistralConfig from a Hugging Face config.json, old style or new.

    Raises UserError that names what cannot be honoured, is missing or odd; warns of fields that are
    not known here.
    """
    # A family that we know?
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder; expected a Hugging Face model folder with "
                        "config.json and model.safetensors")
    found = read_json(path)
    family, unknown = found.get("model_type"), sorted(found.keys() - KNOWN)
    if family not in FAMILY_DEFAULTS:
        refuse(path, [f"model_type={family!r}", *unknown])

    # Nothing that would be computed wrongly?
    raw = DEFAULTS | FAMILY_DEFAULTS[family] | found
    rope = rope_parameters(raw)
    refuse(path, refusals(raw, rope))
    if unknown:
        warn(f"{path}: fields that are not known here: {', '.join(unknown)}")

    # Are all sizes there, and do they make sense?
    missing = [f for f in SIZES if f not in raw]
    if missing := missing + sorted(ROPES[rope["rope_type"]] - rope.keys()):
        raise UserError(f"{path} lacks the field {', '.join(missing)}")
    sizes = [(f, raw[f]) for f in (*SIZES, "head_dim", "num_key_value_heads") if raw[f] is not None]
    if bad := [f"{f}={v!r}" for f, v in sizes if not isinstance(v, int) or v < 1]:
        raise UserError(f"{path}: expected whole numbers above 0, found {', '.join(bad)}")
    if raw["num_attention_heads"] % (raw["num_key_value_heads"] or 1):
        raise UserError(f"{path}: {raw['num_attention_heads']} heads cannot share the keys of "
                        f"{raw['num_key_value_heads']} evenly")
    return derived(raw, rope) | {"name": raw["_name_or_path"] or path.parent.name}


def rope_parameters(raw: dict) -> dict:
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
    neutral = UNSUPPORTED | FAMILY_UNSUPPORTED[family]
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


# ----------------------------------------------------------------------------- text encoders

BERT_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
              "intermediate_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps")
BERT = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
GTE = {"model_type": "new", "hidden_act": "gelu", "position_embedding_type": "rope",
       "pack_qkv": True, "layer_norm_type": "layer_norm", "logn_attention_scale": False,
       "logn_attention_clip1": False}                       # gte-large calls its architecture "new"


def read_encoder_config(folder: Path) -> dict:
    """The fields of EncoderConfig from a folder's config.json and 1_Pooling/config.json.

    Raises UserError that names what cannot be honoured.
    """
    path = folder / "config.json"
    raw = read_json(path)
    is_gte = raw.get("model_type") == "new"

    # Fields that must have one value, or be absent.
    expected = GTE if is_gte else BERT
    refused = [f"{k}={raw[k]!r}" for k, v in expected.items() if raw.get(k, v) != v]

    # gte-large stretches its RoPE: "ntk" scaling by a factor.
    scaling = raw.get("rope_scaling") or {"type": "ntk", "factor": 1.0}
    scaling = scaling if isinstance(scaling, dict) else {"type": scaling}
    if is_gte and (scaling.get("type") != "ntk" or scaling.get("mixed_b")
                   or not isinstance(scaling.get("factor"), int | float)):
        refused.append(f"rope_scaling={scaling!r}")

    # Sizes.
    names = [*BERT_SIZES, *(["rope_theta"] if is_gte else [])]
    refused += [f"{name}={raw.get(name)!r}" for name in names
                if not isinstance(raw.get(name), int | float)]
    if not refused and raw["hidden_size"] % raw["num_attention_heads"]:
        refused.append(f"{raw['num_attention_heads']} heads of a width of {raw['hidden_size']}")
    if refused:
        raise UserError(f"{path}: cannot honour {', '.join(refused)}; expected a BERT encoder such "
                        "as all-MiniLM-L6-v2, or gte-large-en-v1.5")

    return {name: raw[name] for name in names} | {
        "rope_factor": scaling["factor"] if is_gte else 1.0,
        "mean_pooling": mean_pooling(folder, default=not is_gte)}


def mean_pooling(folder: Path, default: bool) -> bool:
    """What 1_Pooling/config.json says, the mean of all tokens or the first token; without such a
    file the `default`: the mean for BERTs such as MiniLM, the first token for gte."""
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return default
    found = read_json(path)
    modes = [found["pooling_mode"]] if "pooling_mode" in found else \
        [key for key, on in found.items() if key.startswith("pooling_mode_") and on is True]
    if modes in (["mean"], ["pooling_mode_mean_tokens"]):                    # new style, old style
        return True
    if modes in (["cls"], ["pooling_mode_cls_token"]):
        return False
    raise UserError(f"{path}: expected mean or CLS pooling, found "
                    + (", ".join(map(str, modes)) or "none"))
