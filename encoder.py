"""Text encoders: a task description in English → one vector (arXiv 2506.06105, section 3).

    encoder = load_encoder()                     # all-MiniLM-L6-v2, fetched if missing
    task_emb = embed(encoder, ["Write the word in capital letters."])       # (1, 384), for T2L

A BERT (arXiv 1810.04805) such as MiniLM; or gte-large-en-v1.5 (arXiv 2407.19669), a BERT with
rotary positions and a gated MLP, which calls its architecture "new"; or the language model itself.
The first two in fp32; modules carry Hugging Face's names. Reading order: config, the two kinds of
layers, the encoder, one-hot "encoding", the language model as encoder, loading, embedding.
Shapes: b texts, t tokens, d width, h heads, c channels of a head.
"""
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tokenizers import normalizers
from tqdm import tqdm

from mistral import Mistral, load_model, load_tokenizer, read_config, rope_table, rotate
from utils.cli import UserError, reads_states
from utils.download import cache_folder, default_encoder
from utils.embedding_cache import digest, embed_cached
from utils.hf_config import read_encoder_folder
from utils.peft import LoRA, read_reader, same_model
from utils.rope import ntk_scaling
from utils.tokenizer import check_vocabulary, pad, read_tokenizer
from utils.weights import check_layer_count, load_weights, read_safetensors

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
INSTEAD = "instead of a description: "       # so begins what a T2L of experiments.readers reads


@dataclass
class EncoderConfig:
    """The fields of a config.json that this encoder honours; rope_* are gte-large's alone."""
    vocab_size: int
    hidden_size: int                          # d
    num_hidden_layers: int
    num_attention_heads: int                  # h
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    rope_theta: float = 0.0                   # 0: a table of positions, as in BERT
    rope_factor: float = 1.0                  # "ntk" scaling
    mean_pooling: bool = True                 # else the first token's state stands for the text
    max_tokens: int = 0                       # that are read of a text; 0: as in Encoder
    lower_case: bool = False
    after_pooling: list[dict] = field(default_factory=list)  # a Dense layer's fields; {}: normalise


class Embeddings(nn.Module):
    """Word + position (where there is no RoPE) + segment (always 0), normalised."""

    def __init__(self, cfg: EncoderConfig):
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

    def __init__(self, cfg: EncoderConfig):
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


class GteLayer(nn.Module):
    """The same with q, k and v from one matrix, RoPE, a gated MLP: down(up x · gelu(gate x))."""

    def __init__(self, cfg: EncoderConfig):
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
        q, k = rotate(q, rope), rotate(k, rope)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))                     # (b, h, t, c)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        x = self.attn_ln(x + self.attention["o_proj"](y.reshape(b, t, d)))
        up, gate = self.mlp["up_gate_proj"](x).chunk(2, -1)
        return self.mlp_ln(x + self.mlp["down_proj"](up * F.gelu(gate)))


def gte_rope(t: int, cfg: EncoderConfig) -> tuple[Tensor, Tensor]:
    """cos, sin (t, 1, c)."""
    c = cfg.hidden_size // cfg.num_attention_heads
    frequencies = ntk_scaling(c, cfg.rope_theta, cfg.rope_factor)
    return rope_table(torch.arange(t), frequencies, torch.float32)


