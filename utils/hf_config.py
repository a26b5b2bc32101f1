"""config.json of a Hugging Face folder → the fields that our decoder and our encoder honour.

What an absent field means, what is refused, what is ignored: no field is passed over in silence.
For an encoder also what sentence-transformers keeps beside it: modules.json and what that names.
"""
import os
import re
from pathlib import Path

from utils.cli import UserError, warn
from utils.files import parse_json, read_json, read_text
from utils.peft import hub_name
from utils.schema import (EPSILON, FLAG, LAYERS, TEXT, WIDTH, either, list_of, misfits, number,
                          one_of, optional, whole)

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
               "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
              "use_sliding_window": False, "max_window_layers": 28},       # Qwen2.5, too
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
              "use_sliding_window": False, "max_window_layers": 28, "head_dim": 128,
              "attention_bias": False}}
QWENS = ("qwen2", "qwen3")
# Fields that change what a model computes → the values at which they do not, beside null.
UNSUPPORTED = {"attention_bias": (False,), "mlp_bias": (False,), "pretraining_tp": (0, 1),
               "partial_rotary_factor": (1.0,), "use_bidirectional_attention": (False,),
               "rope_interleaved": (False,), "quantization_config": (), "clip_qkv": (),
               "is_encoder_decoder": (False,), "add_cross_attention": (False,),
               "pruned_heads": ({},)}
# Fields about training, saving and generating (older versions saved these, too), and those that
# are read by name below. So are all whose names begin with "_", and those that are off.
IGNORED = set("""
    architectures attention_dropout auto_map bad_words_ids begin_suppress_tokens bos_token_id
    cache_implementation chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    hidden_act hidden_activation id2label initializer_range is_decoder is_llama_config label2id
    length_penalty max_length max_window_layers min_length model_type no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores pad_token_id prefix problem_type remove_invalid_values repetition_penalty
    return_dict return_dict_in_generate rope_parameters rope_scaling sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
    torch_dtype torchscript transformers.js_config transformers_version typical_p unsloth_fixed
    unsloth_version use_bfloat16 use_cache
    """.split())
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
         "num_attention_heads")
CAPS = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
# … and fields that only other families' classes have: nothing can be said there but null.
FAMILY_UNSUPPORTED = {"llama": dict.fromkeys(("sliding_window", "layer_types", *CAPS), ()),
                      "mistral": dict.fromkeys(CAPS, ()), "gemma2": {},
                      **{family: dict.fromkeys(CAPS, ()) for family in QWENS}}
for family in ("llama", "qwen3"):                    # Qwen2 has biases whatever its config says
    FAMILY_UNSUPPORTED[family]["attention_bias"] = (False, True)
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
ROPES = {"default": {"rope_theta"}, "llama3": {"rope_theta", *LLAMA3}}         # kind → its fields
KNOWN = {*DEFAULTS, *FAMILY_DEFAULTS["gemma2"], *UNSUPPORTED, *IGNORED, *SIZES}

POSITION = whole(1, 2**40)
TOKEN = whole(0, 2**31)
THETA = number(1, 1e15)
DECODER = {
    "vocab_size": whole(1, 2**24), "hidden_size": WIDTH, "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS, "num_attention_heads": whole(1, 2**16),
    "num_key_value_heads": optional(whole(1, 2**16)), "head_dim": optional(whole(2, 2**16, 2)),
    "max_position_embeddings": POSITION, "sliding_window": optional(POSITION),
    "rms_norm_eps": EPSILON, "rope_theta": THETA, "query_pre_attn_scalar": number(1e-6, 1e6),
    "attn_logit_softcapping": optional(number(1e-3, 1e6)),
    "final_logit_softcapping": optional(number(1e-3, 1e6)), "tie_word_embeddings": FLAG,
    "layer_types": optional(list_of(one_of("sliding_attention", "full_attention"))),
    "eos_token_id": optional(either(TOKEN, list_of(TOKEN))), "_name_or_path": optional(TEXT),
    "hidden_act": optional(TEXT), "hidden_activation": optional(TEXT)}
