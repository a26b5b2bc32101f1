"""The language model: Mistral, Llama, Qwen or Gemma-2; the LoRA is an argument of its forward pass.

    model, tokenizer = load_model(), load_tokenizer()     # SmolLM2-135M-Instruct, fetched once
    print(generate(model, tokenizer, ["What is the capital of France?"]))

Reading order: config, a layer (RMSNorm, RoPE, attention, MLP), the model, loading, generation.
Modules carry Hugging Face's names, so its weight files load as they are. Shapes: b batch, t tokens,
T key positions, d width, h query heads, k key/value heads, g = h / k, c channels of a head.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora import MODULES, LoRA, contiguous_by_layer, lora_linear, map_lora, split_layers
from utils.cli import UserError, check_device
from utils.download import model_folder
from utils.fused import fused_layer, lay_together
from utils.hf_config import read_decoder_config
from utils.peft import check_one_each, lora_dtype
from utils.rope import rope_frequencies
from utils.schema import as_texts, check_types
from utils.tokenizer import Tokenizer, pad, read_chat_tokenizer
from utils.weights import load_weights, read_model_weights, usual_dtype

Pair = tuple[Tensor, Tensor]     # cos and sin, keys and values, or one layer's A and B
PLAIN_ATTENTION_UP_TO = 256      # key positions; see Attention.attend


@dataclass
class MistralConfig:
    """The fields of a Hugging Face config.json that this decoder honours, by their names there."""
    vocab_size: int
    hidden_size: int                           # d
    intermediate_size: int
    num_hidden_layers: int                     # n
    num_attention_heads: int                   # h
    num_key_value_heads: int                   # k
    head_dim: int                              # c
    rms_norm_eps: float
    rope_theta: float
    sliding_window: int | None
    tie_word_embeddings: bool
    max_position_embeddings: int
    eos_token_id: tuple[int, ...]
    name: str = ""                             # where the model comes from; recorded in adapters
    source: str = ""                           # what --model takes to load it
    windowed: tuple[int, ...] = ()             # the layers that have the sliding window
    biases: tuple[str, ...] = ()               # the projections that have one; Qwen2: q, k and v
    qk_norm: bool = False                      # Qwen3: an RMSNorm over each head's q, and k
    llama3: dict | None = None     # factor, low_ and high_freq_factor, original_max_position_…
    gemma: bool = False            # four norms with 1 + w, GeGLU, embeddings times √d
    query_pre_attn_scalar: float | None = None         # scores / √this, not / √c
    attn_logit_softcapping: float | None = None        # bounds the scores to ± this
    final_logit_softcapping: float | None = None       # … and the logits


class RMSNorm(nn.Module):
    """x / rms(x) · weight, normalised in fp32 whatever the dtype; Gemma's weight is 1 + w."""

    def __init__(self, cfg: MistralConfig, width: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width or cfg.hidden_size))
        self.eps, self.gemma = cfg.rms_norm_eps, cfg.gemma

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.gemma:
            return (wide * (1 + self.weight.float())).to(x.dtype)
        return self.weight * wide.to(x.dtype)


# ---------------------------------------------------------------------- rotary positions (RoPE)

