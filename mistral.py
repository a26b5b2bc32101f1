"""The language model: Mistral, Llama or Gemma-2, with the LoRA as an argument of its forward pass.

    model, tokenizer = load_model(), load_tokenizer()     # SmolLM2-135M-Instruct, fetched once
    print(generate(model, tokenizer, ["What is the capital of France?"]))

Reading order: Config, the three parts of a layer (RMSNorm, Attention, MLP), the model, loading, the
chat format, generation. Modules carry Hugging Face's names, so its weight files load as they are.
Shapes: b batch, t tokens, d width, h heads, k key/value heads, g = h / k, c channels of a head.
"""
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lora as lora_ops
from data.config import read_fields
from data.download import default_model
from data.files import (UserError, check_vocabulary, load_strictly, read_shards,
                        read_tokenizer)
from lora import LoRA

PLAIN_ATTENTION_UP_TO = 256      # key positions; see Attention.attend


@dataclass
class Config:
    """The fields of a Hugging Face config.json that this decoder honours, by their names there."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    sliding_window: int | None
    tie_word_embeddings: bool
    max_position_embeddings: int
    eos_token_id: tuple[int, ...]
    name: str = ""                 # where the model comes from; recorded in adapters
    windowed: tuple[int, ...] = ()             # the layers that have the sliding window
    llama3: dict | None = None     # factor, low_ and high_freq_factor, original_max_position_…
    gemma: bool = False            # four norms with 1 + w, GeGLU, embeddings times √d
    query_pre_attn_scalar: float | None = None         # in place of c under the scores' root
    attn_logit_softcapping: float | None = None        # bounds the scores to ± this
    final_logit_softcapping: float | None = None       # … and the logits

    @classmethod
    def from_json(cls, path: Path) -> "Config":
        """Read config.json, old style or new; UserError names what this decoder cannot honour."""
        return cls(**read_fields(path))


class RMSNorm(nn.Module):
    """x / rms(x) · weight, normalised in fp32 whatever the dtype; Gemma's weight is 1 + w."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(cfg.hidden_size))
        self.eps, self.gemma = cfg.rms_norm_eps, cfg.gemma

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.gemma:
            return (wide * (1 + self.weight.float())).to(x.dtype)
        return self.weight * wide.to(x.dtype)


def frequencies_of(cfg: Config, device: torch.device) -> Tensor:
    """(c/2,): the pair of channels i turns by theta^(-2i/c) from one position to the next."""
    c = cfg.head_dim
    frequencies = cfg.rope_theta ** (-torch.arange(0, c, 2, device=device).float() / c)
    if cfg.llama3:
        frequencies = stretched(frequencies, *cfg.llama3.values())
    return frequencies


def rope_table(positions: Tensor, frequencies: Tensor,
               dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos, sin (…, t, 1, c) for positions (…, t) and frequencies (c/2,), half-split."""
    angles = positions[..., None] * frequencies                              # (…, t, c/2)
    angles = torch.cat([angles, angles], -1).unsqueeze(-2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def stretched(frequencies: Tensor, factor: float, low: float, high: float, context: int) -> Tensor:
    """Llama 3.1's frequencies (arXiv 2407.21783) for more than the `context` it was trained with.

    Those that turn `high` times or more within it stay, those that turn `low` times or less become
    `factor` times slower, and between them the two are mixed linearly in the number of turns.
    """
    turns = context * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / factor)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_i, x_{i + c/2}) of x (b, t, heads, c) by their position's angles."""
    cos, sin = rope
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


class Attention(nn.Module):
    """Grouped-query attention: h query heads share k key/value heads."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.k, self.g = cfg.num_key_value_heads, cfg.num_attention_heads // cfg.num_key_value_heads
        self.c, d, self.cap = cfg.head_dim, cfg.hidden_size, cfg.attn_logit_softcapping
        self.scale = (cfg.query_pre_attn_scalar or self.c) ** -0.5
        self.q_proj = nn.Linear(d, self.k * self.g * self.c, bias=False)
        self.k_proj = nn.Linear(d, self.k * self.c, bias=False)
        self.v_proj = nn.Linear(d, self.k * self.c, bias=False)
        self.o_proj = nn.Linear(self.k * self.g * self.c, d, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, adapter: dict,
                cache: tuple[Tensor, Tensor] | None, positions: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = lora_ops.linear(x, self.q_proj.weight, adapter.get("q_proj"))
        v = lora_ops.linear(x, self.v_proj.weight, adapter.get("v_proj"))
        q = rotate(q.view(b, t, self.k * self.g, self.c), rope)
        k = rotate(self.k_proj(x).view(b, t, self.k, self.c), rope)
        v = v.view(b, t, self.k, self.c)
        if cache is not None:                           # write our keys and values, read them all
            rows, seen = torch.arange(b, device=x.device)[:, None], mask.shape[-1]
            for store, new in zip(cache, (k, v)):
                store[rows, positions] = new            # (b, T, k, c)
            k, v = (store[:, :seen] for store in cache)
        return self.o_proj(self.attend(q, k, v, mask).reshape(b, t, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q (b, t, h, c), k, v (b, T, k, c), mask (t, T) or (b, t, T), True: seen → (b, t, h, c).

        Up to a few hundred keys plain matmul-softmax-matmul is about twice as fast on a CPU as the
        fused kernel, whose backward is slow; beyond, the fused kernel saves the (t, T) matrices.
        """
        b, t, h, c = q.shape
        if mask.dim() == 3:
            mask = mask[:, None]                                          # the same for all heads
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))                  # (b, heads, t, c)
        if k.shape[2] > PLAIN_ATTENTION_UP_TO and not self.cap:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale,
                                               enable_gqa=True)
            return y.transpose(1, 2)
        q = q.reshape(b, self.k, self.g * t, c)           # the g queries of a group share its keys
        scores = (q @ k.transpose(-1, -2) * self.scale).view(b, h, t, -1)
        scores = softcapped(scores, self.cap)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        y = weights.view(b, self.k, self.g * t, -1) @ v                   # (b, k, g·t, c)
        return y.view(b, h, t, c).transpose(1, 2)