QWEN = {"use_sliding_window": FLAG, "max_window_layers": whole(0, 2**40)}
ROPE = {"rope_type": TEXT, "rope_theta": THETA, "factor": number(1e-3, 1e6),
        "low_freq_factor": number(1e-3, 1e6), "high_freq_factor": number(1e-3, 1e6),
        "original_max_position_embeddings": POSITION}


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
    if not isinstance(family, str) or family not in FAMILY_DEFAULTS:
        refuse(path, [f"model_type={family!r}", *unknown])
    unknown = [field for field in unknown if field not in FAMILY_DEFAULTS[family]]

    # Is every field of its kind, and does the model have all sizes?
    raw = DEFAULTS | FAMILY_DEFAULTS[family] | found
    rope, only_gemma = rope_parameters(raw), () if family == "gemma2" else CAPS
    wrong = [misfits({f: v for f, v in raw.items() if f not in only_gemma}, DECODER),
             misfits(raw, QWEN) if family in QWENS else "",
             misfits(rope, ROPE, "rope_parameters.")]
    if wrong := ", ".join(filter(None, wrong)):
        raise UserError(f"{path}: found {wrong}")
    if missing := [f for f in SIZES if f not in raw]:
        raise UserError(f"{path} lacks the field {', '.join(missing)}")

    # Nothing that would be computed wrongly?
    refuse(path, refusals(raw, rope))
    if missing := sorted(ROPES[rope["rope_type"]] - rope.keys()):
        raise UserError(f"{path} lacks the field {', '.join(missing)}")
    if unknown := [f for f in unknown if found[f] not in (None, False) and f[:1] != "_"]:
        warn(f"{path}: fields that are not known here: {', '.join(unknown)}")
    return derived(raw, rope) | {"name": model_name(path.parent, raw["_name_or_path"])}


def model_name(folder: Path, said: str | None) -> str:
    """What adapters for it are to say: in the cache of Hugging Face's hub the model's name there,
    else what its config says, else the folder's name."""
    for place in (os.path.abspath(folder), os.path.realpath(folder)):
        if (name := hub_name(place)) != place:
            return name
    return said or Path(os.path.abspath(folder)).name


def rope_parameters(raw: dict) -> dict:
    """RoPE's parameters, wherever they stand: "rope_type", "rope_theta" and what else there is."""
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    given = dict(given) if isinstance(given, dict) else {"rope_type": given}
    kind = given.pop("type", "default")                       # the old name of rope_type
    return {"rope_type": kind, "rope_theta": raw["rope_theta"]} | given


def refuse(path: Path, refused: list[str]) -> None:
    if refused:
        raise UserError(f"{path}: cannot honour {', '.join(refused)}; expected a Mistral, "
                        "Llama, Qwen2, Qwen2.5, Qwen3 or Gemma-2 model, with plain or \"llama3\" "
                        "RoPE")