def rope_table(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> Pair:
    """cos, sin (…, t, 1, c) for positions (…, t) and frequencies (c/2,), half-split: the pair of
    channels i, i + c/2 turns by frequencies[i] from one position to the next."""
    angles = positions[..., None] * frequencies                              # (…, t, c/2)
    angles = torch.cat([angles, angles], -1).unsqueeze(-2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rope: Pair) -> Tensor:
    """Turn the pairs (x_i, x_{i + c/2}) of x (b, t, heads, c) by their position's angles."""
    cos, sin = rope
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


# ------------------------------------------------------------------------------ one layer

def project(part: nn.Module, module: str, x: Tensor, adapter: dict[str, Pair]) -> Tensor:
    """A Linear of a layer's part, and its LoRA where the adapter has one for it."""
    return lora_linear(x, getattr(part, module), adapter.get(module))


class Attention(nn.Module):
    """Grouped-query attention: h query heads share k key/value heads."""

    def __init__(self, cfg: MistralConfig):
        super().__init__()
        self.k, self.g = cfg.num_key_value_heads, cfg.num_attention_heads // cfg.num_key_value_heads
        self.c, d, self.cap = cfg.head_dim, cfg.hidden_size, cfg.attn_logit_softcapping
        self.scale = (cfg.query_pre_attn_scalar or self.c) ** -0.5
        self.q_proj = nn.Linear(d, self.k * self.g * self.c, bias="q_proj" in cfg.biases)
        self.k_proj = nn.Linear(d, self.k * self.c, bias="k_proj" in cfg.biases)
        self.v_proj = nn.Linear(d, self.k * self.c, bias="v_proj" in cfg.biases)
        self.o_proj = nn.Linear(self.k * self.g * self.c, d, bias="o_proj" in cfg.biases)
        self.q_norm, self.k_norm = (RMSNorm(cfg, self.c) if cfg.qk_norm else nn.Identity()
                                    for _ in "qk")

    def forward(self, x: Tensor, rope: Pair, adapter: dict[str, Pair], mask: Tensor,
                cache: Pair | None, positions: Tensor) -> Tensor:
        b, t, _ = x.shape

        # One sample's adapter meets its tokens in lora_linear, whichever projections it has.
        q, v, k = (project(self, m, x, adapter) for m in ("q_proj", "v_proj", "k_proj"))
        q = rotate(self.q_norm(q.view(b, t, self.k * self.g, self.c)), rope)
        k = rotate(self.k_norm(k.view(b, t, self.k, self.c)), rope)
        v = v.view(b, t, self.k, self.c)

        # With a cache: write our keys and values, read all up to here.
        if cache is not None:
            rows, T = torch.arange(b, device=x.device)[:, None], mask.shape[-1]
            for store, new in zip(cache, (k, v)):
                store[rows, positions] = new                              # (b, T, k, c)
            k, v = (store[:, :T] for store in cache)

        return project(self, "o_proj", self.attend(q, k, v, mask).reshape(b, t, -1), adapter)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q (b, t, h, c), k, v (b, T, k, c), mask (t, T) or (b, t, T), True: seen → (b, t, h, c).

        Up to a few hundred keys plain matmul-softmax-matmul is about twice as fast on a CPU as the
        fused kernel; beyond, that saves the (t, T) matrices. It knows no soft-cap.
        """
        b, t, h, c, T = *q.shape, k.shape[1]
        if mask.dim() == 3:
            mask = mask[:, None]                                          # the same for all heads
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))                  # (b, heads, t, c)

        if (T > PLAIN_ATTENTION_UP_TO or not torch.is_grad_enabled()) and not self.cap:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale,
                                               enable_gqa=True)
            return y.transpose(1, 2)

        q = q.reshape(b, self.k, self.g * t, c)           # the g queries of a group share its keys
        scores = (q @ k.transpose(-1, -2) * self.scale).view(b, h, t, T)
        scores = softcap(scores, self.cap)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        y = weights.view(b, self.k, self.g * t, T) @ v                    # (b, k, g·t, c)
        return y.view(b, h, t, c).transpose(1, 2)


def softcap(x: Tensor, cap: float | None) -> Tensor:
    """Gemma-2's gentle bound: cap · tanh(x / cap)."""
    return x if cap is None else cap * torch.tanh(x / cap)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) · up x); Gemma has gelu in place of silu."""

    def __init__(self, cfg: MistralConfig):
        super().__init__()
        self.act = partial(F.gelu, approximate="tanh") if cfg.gemma else F.silu
        self.gate_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.up_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.down_proj = nn.Linear(cfg.intermediate_size, cfg.hidden_size, bias=False)

    def forward(self, x: Tensor, adapter: dict[str, Pair]) -> Tensor:
        gate, up = (project(self, m, x, adapter) for m in ("gate_proj", "up_proj"))
        return project(self, "down_proj", self.act(gate) * up, adapter)


class Layer(nn.Module):
    """Attention, then MLP, each on a normalised copy and added back. Gemma normalises what is added
    too; there "post_attention_layernorm" is that norm, elsewhere the one before the MLP."""

    def __init__(self, cfg: MistralConfig):
        super().__init__()
        self.self_attn, self.mlp = Attention(cfg), MLP(cfg)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(cfg), RMSNorm(cfg)
        self.gemma = cfg.gemma
        if cfg.gemma:
            self.pre_feedforward_layernorm = RMSNorm(cfg)
            self.post_feedforward_layernorm = RMSNorm(cfg)

    def forward(self, x: Tensor, rope: Pair, adapter: dict[str, Pair], mask: Tensor,
                cache: Pair | None, positions: Tensor) -> Tensor:
        y = self.self_attn(self.input_layernorm(x), rope, adapter, mask, cache, positions)
        if self.gemma:
            x = x + self.post_attention_layernorm(y)
            y = self.mlp(self.pre_feedforward_layernorm(x), adapter)
            return x + self.post_feedforward_layernorm(y)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x), adapter)


# ------------------------------------------------------------------------------- the model

class Mistral(nn.Module):
    """Token ids in, logits out; `lora` is applied in every layer. All weights are frozen."""

    def __init__(self, cfg: MistralConfig):
        super().__init__()
        self.cfg = cfg
        self.activation_checkpointing = False    # keep each layer's input, recompute the rest
        self.fused = False                       # whole sequences go through utils/fused.py,
        self.graphs = None                       # and in training as its CUDA graphs
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(cfg.vocab_size, cfg.hidden_size),
            "layers": nn.ModuleList(Layer(cfg) for _ in range(cfg.num_hidden_layers)),
            "norm": RMSNorm(cfg)})
        if not cfg.tie_word_embeddings:
            self.lm_head = nn.Linear(cfg.hidden_size, cfg.vocab_size, bias=False)
        self.requires_grad_(False)
        first = self.model["layers"][0]                   # an adapter has to fit its (d_out, d_in)
        self.sizes = {m: tuple(first.get_parameter(f"{part}.{m}.weight").shape)
                      for m, part in MODULES.items()}

    @property
    def device(self) -> torch.device:
        return self.model["embed_tokens"].weight.device

    def forward(self, ids: Tensor, lora: LoRA | None = None, keep: Tensor | None = None,
                cache: list | None = None, positions: Tensor | None = None) -> Tensor:
        """ids (b, t) → logits (b, t, vocab), or (kept, vocab); arguments as in `states`."""
        x = self.states(ids, lora, keep, cache, positions)
        head = self.model["embed_tokens"] if self.cfg.tie_word_embeddings else self.lm_head
        return softcap(F.linear(x, head.weight), self.cfg.final_logit_softcapping)

    def states(self, ids: Tensor, lora: LoRA | None = None, keep: Tensor | None = None,
               cache: list | None = None, positions: Tensor | None = None) -> Tensor:
        """ids (b, t) → the last layer's states, normalised, (b, t, d), or (kept, d) where `keep`
        (b, t) is True; arguments as in `layer_states`."""
        for x in self.layer_states(ids, lora, cache, positions):
            pass
        return self.model["norm"](x if keep is None else x[keep])

    def layer_states(self, ids: Tensor, lora: LoRA | None = None, cache: list | None = None,
                     positions: Tensor | None = None) -> Iterator[Tensor]:
        """ids (b, t) → every layer's output (b, t, d), one after the other (of graphs the last).

        Sequences start at the left and may be padded at the right: a causal model does not see
        what comes later. `positions` (b, t) say where the tokens stand in `cache`, which holds
        for each layer the keys and values (b, T, k, c) and is written in place.
        """
        cfg = self.cfg

        # Who sees whom: all that came before, or only the nearest `sliding_window` of it.
        if positions is None:
            positions = key_positions = torch.arange(ids.shape[1], device=ids.device)
        else:
            key_positions = torch.arange(int(positions.max()) + 1, device=ids.device)
        causal = window = key_positions <= positions[..., None]            # (t, T) or (b, t, T)
        if cfg.sliding_window:
            window = causal & (key_positions > positions[..., None] - cfg.sliding_window)

        # Embeddings, rotary table, adapters by layer.
        x = self.model["embed_tokens"](ids)                                # (b, t, d)
        if cfg.gemma:
            x = x * torch.tensor(cfg.hidden_size ** 0.5, dtype=x.dtype)    # rounded, as trained
        frequencies = rope_frequencies(cfg.head_dim, cfg.rope_theta, cfg.llama3, x.device)
        rope = rope_table(positions, frequencies, x.dtype)
        adapters = split_layers(lora, self.sizes, cfg.num_hidden_layers, x)

        # The layers.
        checkpointing = self.activation_checkpointing and torch.is_grad_enabled()
        fused = self.fused and cache is None and ids.shape[1] <= (cfg.sliding_window or torch.inf)
        if fused and self.graphs and lora and torch.is_grad_enabled():
            yield self.graphs(x, rope, adapters)
            return
        for i, layer in enumerate(self.model["layers"]):
            run = partial(fused_layer, layer) if fused else layer
            run = partial(checkpoint, run, use_reentrant=False) if checkpointing else run
            x = run(x, rope, adapters[i], window if i in cfg.windowed else causal,
                    cache[i] if cache else None, positions)
            yield x


# ---------------------------------------------------------------------------------- loading

def read_config(path: str | Path | None = None) -> MistralConfig:
    """A Hugging Face folder's config; UserError names what this decoder cannot honour."""
    folder = model_folder(path)
    return MistralConfig(**read_decoder_config(folder / "config.json"), source=str(path or folder))