def softcapped(x: Tensor, cap: float | None) -> Tensor:
    """Gemma-2's gentle bound: cap · tanh(x / cap)."""
    return x if cap is None else cap * torch.tanh(x / cap)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) · up x); Gemma has gelu in place of silu."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.act = partial(F.gelu, approximate="tanh") if cfg.gemma else F.silu
        self.gate_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.up_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.down_proj = nn.Linear(cfg.intermediate_size, cfg.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then MLP, each on a normalised copy and added back; Gemma normalises what is added
    once more, so that "post_attention_layernorm" names the norm before the MLP only in the others.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.self_attn, self.mlp = Attention(cfg), MLP(cfg)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(cfg), RMSNorm(cfg)
        self.gemma = cfg.gemma
        if cfg.gemma:
            self.pre_feedforward_layernorm = RMSNorm(cfg)
            self.post_feedforward_layernorm = RMSNorm(cfg)

    def forward(self, x: Tensor, *where) -> Tensor:
        y = self.self_attn(self.input_layernorm(x), *where)
        if self.gemma:
            x = x + self.post_attention_layernorm(y)
            return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x))


class Mistral(nn.Module):
    """Token ids in, logits out; `lora` is applied in every layer. All weights are frozen."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.recompute = False       # train with the layers' inputs alone kept, the rest redone
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(cfg.vocab_size, cfg.hidden_size),
            "layers": nn.ModuleList(Layer(cfg) for _ in range(cfg.num_hidden_layers)),
            "norm": RMSNorm(cfg)})
        if not cfg.tie_word_embeddings:
            self.lm_head = nn.Linear(cfg.hidden_size, cfg.vocab_size, bias=False)
        self.requires_grad_(False)

    def forward(self, ids: Tensor, *how, **named) -> Tensor:
        """ids (b, t) → logits (b, t, vocab), or (kept, vocab); other arguments as in `states`."""
        head = self.model["embed_tokens"] if self.cfg.tie_word_embeddings else self.lm_head
        logits = F.linear(self.states(ids, *how, **named), head.weight)
        return softcapped(logits, self.cfg.final_logit_softcapping)

    def states(self, ids: Tensor, lora: LoRA | None = None, keep: Tensor | None = None,
               cache: list | None = None, positions: Tensor | None = None) -> Tensor:
        """ids (b, t) → the last layer's states, normalised, (b, t, d), or (kept, d) where `keep`
        (b, t) is True.

        Sequences start at the left and may be padded at the right: a causal model does not see
        what comes later. `positions` (b, t) say where the tokens stand in `cache`, which holds
        for each layer the keys and values (b, T, k, c) and is written in place.
        """
        cfg = self.cfg
        if positions is None:
            positions = seen = torch.arange(ids.shape[1], device=ids.device)
        else:
            seen = torch.arange(int(positions.max()) + 1, device=ids.device)
        mask = near = seen <= positions[..., None]                         # (t, T) or (b, t, T)
        if cfg.sliding_window:
            near = mask & (seen > positions[..., None] - cfg.sliding_window)
        x = self.model["embed_tokens"](ids)                                # (b, t, d)
        if cfg.gemma:
            x = x * torch.tensor(cfg.hidden_size ** 0.5, dtype=x.dtype)    # rounded, as trained
        rope = rope_table(positions, frequencies_of(cfg, x.device), x.dtype)
        first = self.model["layers"][0].self_attn
        sizes = {m: tuple(getattr(first, m).weight.shape) for m in lora_ops.TARGETS}
        adapters = lora_ops.per_layer(lora, sizes, cfg.num_hidden_layers, x)
        recompute = self.recompute and torch.is_grad_enabled()
        for i, layer in enumerate(self.model["layers"]):
            run = partial(checkpoint, layer, use_reentrant=False) if recompute else layer
            x = run(x, rope, near if i in cfg.windowed else mask, adapters[i], cache and cache[i],
                    positions)
        return self.model["norm"](x if keep is None else x[keep])


# ---------------------------------------------------------------------------------- loading

def read_config(path: str | Path | None = None) -> Config:
    """The config of a Hugging Face folder (None: of the default model, fetched when missing)."""
    return Config.from_json((Path(path) if path else default_model()) / "config.json")


def load_model(path: str | Path | None = None, dtype: torch.dtype = torch.bfloat16,
               device: str = "cpu") -> Mistral:
    """The model of a Hugging Face folder (None: the default model, fetched when missing).

    Weights already stored in `dtype` stay mapped to the file. Raises UserError for another
    family, and for weights that are missing, left over, cut off, not finite or of the wrong shape.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device; leave it out for the CPU")
    folder = Path(path) if path else default_model()
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected a Hugging Face model folder "
                        "with config.json and model.safetensors")
    cfg = Config.from_json(folder / "config.json")
    weights = {name: w for _, shard in read_shards(folder) for name, w in shard.items()}
    if cfg.tie_word_embeddings:
        weights.pop("lm_head.weight", None)                # some writers store the tied copy too
    weights = {k: w for k, w in weights.items() if not k.endswith("rotary_emb.inv_freq")}
    with torch.device("meta"):
        model = Mistral(cfg)
    load_strictly(model, weights, folder)
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()


