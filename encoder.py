"""Text encoders: a task description in English → one vector (arXiv 2506.06105, section 3).

    encoder = load_encoder()                     # all-MiniLM-L6-v2, fetched if missing
    embeddings = encoder.embed(["Answer with the opposite of the word."])        # (1, 384)

A BERT (arXiv 1810.04805) such as MiniLM; or gte-large-en-v1.5 (arXiv 2407.19669), a BERT with
rotary positions and a gated MLP, which calls its architecture "new"; or the language model itself.
The first two in fp32; modules carry Hugging Face's names. Reading order: Config, the two kinds of
layers, the encoder, the language model as encoder, one-hot "encoding", loading.
Shapes: b texts, t tokens, d width, h heads, c channels of a head.
"""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import mistral
from data.download import cache_folder, default_encoder
from data.files import (UserError, check_vocabulary, load_strictly, read_json, read_safetensors,
                        read_tokenizer)

DEFAULT_ENCODER = "all-MiniLM-L6-v2"


@dataclass
class Config:
    """The fields of a config.json that this encoder honours; rope_* with model_type "new" only."""
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    rope_theta: float = 0.0                   # 0: a table of positions, as in BERT
    rope_factor: float = 1.0                  # "ntk" scaling
    mean_pooling: bool = True                 # else the first token's state stands for the text

    @classmethod
    def from_json(cls, path: Path) -> "Config":
        raw = read_json(path)
        new = raw.get("model_type") == "new"
        usual = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        if new:
            usual |= {"model_type": "new", "position_embedding_type": "rope", "pack_qkv": True,
                      "layer_norm_type": "layer_norm", "logn_attention_scale": False,
                      "logn_attention_clip1": False}
        scaling = raw.get("rope_scaling") or {"type": "ntk", "factor": 1.0}
        scaling = scaling if isinstance(scaling, dict) else {"type": scaling}
        odd = [f"{k}={raw[k]!r}" for k, v in usual.items() if raw.get(k, v) != v]
        if new and (scaling.get("type") != "ntk" or scaling.get("mixed_b")
                    or not isinstance(scaling.get("factor"), int | float)):
            odd.append(f"rope_scaling={scaling!r}")
        names = list(cls.__dataclass_fields__)[:8] + ["rope_theta"] * new
        odd += [f"{name}={raw.get(name)!r}" for name in names
                if not isinstance(raw.get(name), int | float)]
        if not odd and raw["hidden_size"] % raw["num_attention_heads"]:
            odd.append(f"{raw['num_attention_heads']} heads of a width of {raw['hidden_size']}")
        if odd:
            raise UserError(f"{path}: cannot honour {', '.join(odd)}; expected a BERT encoder such "
                            "as all-MiniLM-L6-v2, or gte-large-en-v1.5")
        return cls(**{name: raw[name] for name in names},
                   rope_factor=scaling["factor"] if new else 1.0)