def embed_in_batches(encoded: list[list[int]], d: int, batch_size: int, progress: str,
                     read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`read`'s rows (len(encoded), d) for all texts, in their order; it is given some of similar
    length at a time: ids (b, t), padded at the right, and their lengths (b,)."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    rows = torch.empty(len(encoded), d)
    for start in tqdm(range(0, len(order), batch_size), desc=progress, disable=not progress):
        batch = order[start:start + batch_size]
        ids = pad([encoded[i] or [0] for i in batch])
        rows[batch] = read(ids, torch.tensor([len(encoded[i]) for i in batch])).float().cpu()
    return rows


class Dense(nn.Module):
    """A layer of sentence-transformers behind the pooling: activation(W x + b)."""

    def __init__(self, folder: Path, activation: str, in_features: int, out_features: int,
                 bias: bool):
        super().__init__()
        self.folder, self.activation = folder, getattr(nn, activation)()
        self.linear = nn.Linear(in_features, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Encoder(nn.Module):
    """BERT without its pooler; `embed` turns texts into vectors."""
    parts = None                   # of a vector, which are normalised each by itself: it has one
    lora = None                    # what a language model has switched on while it reads

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        self.cfg, self.name = cfg, ""
        # BERTs are tuned on at most 256 tokens; with RoPE the context is what a text may have
        self.limit = min(cfg.max_position_embeddings,
                         cfg.max_tokens or (8192 if cfg.rope_theta else 256))
        self.after = nn.Sequential(*(Dense(**fields) if fields else Normalize()
                                     for fields in cfg.after_pooling))
        self.width = ([cfg.hidden_size] + [f["out_features"] for f in cfg.after_pooling if f])[-1]
        self.embeddings = Embeddings(cfg)
        layer = GteLayer if cfg.rope_theta else BertLayer
        self.encoder = nn.ModuleDict({
            "layer": nn.ModuleList(layer(cfg) for _ in range(cfg.num_hidden_layers))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask (b, t), True where there is a token → (b, d): the mean of the last states, or
        the first token's, then what else a folder of sentence-transformers has."""
        x = self.embeddings(ids)
        rope = gte_rope(ids.shape[1], self.cfg) if self.cfg.rope_theta else None
        for layer in self.encoder["layer"]:
            x = layer(x, mask[:, None, None], rope)
        if not self.cfg.mean_pooling:
            return self.after(x[:, 0])
        weights = mask[..., None].to(x.dtype)
        mean = (x * weights).sum(1) / weights.sum(1).clamp_min(1)     # no token at all: zeros
        return self.after(mean)

    def identity(self) -> tuple[nn.Module, str]:
        """What decides a text's vector, for utils/embedding_cache.py."""
        return self, f"{self.cfg} {self.limit} {self.tokenizer.to_str()}"

    @torch.inference_mode()
    def embed(self, texts: list[str], batch_size: int = 64, progress: str = "") -> Tensor:
        """Texts → (len(texts), d), fp32, not normalised; similar lengths together."""
        # Cut what is too long, then add [CLS] and [SEP].
        cut = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        for encoding in cut:
            encoding.truncate(self.limit - self.tokenizer.num_special_tokens_to_add(False))
        encoded = [self.tokenizer.post_process(encoding).ids for encoding in cut]

        def read(ids: Tensor, lengths: Tensor) -> Tensor:
            return self(ids, torch.arange(ids.shape[1]) < lengths[:, None])
        return embed_in_batches(encoded, self.width, batch_size, progress, read)


class OneHot:
    """Stands in for the encoder where T2L knows its tasks by number: a task's name → its row."""
    name, parts, lora = "one-hot", None, None

    def __init__(self, tasks: list[str]):
        self.tasks, self.width = tasks, len(tasks)

    def embed(self, texts: list[str], progress: str = "") -> Tensor:
        rows = torch.zeros(len(texts), len(self.tasks))
        for row, text in zip(rows, texts):
            name = text.removesuffix(".")                    # which embed() below appends
            if name not in self.tasks:
                raise UserError(f"a one-hot T2L knows its own tasks only, not {name!r}; give "
                                "one of " + ", ".join(self.tasks))
            row[self.tasks.index(name)] = 1
        return rows


class LanguageModel:
    """--encoder base: the language model reads the bare description, without a chat format; its
    last token's state after the final norm is the embedding."""
    name, limit, parts, lora = "base", 512, None, None

    def __init__(self, model: Mistral | str | Path | None = None):
        self.model = model if isinstance(model, Mistral) else load_model(model)
        self.tokenizer = load_tokenizer(self.model.cfg.source).tokenizer
        self.width = self.model.cfg.hidden_size

    def identity(self) -> tuple[nn.Module, str]:
        return self.model, f"base {self.model.cfg} {self.limit} {self.tokenizer.to_str()}"

    @torch.no_grad()                    # not inference_mode, whose tensors --shard could not reuse
    def embed(self, texts: list[str], batch_size: int = 32, progress: str = "") -> Tensor:
        encoded = [e.ids[:self.limit] or [0] for e in self.tokenizer.encode_batch(texts)]
        return embed_in_batches(encoded, self.width, batch_size, progress, self.read)

    def read(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (b, t), padded at the right, lengths (b,) → (b, width)."""
        states = self.model.states(ids.to(self.model.device))
        return states[range(len(ids)), lengths - 1]                          # the last token's


class States(LanguageModel):
    """--encoder states: the means over a description's tokens of the language model's states after
    a fifth, two and three fifths of its layers, one after the other: what the model itself makes
    of the words, before it turns to what comes next.

    The first token is left out: its state is nearly the same huge vector in every text. `lora`, an
    adapter (A, B), is switched on while reading (--read-with).
    """
    name = "states"

    def __init__(self, model: Mistral | str | Path | None = None, lora: LoRA | None = None):
        super().__init__(model)
        layers, self.lora = self.model.cfg.num_hidden_layers, lora
        self.depths = sorted({k * layers // 5 for k in (1, 2, 3)})
        self.parts = [self.width] * len(self.depths)
        self.width *= len(self.depths)

    def identity(self) -> tuple[nn.Module, str]:
        model, said = super().identity()
        lora = [f"{m} {digest(w)}" for side in self.lora or () for m, w in side.items()]
        return model, f"states {self.depths} {lora} {said}"

    def read(self, ids: Tensor, lengths: Tensor) -> Tensor:
        place, means = torch.arange(ids.shape[1]), []
        mask = (place < lengths[:, None]) & ((place > 0) | (lengths[:, None] == 1))
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        for i, x in enumerate(self.model.layer_states(ids, self.lora)):              # (b, t, d)
            if i in self.depths:
                means.append((x.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
            if i == self.depths[-1]:
                break
        return torch.cat(means, -1)


class Joined:
    """--encoder NAME+states: a text encoder's vector and the language model's, side by side."""

    def __init__(self, encoder: Encoder, states: States):
        self.first, self.second, self.name = encoder, states, f"{encoder.name}+{states.name}"
        self.tokenizer, self.limit, self.lora = encoder.tokenizer, encoder.limit, states.lora
        self.parts = [encoder.width, *states.parts]
        self.width = sum(self.parts)

    def identity(self) -> tuple[nn.Module, str]:
        (first, said), (second, also) = self.first.identity(), self.second.identity()
        return nn.ModuleList([first, second]), f"{said} {also}"

    def embed(self, texts: list[str], progress: str = "") -> Tensor:
        return torch.cat([part.embed(texts, progress=progress)
                          for part in (self.first, self.second)], -1)


# ---------------------------------------------------------------------------------- loading

def load_encoder(path: str | Path | None = None, model: Mistral | str | Path | None = None,
                 lora: LoRA | None = None) -> "Encoder | LanguageModel | Joined":
    """The encoder of a Hugging Face folder, or of that name in the cache (None: all-MiniLM-L6-v2,
    fetched when missing; "base" and "states": the language model, `model` or in that folder, which
    for "states" may read with an adapter `lora`; "NAME+states": both)."""
    if path == "base":
        return LanguageModel(model)
    if path == "states":
        return States(model, lora)
    if str(path).endswith("+states"):
        return Joined(load_encoder(str(path).removesuffix("+states")), States(model, lora))
    folder = default_encoder() if path in (None, DEFAULT_ENCODER) else Path(path)
    if not folder.is_dir():
        folder = cache_folder() / folder.name
    if not folder.is_dir():
        raise UserError(f"{path} is not a folder, nor one in {cache_folder()}; expected a Hugging "
                        "Face encoder folder (python -m utils.download --model gte-large fetches "
                        "gte-large)")

    bert, fields = read_encoder_folder(folder)
    cfg = EncoderConfig(**fields)
    weights = read_safetensors(bert / "model.safetensors")
    # A pooler (for next-sentence prediction) and the constant position ids are not used here.
    weights = {k.removeprefix("bert.").removeprefix("new."): w for k, w in weights.items()}
    weights = {k: w for k, w in weights.items()
               if not k.startswith("pooler.") and not k.endswith("position_ids")}
    check_layer_count(weights, "encoder.layer", cfg.num_hidden_layers, bert)
    with torch.device("meta"):
        encoder = Encoder(cfg)
    for name, layer in encoder.after.named_children():
        if isinstance(layer, Dense):
            parts = read_safetensors(layer.folder / "model.safetensors")
            weights |= {f"after.{name}.{k}": w for k, w in parts.items()}
    load_weights(encoder, weights, bert)

    encoder.name = str(path or DEFAULT_ENCODER)
    encoder.tokenizer = read_tokenizer(bert / "tokenizer.json")
    check_vocabulary(encoder.tokenizer, cfg.vocab_size, bert)
    if cfg.lower_case:
        usual = [n for n in [encoder.tokenizer.normalizer] if n]
        encoder.tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *usual])
    if encoder.limit <= encoder.tokenizer.num_special_tokens_to_add(False):
        raise UserError(f"{folder}: reads {encoder.limit} tokens of a text, which leaves none "
                        "beside its special ones")
    return encoder.float().requires_grad_(False).eval()


@functools.lru_cache(maxsize=1)
def cached_encoder(name: str, model: Mistral | str | Path | None, reader: str):
    return load_encoder(name, model, read_reader(reader) if reader else None)


def encoder_for(cfg, model: Mistral | str | Path | None = None,
                other: str | None = None) -> "Encoder | LanguageModel | Joined | OneHot":
    """What a T2L's descriptions are to be embedded with: by its T2LConfig, or `other`; `model` is
    the language model, or its folder."""
    if cfg.tasks:
        return OneHot(cfg.tasks)
    if cfg.encoder.startswith(INSTEAD):
        raise UserError(f"this T2L reads {cfg.encoder}; its row is in the table of python -m "
                        "experiments.baselines")
    if not other and not model and (cfg.encoder == "base" or reads_states(cfg.encoder)) \
            and not same_model(cfg.base_model, read_config().name):
        raise UserError(f"descriptions are embedded by {cfg.base_model} itself: give its folder as "
                        f"--model, or generate_lora encoder=load_encoder({cfg.encoder!r}, folder)")
    encoder = cached_encoder(other or cfg.encoder, model, "" if other else cfg.reader)
    if encoder.width != cfg.emb_size:
        raise UserError(f"--encoder {other or cfg.encoder} gives {encoder.width} numbers, this T2L "
                        f"reads {cfg.emb_size}: it was trained with another encoder")
    return encoder


# ------------------------------------------------------------------ description → embedding

def normalised(embeddings: Tensor, parts: list[int] | None = None) -> Tensor:
    """e / ‖e‖ · √d for (b, d): every entry of order one. A zero vector stays zero. `parts`: the
    widths of what was put together, each to be normalised by itself."""
    return torch.cat([part / part.norm(dim=-1, keepdim=True).clamp_min(1e-12)
                      * math.sqrt(part.shape[-1])
                      for part in embeddings.split(parts or embeddings.shape[-1], -1)], -1)


def embed(encoder: "Encoder | LanguageModel | OneHot", descriptions: list[str],
          progress: str = "") -> Tensor:
    """Descriptions → (b, d), normalised; one that ends in a letter gets a full stop. Of a long list
    they are kept for the next run, see utils/embedding_cache.py."""
    texts = [text + "." if text[-1:].isalpha() else text for text in map(str.strip, descriptions)]
    return normalised(embed_cached(encoder, texts, progress), encoder.parts)


@torch.no_grad()
def init_linear_lda(linear: nn.Linear, embeddings: Tensor, groups: list[Tensor]) -> None:
    """Start T2L's first layer as a linear discriminant analysis (an addition to the paper).

    embeddings (N, e) are all descriptions', `groups` those of each task, (k, e). To a sentence
    encoder all instructions look alike, and wording moves the embedding as much as meaning does. So
    the layer starts with the directions in which the tasks' means differ most, measured in units of
    the spread within a task; each output has mean 0 and variance 1. All is learnt on from there.
    """
    center = embeddings.mean(0)
    groups = [group - center for group in groups]
    means = torch.stack([group.mean(0) for group in groups])                   # (tasks, e)

    # Whiten by the covariance within tasks; the tasks' main axes in that space.
    within = torch.cat([group - group.mean(0) for group in groups])
    cov = within.T @ within / len(within)
    cov += (0.2 * cov.diagonal().mean() + 1e-6) * torch.eye(len(cov))          # shrinkage
    root = torch.linalg.cholesky(cov)
    solve = torch.linalg.solve_triangular
    _, _, axes = torch.linalg.svd(solve(root, means.T, upper=False).T, full_matrices=False)
    axes = solve(root.T, axes[:linear.out_features].T, upper=True).T           # (≤ out, e)

    # Unit variance; few tasks span few directions, the other outputs stay as they were drawn.
    sizes = (torch.cat(groups) @ axes.T).square().mean(0).sqrt()
    known = sizes > 1e-4
    linear.weight[:len(axes)][known] = axes[known] / sizes[known, None]
    linear.bias.copy_(-linear.weight @ center)