def load_model(path: str | Path | None = None, dtype: torch.dtype | None = None,
               device: str = "cpu") -> Mistral:
    """The model of a Hugging Face folder, or of a name on the hub that is in the cache (None: the
    default model, fetched when missing), in `dtype` (None: usual_dtype).

    Weights already stored in `dtype` stay mapped to the file. Raises UserError for another
    family, and for weights that are missing, left over, cut off, not finite or of the wrong shape.
    """
    check_device(device)
    folder, cfg = model_folder(path), read_config(path)
    weights = read_model_weights(folder, cfg.tie_word_embeddings, cfg.num_hidden_layers)
    with torch.device("meta"):                           # no memory before the weights are there
        load_weights(model := Mistral(cfg), weights, folder)
    model = model.to(device, dtype or usual_dtype(device, folder)).requires_grad_(False).eval()
    model.fused = model.device.type == "cuda" and lay_together(model)
    return model


def load_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """A Hugging Face folder's tokenizer; UserError where it is not that of the model beside it."""
    return read_chat_tokenizer(model_folder(path))


# ------------------------------------------------------------------------------- generation

def select_loras(lora: LoRA | None, rows: Tensor) -> LoRA | None:
    """The adapters of these rows of a batch; a shared adapter (no batch axis) stays as it is."""
    return lora and map_lora(lora, lambda w: contiguous_by_layer(w[rows]) if w.dim() == 4 else w)