class Embeddings(nn.Module):
    """Word + position (where there is no RoPE) + segment (always 0), normalised."""

    def __init__(self, cfg: Config):
        super().__init__()
        d = cfg.hidden_size
        self.word_embeddings = nn.Embedding(cfg.vocab_size, d)
        self.position_embeddings = None if cfg.rope_theta else \
            nn.Embedding(cfg.max_position_embeddings, d)
        self.token_type_embeddings = nn.Embedding(cfg.type_vocab_size, d) \
            if cfg.type_vocab_size else None
        self.LayerNorm = nn.LayerNorm(d, cfg.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word_embeddings(ids)
        if self.position_embeddings is not None:
            x = x + self.position_embeddings.weight[:ids.shape[1]]
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings.weight[0]
        return self.LayerNorm(x)


class BertLayer(nn.Module):
    """Bidirectional attention and a GELU MLP, each followed by LayerNorm (post-norm)."""

    def __init__(self, cfg: Config):
        super().__init__()
        d, self.h = cfg.hidden_size, cfg.num_attention_heads
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({name: nn.Linear(d, d) for name in ("query", "key", "value")}),
            "output": nn.ModuleDict({"dense": nn.Linear(d, d),
                                     "LayerNorm": nn.LayerNorm(d, cfg.layer_norm_eps)})})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(d, cfg.intermediate_size)})
        self.output = nn.ModuleDict({"dense": nn.Linear(cfg.intermediate_size, d),
                                     "LayerNorm": nn.LayerNorm(d, cfg.layer_norm_eps)})

    def forward(self, x: Tensor, mask: Tensor, rope: None) -> Tensor:
        b, t, d = x.shape
        q, k, v = (self.attention["self"][name](x).view(b, t, self.h, d // self.h).transpose(1, 2)
                   for name in ("query", "key", "value"))                    # (b, h, t, c)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        out = self.attention["output"]
        x = out["LayerNorm"](x + out["dense"](y.reshape(b, t, d)))
        y = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        return self.output["LayerNorm"](x + y)


class NewLayer(nn.Module):
    """The same with q, k and v from one matrix, RoPE, a gated MLP: down(up x · gelu(gate x))."""

    def __init__(self, cfg: Config):
        super().__init__()
        d, self.h = cfg.hidden_size, cfg.num_attention_heads
        self.attention = nn.ModuleDict({"qkv_proj": nn.Linear(d, 3 * d), "o_proj": nn.Linear(d, d)})
        self.attn_ln = nn.LayerNorm(d, cfg.layer_norm_eps)
        self.mlp = nn.ModuleDict({
            "up_gate_proj": nn.Linear(d, 2 * cfg.intermediate_size, bias=False),
            "down_proj": nn.Linear(cfg.intermediate_size, d)})
        self.mlp_ln = nn.LayerNorm(d, cfg.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.attention["qkv_proj"](x).view(b, t, 3, self.h, d // self.h).unbind(2)
        q, k = mistral.rotate(q, rope), mistral.rotate(k, rope)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))                     # (b, h, t, c)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        x = self.attn_ln(x + self.attention["o_proj"](y.reshape(b, t, d)))
        up, gate = self.mlp["up_gate_proj"](x).chunk(2, -1)
        return self.mlp_ln(x + self.mlp["down_proj"](up * F.gelu(gate)))


def rope_of(t: int, cfg: Config) -> tuple[Tensor, Tensor]:
    """cos, sin (t, 1, c). "ntk" scaling by s: theta becomes s · theta, and every frequency is
    divided by s^(2/c), so that the fastest slow down least."""
    c, s = cfg.hidden_size // cfg.num_attention_heads, cfg.rope_factor
    frequencies = (s * cfg.rope_theta) ** (-torch.arange(0, c, 2).float() / c) / s ** (2 / c)
    return mistral.rope_table(torch.arange(t), frequencies, torch.float32)


def in_batches(encoded: list[list[int]], d: int, batch_size: int, progress: str,
               read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`read`'s rows (len(encoded), d) for all texts, in their order; it is given some of similar
    length at a time: ids (b, t), padded at the right, and their lengths (b,)."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    rows = torch.empty(len(encoded), d)
    for start in tqdm(range(0, len(order), batch_size), desc=progress, disable=not progress):
        batch = order[start:start + batch_size]
        ids = mistral.pad([encoded[i] or [0] for i in batch])
        rows[batch] = read(ids, torch.tensor([len(encoded[i]) for i in batch])).float()
    return rows


class Encoder(nn.Module):
    """BERT without its pooler; `embed` turns texts into vectors."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, self.name, self.width = cfg, "", cfg.hidden_size
        # BERTs are tuned on at most 256 tokens; with RoPE the context is what a text may have
        self.limit = min(cfg.max_position_embeddings, 8192 if cfg.rope_theta else 256)
        self.embeddings = Embeddings(cfg)
        layer = NewLayer if cfg.rope_theta else BertLayer
        self.encoder = nn.ModuleDict({
            "layer": nn.ModuleList(layer(cfg) for _ in range(cfg.num_hidden_layers))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask (b, t), True where there is a token → (b, d): the mean of the last states, or
        the first token's."""
        x = self.embeddings(ids)
        rope = rope_of(ids.shape[1], self.cfg) if self.cfg.rope_theta else None
        for layer in self.encoder["layer"]:
            x = layer(x, mask[:, None, None], rope)
        if not self.cfg.mean_pooling:
            return x[:, 0]
        weights = mask[..., None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1).clamp_min(1)     # no token at all: zeros

    @torch.inference_mode()
    def embed(self, texts: list[str], batch_size: int = 64, progress: str = "") -> Tensor:
        """Texts → (len(texts), d), fp32, not normalised; similar lengths together."""
        encoded = [e.ids for e in self.tokenizer.encode_batch(texts)]
        encoded = [ids if len(ids) <= self.limit else ids[:self.limit - 1] + ids[-1:]
                   for ids in encoded]                                     # the last is [SEP]
        return in_batches(encoded, self.width, batch_size, progress, lambda ids, lengths: self(
            ids, torch.arange(ids.shape[1]) < lengths[:, None]))


class OneHot:
    """Stands in for the encoder where T2L knows its tasks by number: a task's name → its row."""
    name = "one-hot"

    def __init__(self, tasks: list[str]):
        self.tasks, self.width = tasks, len(tasks)

    def embed(self, texts: list[str], progress: str = "") -> Tensor:
        rows = torch.zeros(len(texts), len(self.tasks))
        for row, text in zip(rows, texts):
            name = text.removesuffix(".")                    # which embed() in t2l.py appends
            if name not in self.tasks:
                raise UserError(f"a one-hot T2L knows its own tasks only, not {name!r}; give "
                                "one of " + ", ".join(self.tasks))
            row[self.tasks.index(name)] = 1
        return rows


class LanguageModel:
    """--encoder base: the language model, in bf16, reads the bare description, without a chat
    format; its last token's state after the final norm is the embedding."""
    name, limit = "base", 512

    def __init__(self, folder: str | Path | None = None):
        self.model, tokenizer = mistral.load_model(folder), mistral.load_tokenizer(folder)
        self.tokenizer, self.width = tokenizer.tokenizer, self.model.cfg.hidden_size

    @torch.inference_mode()
    def embed(self, texts: list[str], batch_size: int = 32, progress: str = "") -> Tensor:
        encoded = [e.ids[:self.limit] or [0] for e in self.tokenizer.encode_batch(texts)]
        return in_batches(encoded, self.width, batch_size, progress, lambda ids, lengths:
                          self.model.states(ids)[range(len(ids)), lengths - 1])


def load_encoder(path: str | Path | None = None,
                 model: str | Path | None = None) -> "Encoder | LanguageModel":
    """The encoder of a Hugging Face folder, or of that name in the cache (None: all-MiniLM-L6-v2,
    fetched when missing; "base": the language model in the folder `model`)."""
    if path == "base":
        return LanguageModel(model)
    folder = default_encoder() if path in (None, DEFAULT_ENCODER) else Path(path)
    if not folder.is_dir():
        folder = cache_folder() / folder.name
    if not folder.is_dir():
        raise UserError(f"{path} is not a folder, nor one in {cache_folder()}; expected a Hugging "
                        "Face encoder folder (data/download.py fetches gte-large)")
    cfg = Config.from_json(folder / "config.json")
    cfg.mean_pooling = mean_pooling(folder, usual=not cfg.rope_theta)
    weights = read_safetensors(folder / "model.safetensors")
    # A pooler (for next-sentence prediction) and the constant position ids are not used here.
    weights = {k.removeprefix("bert.").removeprefix("new."): w for k, w in weights.items()}
    weights = {k: w for k, w in weights.items()
               if not k.startswith("pooler.") and not k.endswith("position_ids")}
    with torch.device("meta"):
        encoder = Encoder(cfg)
    load_strictly(encoder, weights, folder)
    encoder.name = str(path or DEFAULT_ENCODER)
    encoder.tokenizer = read_tokenizer(folder / "tokenizer.json")
    check_vocabulary(encoder.tokenizer, cfg.vocab_size, folder)
    encoder.tokenizer.no_padding()
    encoder.tokenizer.no_truncation()
    return encoder.float().requires_grad_(False).eval()


def mean_pooling(folder: Path, usual: bool) -> bool:
    """What 1_Pooling/config.json says, the mean of all tokens or the first token; without such a
    file what is `usual`: the mean for BERTs such as MiniLM, the first token for gte."""
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return usual
    said = read_json(path)
    modes = [said["pooling_mode"]] if "pooling_mode" in said else \
        [key for key, on in said.items() if key.startswith("pooling_mode_") and on is True]
    if modes in (["mean"], ["pooling_mode_mean_tokens"]):                    # new style, old style
        return True
    if modes in (["cls"], ["pooling_mode_cls_token"]):
        return False
    raise UserError(f"{path}: expected mean or CLS pooling, found "
                    + (", ".join(map(str, modes)) or "none"))
