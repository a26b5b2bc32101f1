"""The text encoder: a task description in English → one vector (arXiv 2506.06105, section 3).

    encoder = load_encoder()                     # all-MiniLM-L6-v2, fetched if missing
    embeddings = encoder.embed(["Answer with the opposite of the word."])        # (1, 384)

A BERT (arXiv 1810.04805) with mean pooling, in fp32. Modules carry Hugging Face's names.
Shapes: b texts, t tokens, d width, h heads, c channels of a head.
"""
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data.download import default_encoder
from data.files import UserError, read_json, read_safetensors, read_tokenizer


DEFAULT_ENCODER = "all-MiniLM-L6-v2"


@dataclass
class Config:
    """The fields of a BERT's config.json that this encoder honours."""
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    @classmethod
    def from_json(cls, path: Path) -> "Config":
        raw = read_json(path)
        usual = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        odd = [f"{k}={raw[k]!r}" for k, v in usual.items() if raw.get(k, v) != v]
        missing = [f for f in cls.__dataclass_fields__ if f not in raw]
        if odd or missing:
            raise UserError(f"{path}: cannot honour {', '.join(odd + missing)}; expected a BERT "
                            "encoder such as all-MiniLM-L6-v2")
        return cls(**{f: raw[f] for f in cls.__dataclass_fields__})


class Embeddings(nn.Module):
    """Word + position + segment (always 0), normalised."""

    def __init__(self, cfg: Config):
        super().__init__()
        d = cfg.hidden_size
        self.word_embeddings = nn.Embedding(cfg.vocab_size, d)
        self.position_embeddings = nn.Embedding(cfg.max_position_embeddings, d)
        self.token_type_embeddings = nn.Embedding(cfg.type_vocab_size, d)
        self.LayerNorm = nn.LayerNorm(d, cfg.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[:ids.shape[1]]
        return self.LayerNorm(self.word_embeddings(ids) + positions
                              + self.token_type_embeddings.weight[0])


class Layer(nn.Module):
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

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (self.attention["self"][name](x).view(b, t, self.h, d // self.h).transpose(1, 2)
                   for name in ("query", "key", "value"))                    # (b, h, t, c)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        out = self.attention["output"]
        x = out["LayerNorm"](x + out["dense"](y.reshape(b, t, d)))
        y = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        return self.output["LayerNorm"](x + y)


class Encoder(nn.Module):
    """BERT without its pooler; `embed` turns texts into vectors."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, self.name, self.width = cfg, "", cfg.hidden_size
        self.limit = min(256, cfg.max_position_embeddings)
        self.embeddings = Embeddings(cfg)
        self.encoder = nn.ModuleDict({
            "layer": nn.ModuleList(Layer(cfg) for _ in range(cfg.num_hidden_layers))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask (b, t), True where there is a token → the mean of the last states (b, d)."""
        x = self.embeddings(ids)
        for layer in self.encoder["layer"]:
            x = layer(x, mask[:, None, None])
        weights = mask[..., None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1).clamp_min(1)     # no token at all: zeros

    @torch.inference_mode()
    def embed(self, texts: list[str], batch_size: int = 64, progress: str = "") -> Tensor:
        """Texts → (len(texts), d), fp32, not normalised. Batched by length; cut at the context."""
        encoded = [e.ids for e in self.tokenizer.encode_batch(texts)]
        encoded = [ids if len(ids) <= self.limit else ids[:self.limit - 1] + ids[-1:]
                   for ids in encoded]                                     # the last is [SEP]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        rows = torch.empty(len(texts), self.cfg.hidden_size)
        for start in tqdm(range(0, len(order), batch_size), desc=progress, disable=not progress):
            batch = order[start:start + batch_size]
            width = len(encoded[batch[-1]])
            ids = torch.zeros(len(batch), max(width, 1), dtype=torch.long)
            mask = torch.zeros_like(ids, dtype=torch.bool)
            for row, i in enumerate(batch):
                ids[row, :len(encoded[i])] = torch.tensor(encoded[i], dtype=torch.long)
                mask[row, :len(encoded[i])] = True
            rows[batch] = self(ids, mask)
        return rows


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


def load_encoder(path: str | Path | None = None) -> Encoder:
    """The encoder of a Hugging Face folder (None: all-MiniLM-L6-v2, fetched when missing)."""
    folder = Path(path) if path else default_encoder()
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected a Hugging Face encoder folder")
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.exists() and not read_json(pooling).get("pooling_mode_mean_tokens", True):
        raise UserError(f"{pooling}: expected mean pooling, the only kind here")
    weights, _ = read_safetensors(folder / "model.safetensors")
    # A pooler (for next-sentence prediction) and the constant position ids are not used here.
    weights = {k.removeprefix("bert."): w for k, w in weights.items()}
    weights = {k: w for k, w in weights.items()
               if not k.startswith("pooler.") and not k.endswith("position_ids")}
    with torch.device("meta"):
        encoder = Encoder(Config.from_json(folder / "config.json"))
    try:
        encoder.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())[:300]}") from None
    encoder.name = str(path or DEFAULT_ENCODER)
    encoder.tokenizer = read_tokenizer(folder / "tokenizer.json")
    encoder.tokenizer.no_padding()
    encoder.tokenizer.no_truncation()
    return encoder.float().requires_grad_(False).eval()