@torch.inference_mode()
def stream_ids(model: Mistral, prompts: list[list[int]], lora: LoRA | None,
               max_new_tokens: int, stop: tuple[int, ...]) -> Iterator[list[list[int]]]:
    """Greedy continuations of one batch of prompts, each up to and without a token of `stop`;
    yields the same list after every step, one token longer where a prompt's has not ended."""
    cfg, device, dtype = model.cfg, model.device, model.model["embed_tokens"].weight.dtype
    ids = pad(prompts, device)
    b, t = ids.shape
    if t + max_new_tokens > cfg.max_position_embeddings:
        raise UserError(f"a prompt of {t} tokens and {max_new_tokens} new ones exceed the model's "
                        f"{cfg.max_position_embeddings} positions")

    # Cast and laid out once; the model would do it for every token, a third slower.
    if lora:
        lora = map_lora(lora, lambda w: contiguous_by_layer(w.to(device,
                                                                 lora_dtype(device, dtype))))

    # Prefill: all prompts at once; the logits of each one's last token.
    shape = (b, t + max_new_tokens, cfg.num_key_value_heads, cfg.head_dim)
    cache = [tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")
             for _ in range(cfg.num_hidden_layers)]
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    positions = torch.arange(t, device=device).expand_as(ids)
    last = positions == lengths[:, None] - 1
    logits = model(ids, lora, keep=last, cache=cache, positions=positions)       # (b, vocab)

    # Decode: a token for each row that has not ended, at position `lengths`. The padding's keys in
    # the cache are overwritten before any mask reaches them.
    ends = torch.tensor(stop, device=device)
    rows = torch.arange(b, device=device)                         # which prompt a batch row answers
    done = torch.zeros_like(rows, dtype=torch.bool)
    out: list[list[int]] = [[] for _ in prompts]
    for step in range(max_new_tokens):
        new = logits.max(-1).indices                              # on a CPU faster than argmax
        done = done | torch.isin(new, ends)
        for row, token, ended in zip(rows.tolist(), new.tolist(), done.tolist()):
            if not ended:
                out[row].append(token)
        yield out
        if done.all() or step == max_new_tokens - 1:
            return
        if done.float().mean() > 0.25:        # dropping rows copies the cache: not for each one
            kept = (~done).nonzero()[:, 0]
            cache = [tuple(store[kept] for store in layer) for layer in cache]
            rows, new, lengths, done = rows[kept], new[kept], lengths[kept], done[kept]
            lora = select_loras(lora, kept)
        logits = model(new[:, None], lora, cache=cache, positions=lengths[:, None])[:, 0]
        lengths = lengths + 1