def same_model(name: str | None, other: str | None) -> bool:
    """Whether two names may mean one model: the same after the last "/", or not known."""
    return not name or not other or name.split("/")[-1] == other.split("/")[-1]


# ------------------------------------------------------------------------------ chat format

# The token that ends an answer → what a prompt is made of, <special> tokens and texts; {} is the
# message.
CHAT = {"<|im_end|>": ("<|im_start|>", "user\n{}", "<|im_end|>", "\n", "<|im_start|>",
                       "assistant\n"),                                               # SmolLM2
        "<|eot_id|>": ("<|begin_of_text|>", "<|start_header_id|>", "user", "<|end_header_id|>",
                       "\n\n{}", "<|eot_id|>", "<|start_header_id|>", "assistant",
                       "<|end_header_id|>", "\n\n"),                                  # Llama 3
        "<end_of_turn>": ("<bos>", "<start_of_turn>", "user\n{}", "<end_of_turn>", "\n",
                          "<start_of_turn>", "model\n"),                             # Gemma 2
        "</s>": ("<s>", "[INST] {} [/INST]")}                                        # Mistral


class Tokenizer:
    """Text ↔ ids, and the model's chat format around a user message, without a system message."""

    def __init__(self, path: Path):
        self.tokenizer = read_tokenizer(path)
        self.tokenizer.no_truncation()                    # some were saved with what trained them
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True       # "<|im_end|>" in a text is just text
        found = [end for end in CHAT if self.tokenizer.token_to_id(end) is not None]
        if not found:
            raise UserError(f"{path} knows none of {', '.join(CHAT)}, by one of which the families "
                            "here end an answer")
        self.end, self.chat = self.tokenizer.token_to_id(found[0]), CHAT[found[0]]
        self.special = {part: self.tokenizer.token_to_id(part) for part in self.chat
                        if part.startswith("<")}
        odd = [part for part, token in self.special.items() if token is None]
        odd += ["a plain-text [INST]"] * (self.tokenizer.token_to_id("[INST]") is not None)
        if odd:                                           # Mistral v0.3 has [INST] as one token
            raise UserError(f"{path} ends answers with {found[0]} but lacks {', '.join(odd)}; its "
                            "chat format is not known here")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompt(self, message: str) -> list[int]:
        """The ids before the answer: the model's chat template around one user message. SmolLM2's
        and Llama-3.1's own would begin with a system message, which is left out here."""
        parts = [[self.special[part]] if part in self.special else
                 self.encode(part.replace("{}", message)) for part in self.chat]
        return [token for ids in parts for token in ids]

    def answer(self, text: str) -> list[int]:
        """The ids to learn: the answer and the end token."""
        return [*self.encode(text), self.end]


