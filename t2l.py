"""Text-to-LoRA (arXiv 2506.06105): a task description in English → a LoRA, in one forward pass.

    python t2l.py "Answer with the opposite of the word." --prompt hot --out adapter/

For every layer l and module m of the language model, the hypernetwork reads
    φ = [f(description), E_layer[l], E_module[m]]
and emits A (r, d_in) and B (d_out, r) of ΔW = scale · B A; all (l, m) are one batch. What one call
of a head emits makes the three variants of section 3: L, A and B together; M, A or B; S, one rank
of A or B. Reading order: Config, the hypernetwork, loading, description → adapter, command line.
Shapes: b descriptions, e embedding width, n layers, m modules, r rank, z latent width.
"""
import argparse
import functools
import hashlib
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import lora as lora_ops
import mistral
from data.download import default_model
from data.files import (Parser, UserError, load_strictly, read_json, read_safetensors, run,
                        write_json, written_beside)
from encoder import Encoder, OneHot, load_encoder
from lora import LoRA

CHECKPOINT = Path(__file__).parent / "checkpoints" / "smollm2-135m"


@dataclass
class Config:
    """Everything that fixes a hypernetwork's shapes, and the two models it was trained between."""
    arch: str                                 # L, M or S
    emb_size: int                             # e: width of the description's embedding
    n_layers: int                             # n: layers of the language model
    modules: dict[str, tuple[int, int]]       # adapted module → (d_in, d_out), in a fixed order
    rank: int = 8
    alpha: float = 16.0
    latent: int = 128                         # z
    head_in: int = 512
    dropout: float = 0.05
    head_bias: bool = True
    base_model: str = ""
    encoder: str = ""
    z_scored: bool = False                    # the heads emit A and B in units of a library's std
    tasks: list[str] = field(default_factory=list)      # of a one-hot T2L, in place of an encoder

    def __post_init__(self):
        if self.arch not in ("L", "M", "S"):
            raise UserError(f"arch is {self.arch!r}; expected L, M or S")


def adapted_modules(cfg: mistral.Config) -> dict[str, tuple[int, int]]:
    """{module: (d_in, d_out)} of a language model."""
    return {"q_proj": (cfg.hidden_size, cfg.num_attention_heads * cfg.head_dim),
            "v_proj": (cfg.hidden_size, cfg.num_key_value_heads * cfg.head_dim)}


def for_model(cfg: mistral.Config, arch: str, encoder: Encoder) -> Config:
    """The hypernetwork's sizes for a language model's config and an encoder."""
    return Config(arch, encoder.width, cfg.num_hidden_layers, adapted_modules(cfg),
                  base_model=cfg.name, encoder=encoder.name)


# ------------------------------------------------------------------------ the hypernetwork

def block(d_in: int, d_hidden: int, d_out: int, dropout: float) -> list[nn.Module]:
    """Two Linear-SiLU steps with dropout between."""
    return [nn.Linear(d_in, d_hidden), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(d_hidden, d_out), nn.SiLU()]