def refusals(raw: dict, rope: dict) -> list[str]:
    """"field=value" for everything in a config.json that the decoder would get wrong."""
    family, types = raw["model_type"], raw["layer_types"]
    act = raw.get("hidden_activation") or raw.get("hidden_act")
    neutral = UNSUPPORTED | FAMILY_UNSUPPORTED[family]
    refused = [f"{field}={raw[field]!r}" for field in neutral
               if raw.get(field) is not None and raw[field] not in neutral[field]]
    heads, c = raw["num_attention_heads"], raw["head_dim"]
    if heads % (raw["num_key_value_heads"] or 1):
        refused.append(f"{heads} heads, which cannot share the keys of "
                       f"{raw['num_key_value_heads']} evenly")
    if not c and (raw["hidden_size"] // heads < 2 or raw["hidden_size"] // heads % 2):
        refused.append(f"{heads} heads of a width of {raw['hidden_size']}, for RoPE turns pairs")
    if act not in (None, "gelu_pytorch_tanh" if family == "gemma2" else "silu"):
        refused.append(f"hidden_act={act!r}")
    if family in QWENS and types and "sliding_attention" in types \
            and not (raw["use_sliding_window"] and raw["sliding_window"]):
        refused.append("layer_types with sliding_attention, but no window for it")
    if types and len(types) != raw["num_hidden_layers"]:
        refused.append(f"layer_types for {len(types)} of {raw['num_hidden_layers']} layers")
    if raw.get("rope_parameters") and raw.get("rope_scaling"):
        refused.append("rope_parameters beside rope_scaling")
    if rope["rope_type"] not in ROPES:
        return [*refused, f"rope_type={rope['rope_type']!r}"]
    refused += [f"rope_parameters.{field}={rope[field]!r}"
                for field in sorted(rope.keys() - {"rope_type"} - ROPES[rope["rope_type"]])
                if (field, rope[field]) != ("partial_rotary_factor", 1.0)]
    if rope["rope_type"] == "llama3" and \
            rope.get("high_freq_factor", 2) <= rope.get("low_freq_factor", 1):
        refused.append("a high_freq_factor that is not above low_freq_factor")
    return refused


def derived(raw: dict, rope: dict) -> dict:
    """The fields as the decoder wants them: what follows from others is worked out."""
    layers, heads, ends = (raw[f] for f in ("num_hidden_layers", "num_attention_heads",
                                            "eos_token_id"))
    family, gemma, window = raw["model_type"], raw["model_type"] == "gemma2", raw["sliding_window"]
    if family in QWENS and not raw["use_sliding_window"]:
        window = None
    # Where layer_types does not say: all of Mistral's layers, every other one of Gemma-2's, Qwen's
    # from max_window_layers on.
    first = raw["max_window_layers"] if family in QWENS else 0
    types = raw["layer_types"] or ["sliding_attention" if i >= first and not (gemma and i % 2)
                                   else "full_attention" for i in range(layers)]
    biases = {"qwen2": ("q_proj", "k_proj", "v_proj")}.get(
        family, ("q_proj", "k_proj", "v_proj", "o_proj") if raw.get("attention_bias") else ())
    as_they_are = (*SIZES, "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings",
                   *CAPS * gemma)
    return {f: raw[f] for f in as_they_are} | {
        "gemma": gemma, "biases": biases, "qk_norm": family == "qwen3",
        "num_key_value_heads": raw["num_key_value_heads"] or heads,
        "head_dim": raw["head_dim"] or raw["hidden_size"] // heads,
        "rope_theta": rope["rope_theta"], "sliding_window": window,
        "llama3": {f: rope[f] for f in LLAMA3} if rope["rope_type"] == "llama3" else None,
        "windowed": tuple(i for i in range(layers) if window and types[i] == "sliding_attention"),
        "eos_token_id": tuple(ends if isinstance(ends, list) else [] if ends is None else [ends])}


# ----------------------------------------------------------------------------- text encoders

ENCODER = {"vocab_size": whole(1, 2**24), "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
           "num_attention_heads": whole(1, 2**16), "intermediate_size": WIDTH,
           "max_position_embeddings": whole(2, 2**24), "type_vocab_size": whole(0, 2**16),
           "layer_norm_eps": EPSILON}
BERT = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute",
        "is_decoder": False, "add_cross_attention": False, "quantization_config": None}
GTE = {"model_type": "new", "hidden_act": "gelu", "position_embedding_type": "rope",
       "pack_qkv": True, "layer_norm_type": "layer_norm", "logn_attention_scale": False,
       "logn_attention_clip1": False,                       # gte-large calls its architecture "new"
       "quantization_config": None}