def load_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder (None: the default model's); UserError where it is not
    that of the model beside it."""
    folder = Path(path) if path else default_model()
    tokenizer = Tokenizer(folder / "tokenizer.json")
    if (folder / "config.json").exists():
        check_vocabulary(tokenizer.tokenizer, read_config(folder).vocab_size, folder)
    return tokenizer


# ------------------------------------------------------------------------------- generation

def pad(rows: list[list[int]], device: str | torch.device = "cpu") -> Tensor:
    """Ids (b, t), padded with 0 at the right, where a causal model never looks."""
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)


def take(lora: LoRA | None, rows: Tensor) -> LoRA | None:
    """The adapters of these rows of a batch; a shared adapter (no batch axis) stays as it is."""
    if lora is None:
        return None
    return lora_ops.mapped(lora, lambda w: lora_ops.layers_first(w[rows]) if w.dim() == 4 else w)


@torch.inference_mode()
def generate_ids(model: Mistral, prompts: list[list[int]], lora: LoRA | None,
                 max_new_tokens: int, stop: tuple[int, ...]) -> list[list[int]]:
    """Greedy continuations of one batch of prompts, each up to and without a token of `stop`."""
    device = model.model["embed_tokens"].weight.device
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    cfg, total = model.cfg, int(lengths.max()) + max_new_tokens
    if total > cfg.max_position_embeddings:
        raise UserError(f"a prompt of {int(lengths.max())} tokens and {max_new_tokens} new ones "
                        f"exceed the model's {cfg.max_position_embeddings} positions")
    shape = (len(prompts), total, cfg.num_key_value_heads, cfg.head_dim)
    dtype = model.model["embed_tokens"].weight.dtype
    cache = [tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")
             for _ in range(cfg.num_hidden_layers)]
    ids = pad(prompts, device)
    positions = torch.arange(ids.shape[1], device=device).expand_as(ids)
    last = positions == lengths[:, None] - 1
    ends = torch.tensor(stop, device=device)
    out: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)              # which prompt a batch row answers
    done = torch.zeros_like(rows, dtype=torch.bool)
    if lora:         # cast and laid out once; the model would do it for every token, a third slower
        lora = lora_ops.mapped(lora, lambda w: lora_ops.layers_first(w.to(device, dtype)))
    logits = model(ids, lora, keep=last, cache=cache, positions=positions)  # (b, vocab)
    for step in range(max_new_tokens):
        new = logits.max(-1).indices         # on a CPU a fifth of argmax's time
        done = done | torch.isin(new, ends)
        for row, token, ended in zip(rows.tolist(), new.tolist(), done.tolist()):
            if not ended:
                out[row].append(token)
        if done.all() or step == max_new_tokens - 1:
            break
        if done.float().mean() > 0.25:       # dropping rows copies the cache: not for each one
            kept = (~done).nonzero()[:, 0]
            cache = [tuple(store[kept] for store in layer) for layer in cache]
            rows, new, lengths, done = rows[kept], new[kept], lengths[kept], done[kept]
            lora = take(lora, kept)
        logits = model(new[:, None], lora, cache=cache, positions=lengths[:, None])[:, 0]
        lengths = lengths + 1
    return out


def generate(model: Mistral, tokenizer: Tokenizer, prompts: list[str], lora: LoRA | None = None,
             max_new_tokens: int = 32, batch_size: int = 64) -> list[str]:
    """Greedy answers to user messages; the chat format is added here.

    `lora` is one adapter for all prompts, or one for each (a leading axis as long as `prompts`).
    Prompts run in batches of similar length.
    """
    for w in lora[0].values() if lora else ():
        if w.dim() == 4 and len(w) != len(prompts):
            raise UserError(f"{len(w)} adapters for {len(prompts)} prompts; give one for each, or "
                            "a single one without batch axis for all")
    stop = (*model.cfg.eos_token_id, tokenizer.end)
    encoded = [tokenizer.prompt(p) for p in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start:start + batch_size]
        batch = generate_ids(model, [encoded[i] for i in rows], take(lora, torch.tensor(rows)),
                             max_new_tokens, stop)
        for i, ids in zip(rows, batch):
            answers[i] = tokenizer.decode(ids).strip()
    return answers
