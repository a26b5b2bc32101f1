"""The linear modules of a language model's layer: which can be adapted, their names and order."""
from collections.abc import Iterable

# What can be adapted, each with the part of the layer that it is in; and what is adapted unless
# others are asked for, as in the paper.
MODULES = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn",
           "o_proj": "self_attn", "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}
TARGETS = ("q_proj", "v_proj")

# llama.cpp's names for them, in a GGUF file.
GGUF = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
        "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


def layer_name(i: int, module: str) -> str:
    """Hugging Face's name of a module in layer i."""
    return f"model.layers.{i}.{MODULES[module]}.{module}"


def in_order(modules: Iterable[str]) -> list[str]:
    """These modules, each once, as MODULES has them: a module's place is its number in a T2L."""
    wanted = set(modules)
    return [m for m in MODULES if m in wanted]


def adapted_modules(cfg, modules: Iterable[str] = TARGETS) -> dict[str, tuple[int, int]]:
    """{module: (d_in, d_out)} of the language model with this MistralConfig, for these modules."""
    d, wide = cfg.hidden_size, cfg.intermediate_size
    q, kv = (heads * cfg.head_dim for heads in (cfg.num_attention_heads, cfg.num_key_value_heads))
    sizes = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d),
             "gate_proj": (d, wide), "up_proj": (d, wide), "down_proj": (wide, d)}
    return {m: sizes[m] for m in in_order(modules)}