def read_encoder_config(folder: Path) -> dict:
    """The fields of EncoderConfig from a folder's config.json.

    Raises UserError that names what cannot be honoured.
    """
    path = folder / "config.json"
    raw = read_json(path)
    is_gte = raw.get("model_type") == "new"
    fields = ENCODER | ({"rope_theta": THETA} if is_gte else {})

    # Fields that must have one value, or be absent.
    expected = GTE if is_gte else BERT
    refused = [f"{k}={raw[k]!r}" for k, v in expected.items() if raw.get(k, v) != v]

    # gte-large stretches its RoPE: "ntk" scaling by a factor.
    scaling = raw.get("rope_scaling") or {"type": "ntk", "factor": 1.0}
    scaling = scaling if isinstance(scaling, dict) else {"type": scaling}
    if is_gte and (scaling.get("type") != "ntk" or scaling.get("mixed_b")
                   or not ROPE["factor"].fits(scaling.get("factor"))):
        refused.append(f"rope_scaling={scaling!r}")

    # Sizes.
    if wrong := misfits(dict.fromkeys(fields) | raw, fields):
        refused.append(wrong)
    elif raw["hidden_size"] % raw["num_attention_heads"] or \
            is_gte and raw["hidden_size"] // raw["num_attention_heads"] % 2:
        refused.append(f"{raw['num_attention_heads']} heads of a width of {raw['hidden_size']}")
    if refused:
        raise UserError(f"{path}: cannot honour {', '.join(refused)}; expected a BERT encoder such "
                        "as all-MiniLM-L6-v2, or gte-large-en-v1.5")
    return {name: raw[name] for name in fields} | {
        "rope_factor": scaling["factor"] if is_gte else 1.0, "mean_pooling": not is_gte}


# --------------------------------------------------------------- sentence-transformers' folders

ACTIVATIONS = {"torch.nn.modules.activation.Tanh": "Tanh", "torch.nn.modules.linear.Identity":
               "Identity", "torch.nn.modules.activation.ReLU": "ReLU",
               "torch.nn.modules.activation.GELU": "GELU",
               "torch.nn.modules.activation.Sigmoid": "Sigmoid"}
DENSE = {"in_features": WIDTH, "out_features": WIDTH, "bias": FLAG,
         "activation_function": one_of(*ACTIVATIONS),
         "module_input_name": one_of("sentence_embedding"),
         "module_output_name": optional(one_of("sentence_embedding"))}
# What else may stand in sentence_bert_config.json, as every version writes it.
AS_USUAL = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
            "modality_config": {"text": {"method": "forward",
                                         "method_output_name": "last_hidden_state"}}}


def read_encoder_folder(folder: Path) -> tuple[Path, dict]:
    """(The folder with the encoder's weights and tokenizer, the fields of EncoderConfig), as
    modules.json puts them together; without it all is in `folder`, with 1_Pooling's if there is.

    Raises UserError that names what would make other vectors than sentence-transformers'.
    """
    # Without modules.json.
    path = folder / "modules.json"
    if not path.exists():
        return folder, read_encoder_config(folder) | text_fields(folder) \
            | pooling_fields(folder / "1_Pooling")

    # A Transformer, a Pooling, then only what is known here.
    parts = read_module_list(path)
    kinds = [kind for kind, _ in parts]
    if kinds[:2] != ["Transformer", "Pooling"] or not {*kinds[2:]} <= {"Dense", "Normalize"}:
        raise UserError(f"{path}: cannot honour {', '.join(kinds) or 'no module'}; expected a "
                        "Transformer and a Pooling, then Dense or Normalize")
    beside = folder / "config_sentence_transformers.json"
    said = read_json(beside) if beside.exists() else {}
    for field in ("default_prompt_name", "truncate_dim"):
        if said.get(field) is not None:
            raise UserError(f"{beside}: cannot honour {field}={said[field]!r}, which changes every "
                            "vector; expected null")

    (_, bert), (_, pooling), *after = parts
    fields = read_encoder_config(bert) | {"max_tokens": 2**24} | text_fields(bert)
    if not (pooling / "config.json").exists():
        raise UserError(f"{path} names {pooling}, which has no config.json")

    # What follows the pooling, one width after the other.
    width, layers = fields["hidden_size"], []
    for kind, where in after:
        layers.append(dense_fields(where) if kind == "Dense" else {})
        if layers[-1].get("in_features", width) != width:
            raise UserError(f"{where}/config.json reads {layers[-1]['in_features']} numbers, but "
                            f"is given {width}")
        width = layers[-1].get("out_features", width)
    return bert, fields | pooling_fields(pooling) | {"after_pooling": layers}