def generate_ids(model: Mistral, prompts: list[list[int]], lora: LoRA | None,
                 max_new_tokens: int, stop: tuple[int, ...]) -> list[list[int]]:
    """What stream_ids ends with."""
    answers: list[list[int]] = [[] for _ in prompts]
    for answers in stream_ids(model, prompts, lora, max_new_tokens, stop):
        pass
    return answers


def stream(model: Mistral, tokenizer: Tokenizer, prompts: list[str], lora: LoRA | None = None,
           max_new_tokens: int = 32) -> Iterator[list[str]]:
    """`generate` as it happens: all answers so far, after every token. One batch; a character of
    which only a part is there is left out, where `generate` ends in "\ufffd"."""
    stop = (*model.cfg.eos_token_id, tokenizer.end)
    encoded = [tokenizer.prompt(prompt) for prompt in prompts]
    for answers in stream_ids(model, encoded, lora, max_new_tokens, stop):
        yield [tokenizer.decode(ids).strip().rstrip("\ufffd") for ids in answers]


def generate(model: Mistral, tokenizer: Tokenizer, prompts: str | list[str],
             lora: LoRA | None = None, max_new_tokens: int = 32, batch_size: int = 64
             ) -> str | list[str]:
    """The greedy answer to a user message, or a list of them to a list; the chat format is added.

    `lora` is one adapter for all prompts, or one for each (a leading axis as long as `prompts`).
    Prompts run in batches of similar length.
    """
    check_types(model=(model, Mistral), tokenizer=(tokenizer, Tokenizer))
    one, prompts = isinstance(prompts, str), as_texts(prompts, "prompts")
    check_one_each(lora, len(prompts))
    stop = (*model.cfg.eos_token_id, tokenizer.end)
    encoded = [tokenizer.prompt(p) for p in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start:start + batch_size]
        batch = generate_ids(model, [encoded[i] for i in rows],
                             select_loras(lora, torch.tensor(rows)), max_new_tokens, stop)
        for i, ids in zip(rows, batch):
            answers[i] = tokenizer.decode(ids).strip()
    return answers[0] if one else answers