class TaskEncoder(nn.Module):
    """Description embedding (b, e) → (b, z/2)."""

    def __init__(self, emb_size: int, out: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(emb_size, out), nn.LayerNorm(out))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Residual(nn.Module):
    """x + MLP(LayerNorm(x)), width z, hidden 4 z."""

    def __init__(self, z: int, dropout: float):
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(z), *block(z, 4 * z, z, dropout), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class Buffers(nn.Module):
    """A LoRA's shapes as buffers: A.m (n, r, d_in) and B.m (n, d_out, r) for every module m."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.A, self.B = nn.Module(), nn.Module()
        for module, (d_in, d_out) in cfg.modules.items():
            self.A.register_buffer(module, torch.zeros(cfg.n_layers, cfg.rank, d_in))
            self.B.register_buffer(module, torch.zeros(cfg.n_layers, d_out, cfg.rank))


class T2L(nn.Module):
    """The hypernetwork with head L, M or S; modules are named as in the authors' checkpoints."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, z, r = cfg, cfg.latent, cfg.rank
        self.scale = cfg.alpha / math.sqrt(r)            # rank-stabilised: 16 / √8 = 5.657
        drop = cfg.dropout
        self.task_encoder = TaskEncoder(cfg.emb_size, z // 2)
        self.layer_depth_encoder = nn.Sequential(nn.Embedding(cfg.n_layers, z // 4),
                                                 nn.LayerNorm(z // 4))
        self.layer_type_encoder = nn.Sequential(nn.Embedding(len(cfg.modules), z // 4),
                                                nn.LayerNorm(z // 4))
        self.mixer = nn.Sequential(nn.Dropout(drop), *block(z, 4 * z, z, drop), nn.Dropout(drop))
        self.mlp1, self.mlp2 = Residual(z, drop), Residual(z, drop)
        self.mlp3 = nn.Sequential(nn.LayerNorm(z), *block(z, 4 * z, cfg.head_in, drop))
        if cfg.arch != "L":
            # M and S call one head for A and once more for B: an embedding says which is meant.
            self.out_emb = nn.ModuleDict({
                m: nn.ParameterDict({side: torch.randn(z) for side in "AB"}) for m in cfg.modules})
            self.out_emb_norm = nn.LayerNorm(z)
        if cfg.arch == "S":
            self.pos_emb = nn.Sequential(nn.Embedding(r, z), nn.LayerNorm(z))
        self.heads = nn.ModuleDict({m: nn.Linear(cfg.head_in, self.head_out(m), cfg.head_bias)
                                    for m in cfg.modules})
        self.init_heads()
        if cfg.z_scored:
            self.mean_recon_target, self.std_recon_target = Buffers(cfg), Buffers(cfg)

    def head_out(self, module: str) -> int:
        """How many numbers one call of a module's head emits."""
        d_in, d_out = self.cfg.modules[module]
        return {"L": self.cfg.rank * (d_in + d_out), "M": self.cfg.rank * max(d_in, d_out),
                "S": max(d_in, d_out)}[self.cfg.arch]

    @torch.no_grad()
    def init_heads(self) -> None:
        """Bias-HyperInit: zero weights, and as bias an ordinary LoRA initialisation.

        With L that is A uniform, B = 0: step 0 is the base model. M and S emit A and B through the
        same bias, so B is not 0 there and step 0 is a small random adapter, as in the paper.
        """
        for module, head in self.heads.items():
            d_in, r = self.cfg.modules[module][0], self.cfg.rank
            head.weight.zero_()
            if head.bias is None:
                continue
            head.bias.zero_()
            if self.cfg.arch == "L":
                head.bias[:r * d_in].uniform_(-1, 1).div_(math.sqrt(d_in))
            else:
                fan = 2 * d_in * (r if self.cfg.arch == "S" else 1)
                head.bias.uniform_(-1, 1).div_(math.sqrt(fan))

    @torch.no_grad()
    def emit_z_scores_of(self, mean: LoRA, std: LoRA) -> None:
        """From now on the heads' 0 is a library's mean, (n, r, d_in) and (n, d_out, r), and their 1
        its standard deviation. The heads start at 0, so that step 0 is the mean LoRA."""
        for module in self.cfg.modules:
            for buffers, (A, B) in ((self.mean_recon_target, mean), (self.std_recon_target, std)):
                buffers.A.get_buffer(module).copy_(A[module])
                buffers.B.get_buffer(module).copy_(B[module] / self.scale)
            self.heads[module].bias.zero_()

    def forward(self, task_emb: Tensor) -> LoRA:
        """task_emb (b, e), normalised → A[m] (b, n, r, d_in), B[m] (b, n, d_out, r), unscaled."""
        A, B = self.emit(task_emb)
        if self.cfg.z_scored:
            mean, std = self.mean_recon_target, self.std_recon_target
            A = {m: w * std.A.get_buffer(m) + mean.A.get_buffer(m) for m, w in A.items()}
            B = {m: w * std.B.get_buffer(m) + mean.B.get_buffer(m) for m, w in B.items()}
        return A, B

    def emit(self, task_emb: Tensor) -> LoRA:
        """What the heads say: as forward, or its z-scores with cfg.z_scored."""
        cfg, b = self.cfg, task_emb.shape[0]
        if task_emb.dim() != 2 or task_emb.shape[1] != cfg.emb_size:
            raise UserError(f"task_emb is {tuple(task_emb.shape)}, expected (b, {cfg.emb_size}): "
                            "this checkpoint was trained with another encoder")
        n, m = cfg.n_layers, len(cfg.modules)
        task = self.task_encoder(task_emb)[:, None, None].expand(b, n, m, -1)
        depth = self.layer_depth_encoder(torch.arange(n, device=task.device))
        kind = self.layer_type_encoder(torch.arange(m, device=task.device))
        phi = torch.cat([task, depth[:, None].expand(b, n, m, -1), kind.expand(b, n, m, -1)], -1)
        h = self.mlp1(self.mixer(phi))                                       # (b, n, m, z)
        A, B = {}, {}
        one = self.emit_both if cfg.arch == "L" else self.emit_each
        for i, module in enumerate(cfg.modules):
            A[module], B[module] = one(module, h[:, :, i])
            B[module] = B[module].transpose(-1, -2)                          # (b, n, d_out, r)
        return A, B

    def adapters(self, task_emb: Tensor) -> LoRA:
        """As forward, with the scale folded into B: from here on ΔW = B A."""
        A, B = self(task_emb)
        return A, {m: w * self.scale for m, w in B.items()}

    def emit_both(self, module: str, h: Tensor) -> list[Tensor]:
        """L: h (b, n, z) → A (b, n, r, d_in) and B (b, n, r, d_out) from one output."""
        d_in, d_out = self.cfg.modules[module]
        out = self.heads[module](self.mlp3(self.mlp2(h)))
        parts = out.split([self.cfg.rank * d_in, self.cfg.rank * d_out], -1)
        return [part.unflatten(-1, (self.cfg.rank, -1)) for part in parts]

    def emit_each(self, module: str, h: Tensor) -> list[Tensor]:
        """M, S: h (b, n, z) → the same from two calls; S makes them for each rank."""
        sides, r = [], self.cfg.rank
        for side, width in zip("AB", self.cfg.modules[module]):
            x = self.mlp2(h + self.out_emb_norm(self.out_emb[module][side]))  # (b, n, z)
            if self.cfg.arch == "S":
                ranks = self.mlp2(self.pos_emb(torch.arange(r, device=h.device)))
                x = x[:, :, None] + ranks                                     # (b, n, r, z)
            out = self.heads[module](self.mlp3(x))
            if self.cfg.arch == "M":
                out = out.unflatten(-1, (r, -1))
            sides.append(out[..., :width])               # the head is as wide as the wider side
        return sides


# --------------------------------------------------------------------- saving and loading

def save_t2l(t2l: T2L, folder: str | Path, dtype: torch.dtype, about: dict) -> None:
    """Write config.json (with `about`, how it was made) and t2l.safetensors into `folder`."""
    tensors = {k: w.detach().to("cpu", dtype).contiguous() for k, w in t2l.state_dict().items()}
    with written_beside(folder) as scratch:
        save_file(tensors, scratch / "t2l.safetensors")
        write_json(scratch / "config.json", {**about, "t2l": asdict(t2l.cfg)})


def load_t2l(path: str | Path | None = None, module_order: tuple[str, ...] | None = None) -> T2L:
    """A trained hypernetwork in fp32, eval mode (None: the committed one for the default model).

    `path` is a folder of ours or one that the authors released; only the latter needs to be told
    `module_order`, see official.py. Needs neither the language model nor the encoder on disk.
    Raises UserError where config.json and the tensors do not belong together.
    """
    folder = Path(path) if path else CHECKPOINT
    if (folder / "hypermod.pt").exists():
        from official import load_official
        return load_official(folder, module_order)
    if module_order:
        raise UserError(f"{folder} says itself which module comes first; leave out --module-order")
    raw = read_json(folder / "config.json")
    if "t2l" not in raw:
        raise UserError(f"{folder}/config.json has no \"t2l\" section; expected a folder written "
                        "by train.py --mode sft or recon")
    try:
        modules = {m: tuple(sizes) for m, sizes in raw["t2l"]["modules"].items()}
        with torch.device("meta"):
            t2l = T2L(Config(**raw["t2l"] | {"modules": modules}))
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError,
            RuntimeError) as error:
        raise UserError(f"{folder}/config.json: {error}") from None
    tensors = read_safetensors(folder / "t2l.safetensors")
    load_strictly(t2l, {k: w.float() for k, w in tensors.items()}, folder / "t2l.safetensors")
    return t2l.eval()


def fingerprint(t2l: T2L) -> str:
    """The sha256 of all weights in bf16, by which an adapter says what made it."""
    digest = hashlib.sha256()
    for name, w in sorted(t2l.state_dict().items()):
        digest.update(name.encode() + w.bfloat16().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------ description → adapter

def normalised(embeddings: Tensor) -> Tensor:
    """e / ‖e‖ · √d for (b, d): every entry of order one. A zero vector stays zero."""
    norm = embeddings.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return embeddings / norm * math.sqrt(embeddings.shape[-1])


def embed(encoder: Encoder, descriptions: list[str], progress: str = "") -> Tensor:
    """Descriptions → (b, e), normalised; one that ends in a letter gets a full stop."""
    texts = [text + "." if text[-1:].isalpha() else text for text in map(str.strip, descriptions)]
    return normalised(encoder.embed(texts, progress=progress))


named_encoder = functools.lru_cache(maxsize=1)(load_encoder)


def encoder_of(cfg: Config, model: str | Path | None = None) -> Encoder | OneHot:
    """What a checkpoint's descriptions are to be embedded with."""
    if cfg.encoder == "base" and not model and \
            not mistral.same_model(cfg.base_model, mistral.read_config().name):
        raise UserError(f"descriptions are embedded by {cfg.base_model} itself: give its folder as "
                        "--model, or generate_lora encoder=load_encoder(\"base\", folder)")
    return OneHot(cfg.tasks) if cfg.tasks else named_encoder(cfg.encoder, model)


@torch.no_grad()
def generate_lora(t2l: T2L, description: str | list[str], encoder: Encoder | None = None) -> LoRA:
    """Description(s) → (lora_A, lora_B), the scale folded into B.

    One string gives A[m] (n, r, d_in), B[m] (n, d_out, r); a list gives them a leading axis.
    The encoder named in the checkpoint is loaded when it is first needed.
    """
    one = isinstance(description, str)
    encoder = encoder or encoder_of(t2l.cfg)
    task_emb = embed(encoder, [description] if one else description)
    lora = t2l.eval().adapters(task_emb.to(t2l.task_encoder.mlp[0].weight))   # its device and dtype
    return lora_ops.mapped(lora, lambda w: w[0]) if one else lora


def apply_lora(model: nn.Module, lora_A: dict[str, Tensor], lora_B: dict[str, Tensor]) -> nn.Module:
    """A model like `model` with the adapter merged into its weights; `model` is left untouched."""
    return lora_ops.merge(model, (lora_A, lora_B))


# --------------------------------------------------------------------------- command line

COMMON = set("""the of and in to is it that for with from as by an each word words answer give write
    what which this return only""".split())


def checked(description: str, encoder: Encoder) -> str:
    """The description, or a UserError; warns where the encoder will not read it as written."""
    text = description.strip()
    if len(text) < 2:
        raise UserError(f"the description is {description!r}; write what the task asks, for "
                        "example \"Answer with the opposite of the word.\"")
    n = len(encoder.tokenizer.encode(text).ids)
    if n > encoder.limit:
        print(f"warning: the description has {n} tokens; the encoder reads the first "
              f"{encoder.limit}", file=sys.stderr)
    words = text.lower().split()
    foreign = sum(c.isascii() for c in text) < 0.9 * len(text)
    if foreign or len(words) > 4 and not COMMON & set(words):
        print("warning: this does not look like English, the only language the encoder and the "
              "training descriptions know; expect an unrelated adapter", file=sys.stderr)
    return text


def check_model(t2l: T2L, cfg: mistral.Config) -> None:
    """Warn where a T2L's adapters are for another model, though perhaps of the same sizes."""
    if not mistral.same_model(t2l.cfg.base_model, cfg.name):
        print(f"warning: this T2L makes adapters for {t2l.cfg.base_model}, not for {cfg.name}; "
              "expect nonsense unless one is a copy of the other", file=sys.stderr)


def print_answers(args: argparse.Namespace, lora: LoRA) -> None:
    """Every --prompt's answer without and with the adapter, side by side."""
    model = mistral.load_model(args.model, getattr(torch, args.dtype), args.device)
    tokenizer = mistral.load_tokenizer(args.model)
    base = mistral.generate(model, tokenizer, args.prompt)
    adapted = mistral.generate(model, tokenizer, args.prompt, lora)
    for prompt, *answers in zip(args.prompt, base, adapted):
        print(f"prompt:  {prompt}")
        for name, answer in zip(("base", "adapted"), answers):
            print(f"{name + ':':8} {' '.join(answer.split())}")


def main() -> None:
    parser = Parser("Turn a task description into a LoRA adapter.")
    add = parser.add_argument
    add("description", help="what the adapted model shall do, in English")
    add("--prompt", action="append", default=[],
        help="an input to answer with and without the adapter; may be repeated")
    parser.folder("--out", "write the adapter as a PEFT folder", "it is not kept")
    parser.folder("--merged", "write the whole model with the adapter merged in", "it is not")
    parser.folder("--ckpt", "a trained T2L folder", "the committed one for SmolLM2-135M-Instruct")
    add("--module-order", nargs=2, choices=lora_ops.TARGETS, default=None,
        help="the authors' checkpoints: which module came first in training%(default).0s")
    parser.models(encoder="the checkpoint's")
    args = parser.parse_args()
    t2l = load_t2l(args.ckpt, args.module_order)
    encoder = load_encoder(args.encoder, args.model) if args.encoder else \
        encoder_of(t2l.cfg, args.model)
    description = args.description if t2l.cfg.tasks else checked(args.description, encoder)
    print(f"T2L-{t2l.cfg.arch} for {t2l.cfg.base_model}, encoder {encoder.name}", file=sys.stderr)
    start = time.perf_counter()
    lora_A, lora_B = generate_lora(t2l, description, encoder)
    seconds = time.perf_counter() - start
    if args.prompt or args.merged:
        check_model(t2l, mistral.read_config(args.model))
    if args.prompt:
        print_answers(args, (lora_A, lora_B))
    if args.out:
        lora_ops.save_peft(args.out, lora_A, lora_B, base_model=t2l.cfg.base_model,
                           description=description, encoder=encoder.name,
                           hypernetwork=fingerprint(t2l))
    if args.merged:
        lora_ops.merge_folder(args.model or default_model(), (lora_A, lora_B), args.merged)
    size = sum(w.numel() for side in (lora_A, lora_B) for w in side.values())
    print(f"adapter: {size:,} numbers in {seconds:.3f} s"
          + "".join(f", written to {folder}" for folder in (args.out, args.merged) if folder))


if __name__ == "__main__":
    run(main)