def read_module_list(path: Path) -> list[tuple[str, Path]]:
    """modules.json as (class, without the module of sentence-transformers it is in; folder)."""
    try:
        rows = parse_json(read_text(path), path)
        return [(re.sub(r"^sentence_transformers\.([\w.]+\.)?", "", row["type"]),
                 path.parent / inside(row["path"])) for row in rows]
    except (ValueError, OSError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: expected a list of modules with their \"type\" and \"path\" "
                        f"inside the folder ({error})") from None


def inside(path: str) -> str:
    """The path of a module, which must not lead out of the folder."""
    if not TEXT.fits(path) or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"path {path!r}")
    return path


def text_fields(folder: Path) -> dict:
    """How many tokens of a text are read, whether capitals are: from sentence_bert_config.json,
    where that does not say from the tokenizer's own config."""
    said = [*sorted(folder.glob("sentence_*_config.json")),                 # one: bert, roberta …
            folder / "tokenizer_config.json"]
    found = {path: read_json(path) for path in said if path.exists()}
    fields = {}
    for path, raw in found.items():
        length = "model_max_length" if path == said[-1] else "max_seq_length"
        kinds = {length: optional(whole(2, 10**31)), "do_lower_case": optional(FLAG)}
        if wrong := misfits(raw, kinds):
            raise UserError(f"{path}: found {wrong}")
        fields = {"max_tokens": raw.get(length)} | {k: v for k, v in fields.items() if v}
        if path == said[-1]:
            continue
        fields["lower_case"] = bool(raw.pop("do_lower_case", False))
        for name in raw.keys() - {length}:
            if raw[name] and raw[name] != AS_USUAL.get(name):
                raise UserError(f"{path}: cannot honour {name}={raw[name]!r}")
    return {name: value for name, value in fields.items() if value}


def pooling_fields(folder: Path) -> dict:
    """From a Pooling's config.json: the mean of all tokens, or the first token. Without such a file
    nothing: the mean for BERTs such as MiniLM, the first token for gte."""
    path = folder / "config.json"
    if not path.exists():
        return {}
    found = read_json(path)
    modes = [found["pooling_mode"]] if "pooling_mode" in found else \
        [key for key, on in found.items() if key.startswith("pooling_mode_") and on is True]
    if modes in (["mean"], ["pooling_mode_mean_tokens"]):                    # new style, old style
        return {"mean_pooling": True}
    if modes in (["cls"], ["pooling_mode_cls_token"]):
        return {"mean_pooling": False}
    raise UserError(f"{path}: expected mean or CLS pooling, found "
                    + (", ".join(map(str, modes)) or "none"))


def dense_fields(folder: Path) -> dict:
    """A Dense module's config.json, with the defaults of sentence-transformers."""
    path = folder / "config.json"
    found = {"bias": True, "activation_function": "torch.nn.modules.activation.Tanh",
             "in_features": None, "out_features": None} | read_json(path)
    if wrong := misfits(found, DENSE) or found.get("use_residual") and "use_residual":
        raise UserError(f"{path}: cannot honour {wrong}")
    return {"folder": folder, "activation": ACTIVATIONS[found["activation_function"]]} | {
        name: found[name] for name in ("in_features", "out_features", "bias")}
