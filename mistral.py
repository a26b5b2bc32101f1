"""The language model: a Mistral / Llama decoder with the LoRA as an argument of its forward pass.

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
from data.download import default_model
from data.files import UserError, read_json, read_safetensors, read_tokenizer
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

    @classmethod
    def from_json(cls, path: Path) -> "Config":
        """Read config.json, old style or new; UserError names what this decoder cannot honour."""
        raw = read_json(path)
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        refused = [f"{field}={raw.get(field)!r}" for field, usual in
                   {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}.items()
                   if raw.get(field, usual) != usual]
        if raw.get("model_type") not in ("mistral", "llama"):
            refused.insert(0, f"model_type={raw.get('model_type')!r}")
        if rope_type != "default":
            refused.append(f"rope_type={rope_type!r}")
        if refused:
            raise UserError(f"{path}: cannot honour {', '.join(refused)}; expected a model of the "
                            "Mistral or Llama family with silu, no biases and plain RoPE")
        try:
            heads, width = raw["num_attention_heads"], raw["hidden_size"]
            ends = raw.get("eos_token_id")
            ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
            return cls(
                vocab_size=raw["vocab_size"], hidden_size=width,
                intermediate_size=raw["intermediate_size"],
                num_hidden_layers=raw["num_hidden_layers"], num_attention_heads=heads,
                num_key_value_heads=raw.get("num_key_value_heads", heads),
                head_dim=raw.get("head_dim") or width // heads,
                rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
                rope_theta=rope.get("rope_theta", raw.get("rope_theta", 10000.0)),
                sliding_window=raw.get("sliding_window"),
                tie_word_embeddings=raw.get("tie_word_embeddings", False),
                max_position_embeddings=raw.get("max_position_embeddings", 2048),
                eos_token_id=tuple(ends),
                name=raw.get("_name_or_path") or Path(path).parent.name)
        except KeyError as error:
            raise UserError(f"{path} lacks the field {error}") from None


class RMSNorm(nn.Module):
    """x / rms(x) · weight, computed in fp32 whatever the model's dtype."""

    def __init__(self, d: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rope_table(positions: Tensor, c: int, theta: float,
               dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos, sin (…, t, 1, c) for positions (…, t): channel i turns at theta^(-2i/c), half-split."""
    frequencies = theta ** (-torch.arange(0, c, 2, device=positions.device).float() / c)
    angles = positions[..., None] * frequencies                              # (…, t, c/2)
    angles = torch.cat([angles, angles], -1).unsqueeze(-2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


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
        self.c, d = cfg.head_dim, cfg.hidden_size
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
        if k.shape[2] > PLAIN_ATTENTION_UP_TO:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
            return y.transpose(1, 2)
        q = q.reshape(b, self.k, self.g * t, c)           # the g queries of a group share its keys
        scores = (q @ k.transpose(-1, -2) / math.sqrt(c)).view(b, h, t, -1)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        y = weights.view(b, self.k, self.g * t, -1) @ v                   # (b, k, g·t, c)
        return y.view(b, h, t, c).transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) · up x)."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.gate_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.up_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.down_proj = nn.Linear(cfg.intermediate_size, cfg.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then MLP, each on a normalised copy and added back."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.self_attn = Attention(cfg)
        self.post_attention_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.mlp = MLP(cfg)

    def forward(self, x: Tensor, *where) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *where)
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
            "norm": RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)})
        if not cfg.tie_word_embeddings:
            self.lm_head = nn.Linear(cfg.hidden_size, cfg.vocab_size, bias=False)
        self.requires_grad_(False)

    def forward(self, ids: Tensor, lora: LoRA | None = None, keep: Tensor | None = None,
                cache: list | None = None, positions: Tensor | None = None) -> Tensor:
        """ids (b, t) → logits (b, t, vocab), or (kept, vocab) where `keep` (b, t) is True.

        Sequences start at the left and may be padded at the right: a causal model does not see
        what comes later. `positions` (b, t) say where the tokens stand in `cache`, which holds
        for each layer the keys and values (b, T, k, c) and is written in place.
        """
        cfg = self.cfg
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        seen = torch.arange(int(positions.max()) + 1, device=ids.device)
        mask = seen <= positions[..., None]                                # (t, T) or (b, t, T)
        if cfg.sliding_window:
            mask &= seen > positions[..., None] - cfg.sliding_window
        x = self.model["embed_tokens"](ids)                                # (b, t, d)
        rope = rope_table(positions, cfg.head_dim, cfg.rope_theta, x.dtype)
        first = self.model["layers"][0].self_attn
        sizes = {m: tuple(getattr(first, m).weight.shape) for m in lora_ops.TARGETS}
        adapters = lora_ops.per_layer(lora, sizes, cfg.num_hidden_layers, x)
        recompute = self.recompute and torch.is_grad_enabled()
        for i, layer in enumerate(self.model["layers"]):
            run = partial(checkpoint, layer, use_reentrant=False) if recompute else layer
            x = run(x, rope, mask, adapters[i], cache and cache[i], positions)
        x = self.model["norm"](x if keep is None else x[keep])
        head = self.model["embed_tokens"] if cfg.tie_word_embeddings else self.lm_head
        return F.linear(x, head.weight)


# ---------------------------------------------------------------------------------- loading

def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder, from one safetensors file or from its shards."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")[0]
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(read_json(index)["weight_map"].values())):
        weights |= read_safetensors(folder / shard)[0]
    return weights


def load_model(path: str | Path | None = None, dtype: torch.dtype = torch.bfloat16,
               device: str = "cpu") -> Mistral:
    """The model of a Hugging Face folder (None: the default model, fetched when missing).

    Weights already stored in `dtype` stay mapped to the file. Raises UserError for another
    family, and for weights that are missing, left over, cut off or of the wrong shape.
    """
    folder = Path(path) if path else default_model()
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected a Hugging Face model folder "
                        "with config.json and model.safetensors")
    cfg = Config.from_json(folder / "config.json")
    weights = read_weights(folder)
    if cfg.tie_word_embeddings:
        weights.pop("lm_head.weight", None)                # some writers store the tied copy too
    weights = {k: w for k, w in weights.items() if not k.endswith("rotary_emb.inv_freq")}
    with torch.device("meta"):
        model = Mistral(cfg)
    expected = {name: tuple(w.shape) for name, w in model.state_dict().items()}
    found = {name: tuple(w.shape) for name, w in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(f"{folder}: {name} is {found.get(name, 'missing')}, "
                            f"config.json expects {expected.get(name, 'no such weight')}")
    model.load_state_dict(weights, strict=True, assign=True)
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()


# ------------------------------------------------------------------------------ chat format

class Tokenizer:
    """Text ↔ ids, and the model's chat format around a user message."""

    def __init__(self, path: Path):
        self.tokenizer = read_tokenizer(path)
        self.tokenizer.encode_special_tokens = True       # "<|im_end|>" in a text is just text
        self.chatml = self.tokenizer.token_to_id("<|im_end|>") is not None
        end = "<|im_end|>" if self.chatml else "</s>"
        self.end = self.tokenizer.token_to_id(end)
        if self.end is None:
            raise UserError(f"{path} knows neither <|im_end|> (ChatML) nor </s> (Mistral)")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompt(self, message: str) -> list[int]:
        """The ids before the answer: ChatML without a system message, or Mistral's [INST]."""
        if self.chatml:
            start = self.tokenizer.token_to_id("<|im_start|>")
            return [start, *self.encode(f"user\n{message}"), self.end, *self.encode("\n"),
                    start, *self.encode("assistant\n")]
        return [self.tokenizer.token_to_id("<s>"), *self.encode(f"[INST] {message} [/INST]")]

    def answer(self, text: str) -> list[int]:
        """The ids to learn: the answer and the end token."""
        return [*self.encode(text), self.end]


def load_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder (None: the default model's)."""
    return Tokenizer((Path(path) if path else default_model()) / "tokenizer.json")


# ------------------------------------------------------------------------------- generation

def pad(rows: list[list[int]], device: str | torch.device = "cpu") -> Tensor:
    """Ids (b, t), padded with 0 at the right, where a causal model never looks."""
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)


def take(lora: LoRA | None, rows: Tensor) -> LoRA | None:
    """The adapters of these rows of a batch; a shared adapter (no batch axis) stays as it is."""
    if lora is None:
        return None
    return tuple({m: lora_ops.layers_first(w[rows]) if w.dim() == 4 else w
                  for m, w in side.items()} for side in lora)


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
        lora = tuple({m: lora_ops.layers_first(w.to(device, dtype)) for m, w in side.items()}
                     for side in lora)
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
