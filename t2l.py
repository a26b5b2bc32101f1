"""Text-to-LoRA (arXiv 2506.06105): a task description in English → a LoRA, in one forward pass.

    python t2l.py "Write the word in capital letters." --prompt hot --out adapter/

For every layer l and module m of the language model, the hypernetwork reads

    φ = [f(description), E_layer[l], E_module[m]]

and emits A (r, d_in) and B (d_out, r); `adapters` folds the scale into B: ΔW = B A. What one call
of a head emits makes the three variants of section 3: L, A and B together; M, A or B; S, one rank
of A or B. The default, bank, is ours: it reads f(description) alone and weighs adapters that all
tasks share. Reading order: the config, the trunk's blocks, heads, the hypernetwork, loading,
description → adapter, the command.
Shapes: b descriptions, e embedding width, n layers, m modules, r rank, z latent width, N bases.
"""
import argparse
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from encoder import Encoder, embed, encoder_for
from lora import (MODULES, TARGETS, LoRA, add_delta, lora_scale, map_lora, merge, mix_loras,
                  save_peft)
from mistral import MistralConfig, generate, load_model, load_tokenizer, read_config
from utils.cli import UserError, check_description, note, run, t2l_flags, weighed_descriptions
from utils.download import model_folder
from utils.files import atomic_folder, dump_json
from utils.gguf_adapter import save_gguf
from utils.library import LoRABuffers
from utils.modules import adapted_modules
from utils.neighbours import listing, read_neighbours
from utils.peft import check_model, merge_folder
from utils.sakana import read_sakana
from utils.schema import as_texts, check_types, kind_of
from utils.weights import (CHECKPOINTS, READER, checkpoint_folder, chosen_dtype, fingerprint,
                           load_weights, read_t2l_folder)

CHECKPOINT = CHECKPOINTS / "smollm2-135m"


@dataclass
class T2LConfig:
    """Everything that fixes a hypernetwork's shapes, and the two models it was trained between."""
    arch: str                                 # which head: a key of HEADS
    emb_size: int                             # e: width of the description's embedding
    n_layers: int                             # n: layers of the language model
    modules: dict[str, tuple[int, int]]       # adapted module → (d_in, d_out), in a fixed order
    rank: int = 8                             # r
    alpha: float = 16.0
    latent: int = 128                         # z
    head_in: int = 512
    bases: int = 128                          # N, of the bank
    dropout: float = 0.05
    head_bias: bool = True
    base_model: str = ""
    encoder: str = ""
    reader: str = ""                          # where the LoRA lies that it reads with, if any
    z_scored: bool = False                    # recon: heads emit (A - mean) / std of a library
    tasks: list[str] = field(default_factory=list)      # of a one-hot T2L, in place of an encoder


def t2l_config(cfg: MistralConfig, arch: str, encoder: Encoder,
               modules: Iterable[str] = TARGETS, rank: int = T2LConfig.rank,
               alpha: float = T2LConfig.alpha) -> T2LConfig:
    """The hypernetwork's sizes for a language model and an encoder."""
    return T2LConfig(arch, encoder.width, cfg.num_hidden_layers, adapted_modules(cfg, modules),
                     rank, alpha, base_model=cfg.name, encoder=encoder.name,
                     reader=READER if encoder.lora else "")


# -------------------------------------------------------------------------- the trunk's blocks

def block(d_in: int, d_hidden: int, d_out: int, dropout: float) -> list[nn.Module]:
    """Two Linear-SiLU steps with dropout between."""
    return [nn.Linear(d_in, d_hidden), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(d_hidden, d_out), nn.SiLU()]


class Residual(nn.Module):
    """x + MLP(LayerNorm(x)), width z, hidden 4 z."""

    def __init__(self, z: int, dropout: float):
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(z), *block(z, 4 * z, z, dropout), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


# ----------------------------------------------------------------------------------- the heads
#
# A head turns one module's latent h (b, n, z) into A (b, n, r, d_in) and B (b, n, r, d_out); the
# bank does so with the task's code (b, z).

def head_L(t2l: "T2L", module: str, h: Tensor) -> tuple[Tensor, Tensor]:
    """L: one call emits all of A, then all of B."""
    r, (d_in, d_out) = t2l.cfg.rank, t2l.cfg.modules[module]
    out = t2l.heads[module](t2l.mlp3(t2l.mlp2(h)))                    # (b, n, r·d_in + r·d_out)
    A, B = out.split([r * d_in, r * d_out], -1)
    return A.unflatten(-1, (r, d_in)), B.unflatten(-1, (r, d_out))


def head_M(t2l: "T2L", module: str, h: Tensor) -> tuple[Tensor, Tensor]:
    """M: one call emits A or B, through the same weights; an embedding says which of the two."""
    def call(side: str, width: int) -> Tensor:
        x = t2l.mlp2(h + t2l.out_emb_norm(t2l.out_emb[module][side]))            # (b, n, z)
        out = t2l.heads[module](t2l.mlp3(x))                          # (b, n, r · the wider side)
        return out.unflatten(-1, (t2l.cfg.rank, -1))[..., :width]

    d_in, d_out = t2l.cfg.modules[module]
    return call("A", d_in), call("B", d_out)


def head_S(t2l: "T2L", module: str, h: Tensor) -> tuple[Tensor, Tensor]:
    """S: one call emits one rank of A or B; a second embedding says which rank."""
    def call(side: str, width: int) -> Tensor:
        x = t2l.mlp2(h + t2l.out_emb_norm(t2l.out_emb[module][side]))            # (b, n, z)
        ranks = t2l.mlp2(t2l.pos_emb(torch.arange(t2l.cfg.rank, device=h.device)))       # (r, z)
        out = t2l.heads[module](t2l.mlp3(x[:, :, None] + ranks))      # (b, n, r, the wider side)
        return out[..., :width]

    d_in, d_out = t2l.cfg.modules[module]
    return call("A", d_in), call("B", d_out)


class Bank(nn.Module):
    """bank: A and B are sums of N bases, which all layers share, by weights that are linear in the
    task's code (after arXiv 2607.02512).

    L, M and S send the code through an MLP, which can give every training task an adapter of its
    own and says nothing about what lies between. Here what to find and how to write it can only
    move weights, and effects that add up combine: a new pair of known parts is a sum of known
    changes. Start: A's entries have a variance of 1/d_in for any code, B = 0.
    """

    def __init__(self, cfg: T2LConfig):
        super().__init__()
        N, r, z, n = cfg.bases, cfg.rank, cfg.latent, cfg.n_layers
        self.A = nn.ParameterDict({m: torch.empty(N, r, d_in).uniform_(-1, 1) * (1.5 / d_in) ** 0.5
                                   for m, (d_in, _) in cfg.modules.items()})
        self.B = nn.ParameterDict({m: torch.zeros(N, r, d_out)
                                   for m, (_, d_out) in cfg.modules.items()})
        self.weights = nn.ModuleDict({m: nn.Linear(z, n * 2 * N) for m in cfg.modules})
        for linear in self.weights.values():
            nn.init.normal_(linear.weight, std=(N * z) ** -0.5)
            nn.init.normal_(linear.bias, std=N ** -0.5)

    def forward(self, module: str, code: Tensor) -> tuple[Tensor, Tensor]:
        A, B = self.A[module], self.B[module]
        w = self.weights[module](code).unflatten(-1, (-1, 2, len(A)))           # (b, n, 2, N)
        return ((w[:, :, 0] @ A.flatten(1)).unflatten(-1, A.shape[1:]),
                (w[:, :, 1] @ B.flatten(1)).unflatten(-1, B.shape[1:]))


def uniform_(bias: Tensor, fan: int) -> None:
    bias.uniform_(-1, 1).div_(math.sqrt(fan))


class Head(NamedTuple):
    """A row of the table below. A new head: a function and a row; new parameters: T2L.__init__."""
    emit: Callable[["T2L", str, Tensor], tuple[Tensor, Tensor]]
    width: Callable[[int, int, int], int] = None    # r, d_in, d_out → numbers that one call emits
    init_bias: Callable[[Tensor, int, int], None] = None     # bias, r, d_in → the bias, in place
    sides: bool = False                             # has an embedding for A or B
    ranks: bool = False                             # has an embedding for each rank
    trunk: bool = True                              # reads the trunk's latent, not the code itself


# Weights start at 0: the bias alone decides step 0. L: A as PEFT draws it, B = 0, the base model.
# M and S emit A and B through the same bias: a small random adapter, by the paper's bounds.
HEADS = {
    "L": Head(head_L, lambda r, d_in, d_out: r * (d_in + d_out),
              lambda bias, r, d_in: uniform_(bias[:r * d_in], d_in)),
    "M": Head(head_M, lambda r, d_in, d_out: r * max(d_in, d_out),
              lambda bias, r, d_in: uniform_(bias, 2 * d_in), sides=True),
    "S": Head(head_S, lambda r, d_in, d_out: max(d_in, d_out),
              lambda bias, r, d_in: uniform_(bias, 2 * r * d_in), sides=True, ranks=True),
    "bank": Head(lambda t2l, module, code: t2l.bank(module, code), trunk=False)}


# ---------------------------------------------------------------------------- the hypernetwork

class T2L(nn.Module):
    """The hypernetwork; its modules are named as in the authors' checkpoints."""

    def __init__(self, cfg: T2LConfig):
        super().__init__()
        self.cfg, self.head = cfg, HEADS[cfg.arch]
        self.neighbours = None                        # its training tasks; load_t2l knows them
        self.scale = lora_scale(cfg.alpha, cfg.rank)              # 16 / √8 = 5.657
        code = cfg.latent // 2 if self.head.trunk else cfg.latent     # a trunk reads the place, too
        self.task_encoder = nn.ModuleDict({
            "mlp": nn.Sequential(nn.Linear(cfg.emb_size, code), nn.LayerNorm(code))})
        if self.head.trunk:
            self.init_trunk_and_heads()
        else:
            self.bank = Bank(cfg)
        if cfg.z_scored:
            self.mean_recon_target = LoRABuffers(cfg.n_layers, cfg.rank, cfg.modules)
            self.std_recon_target = LoRABuffers(cfg.n_layers, cfg.rank, cfg.modules)

    @torch.no_grad()
    def init_trunk_and_heads(self) -> None:
        cfg, z, drop = self.cfg, self.cfg.latent, self.cfg.dropout

        # What is read beside the code: the layer, the module.
        self.layer_depth_encoder = nn.Sequential(nn.Embedding(cfg.n_layers, z // 4),
                                                 nn.LayerNorm(z // 4))
        self.layer_type_encoder = nn.Sequential(nn.Embedding(len(cfg.modules), z // 4),
                                                nn.LayerNorm(z // 4))
        # The trunk: mixer and mlp1; mlp2 and mlp3, which a head calls with its embeddings added.
        self.mixer = nn.Sequential(nn.Dropout(drop), *block(z, 4 * z, z, drop), nn.Dropout(drop))
        self.mlp1, self.mlp2 = Residual(z, drop), Residual(z, drop)
        self.mlp3 = nn.Sequential(nn.LayerNorm(z), *block(z, 4 * z, cfg.head_in, drop))

        # The heads, one Linear for each module.
        if self.head.sides:
            self.out_emb = nn.ModuleDict({
                m: nn.ParameterDict({side: torch.randn(z) for side in "AB"}) for m in cfg.modules})
            self.out_emb_norm = nn.LayerNorm(z)
        if self.head.ranks:
            self.pos_emb = nn.Sequential(nn.Embedding(cfg.rank, z), nn.LayerNorm(z))
        self.heads = nn.ModuleDict({
            m: nn.Linear(cfg.head_in, self.head.width(cfg.rank, d_in, d_out), cfg.head_bias)
            for m, (d_in, d_out) in cfg.modules.items()})
        for module, linear in self.heads.items():        # the paper's "Bias-HyperInit"
            linear.weight.zero_()
            if linear.bias is not None:
                self.head.init_bias(linear.bias.zero_(), cfg.rank, cfg.modules[module][0])

    def raw(self, task_emb: Tensor) -> LoRA:
        """What the heads emit, z-scores if cfg.z_scored, for (b, e); shapes as in forward."""
        cfg, shape = self.cfg, tuple(getattr(task_emb, "shape", ()))
        if len(shape) != 2 or shape[1] != cfg.emb_size:
            raise ValueError(f"task_emb is {shape or kind_of(task_emb)}, expected (b, "
                             f"{cfg.emb_size}): this checkpoint was trained with another encoder")

        code = self.task_encoder.mlp(task_emb)                       # (b, z/2), the bank's (b, z)
        latents = self.trunk(code).unbind(2) if self.head.trunk else [code] * len(cfg.modules)
        A, B = {}, {}
        for module, latent in zip(cfg.modules, latents):
            A[module], B_rows = self.head.emit(self, module, latent)
            B[module] = B_rows.transpose(-1, -2)                          # (b, n, d_out, r)
        return A, B

    def trunk(self, code: Tensor) -> Tensor:
        """φ, the task's code, the layer's and the module's embedding for every layer and module
        → h (b, n, m, z)."""
        b, n, m = len(code), self.cfg.n_layers, len(self.cfg.modules)
        depth = self.layer_depth_encoder(torch.arange(n, device=code.device))
        kind = self.layer_type_encoder(torch.arange(m, device=code.device))
        parts = code[:, None, None], depth[:, None], kind
        phi = torch.cat([part.expand(b, n, m, -1) for part in parts], -1)
        return self.mlp1(self.mixer(phi))

    def forward(self, task_emb: Tensor) -> LoRA:
        """task_emb (b, e), normalised → A[m] (b, n, r, d_in), B[m] (b, n, d_out, r), no longer
        z-scores; alpha / √r is not in B yet."""
        A, B = self.raw(task_emb)
        if self.cfg.z_scored:
            mean, std = self.mean_recon_target, self.std_recon_target
            A = {m: w * std.A.get_buffer(m) + mean.A.get_buffer(m) for m, w in A.items()}
            B = {m: w * std.B.get_buffer(m) + mean.B.get_buffer(m) for m, w in B.items()}
        return A, B

    def adapters(self, task_emb: Tensor) -> LoRA:
        """As forward, with alpha / √r folded into B: from here on ΔW = B A."""
        A, B = self(task_emb)
        return A, {m: w * self.scale for m, w in B.items()}

    @torch.no_grad()
    def set_output_stats(self, mean: LoRA, std: LoRA) -> None:
        """From now on an emitted z means mean + z · std of a library, (n, r, d_in), (n, d_out, r).
        All z start at 0: step 0 is the mean LoRA."""
        for module in self.cfg.modules:
            for buffers, (A, B) in ((self.mean_recon_target, mean), (self.std_recon_target, std)):
                buffers.A.get_buffer(module).copy_(A[module])
                buffers.B.get_buffer(module).copy_(B[module] / self.scale)    # forward is unscaled
            if self.head.trunk:
                self.heads[module].bias.zero_()
            else:
                for w in self.bank.weights[module].parameters():
                    w.unflatten(0, (self.cfg.n_layers, 2, -1))[:, 0].zero_()          # B is 0 yet


# ------------------------------------------------------------------------- saving and loading

def save_t2l(t2l: T2L, folder: str | Path, dtype: torch.dtype, metadata: dict) -> None:
    """Write config.json (with `metadata`, how it was made) and t2l.safetensors into `folder`."""
    tensors = {k: w.detach().to("cpu", dtype).contiguous() for k, w in t2l.state_dict().items()}
    with atomic_folder(folder) as scratch:
        save_file(tensors, scratch / "t2l.safetensors")
        dump_json(scratch / "config.json", {**metadata, "t2l": asdict(t2l.cfg)})


def load_t2l(path: str | Path | None = None, module_order: tuple[str, ...] | None = None) -> T2L:
    """A trained hypernetwork in fp32, eval mode (None: the committed one for the default model).

    `path` is a folder of ours, one of checkpoints/ by its name, or one that the authors released;
    only that needs to be told `module_order`, see utils/sakana.py. Needs no other model on disk.
    Raises UserError where config.json and the tensors do not belong together.
    """
    folder = checkpoint_folder(path or CHECKPOINT)
    if (folder / "hypermod.pt").exists():
        fields, tensors = read_sakana(folder, module_order)
    elif module_order:
        raise UserError(f"{folder} says itself which module comes first; leave out --module-order")
    else:
        fields, tensors = read_t2l_folder(folder)

    try:
        modules = {m: tuple(sizes) for m, sizes in fields["modules"].items()}
        with torch.device("meta"):
            t2l = T2L(T2LConfig(**fields | {"modules": modules}))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError) as e:
        raise UserError(f"{folder}/config.json, section \"t2l\": {e}") from None
    load_weights(t2l, tensors, folder)
    t2l.neighbours = read_neighbours(folder, t2l.cfg.emb_size)
    return t2l.float().eval()


# ----------------------------------------------------------------------- description → adapter

@torch.no_grad()
def generate_lora(t2l: T2L, description: str | list[str], encoder: Encoder | None = None) -> LoRA:
    """Description(s) → (lora_A, lora_B), the scale folded into B.

    One string gives A[m] (n, r, d_in), B[m] (n, d_out, r); a list gives them a leading axis.
    Without `encoder` it is the checkpoint's, and what is far from all its tasks is warned of.
    """
    check_types(t2l=(t2l, T2L))
    one, texts = isinstance(description, str), as_texts(description, "description")
    task_emb = embed(encoder or encoder_for(t2l.cfg), texts)
    if encoder is None and t2l.neighbours:
        t2l.neighbours.warn(texts, task_emb)
    lora = t2l.eval().adapters(task_emb.to(t2l.task_encoder.mlp[0].weight))   # its device and dtype
    return map_lora(lora, lambda w: w[0]) if one else lora


def apply_lora(model: nn.Module, lora: LoRA | dict[str, Tensor],
               lora_B: dict[str, Tensor] | None = None) -> nn.Module:
    """A model like `model`, ours or transformers', with the adapter (a pair, or A and B) merged
    into its weights; `model` is left untouched."""
    return merge(model, lora if lora_B is None else (lora, lora_B))


# ------------------------------------------------------------------------------ the command

def print_answers(args: argparse.Namespace, lora: LoRA) -> None:
    """Every --prompt's answer without and with the adapter, side by side."""
    model = load_model(args.model, chosen_dtype(args), args.device)
    tokenizer = load_tokenizer(args.model)
    base = generate(model, tokenizer, args.prompt)
    adapted = generate(model, tokenizer, args.prompt, lora)
    for prompt, *answers in zip(args.prompt, base, adapted):
        without, with_adapter = (" ".join(answer.split()) for answer in answers)
        print(f"prompt:  {prompt}\nbase:    {without}\nadapted: {with_adapter}")


def main() -> None:
    args = t2l_flags(MODULES).parse_args()
    t2l = load_t2l(args.ckpt, args.module_order)
    if args.list:
        return print(listing(checkpoint_folder(args.ckpt or CHECKPOINT), t2l.neighbours))
    encoder = encoder_for(t2l.cfg, args.model, args.encoder)

    # The description, or two, and what each one's ΔW counts.
    note(f"T2L-{t2l.cfg.arch} for {t2l.cfg.base_model}, encoder {encoder.name}")
    weighed = weighed_descriptions(args)
    for text, _ in weighed:
        if not t2l.cfg.tasks:
            check_description(text, len(encoder.tokenizer.encode(text).ids), encoder.limit)
        if t2l.neighbours and not args.encoder:
            t2l.neighbours.tell(text, embed(encoder, [text]))

    # The adapter.
    start = time.perf_counter()
    lora_A, lora_B = mix_loras([(generate_lora(t2l, text, encoder), w) for text, w in weighed])
    seconds = time.perf_counter() - start

    # What it is wanted for.
    said = " + ".join(f"{w:g} × {text}" if w != 1 else text for text, w in weighed)
    if args.prompt or args.merged or args.gguf:
        check_model(t2l.cfg, read_config(args.model))
    if args.gguf:
        save_gguf(args.gguf, (lora_A, lora_B), model_folder(args.model), said)
    if args.prompt:
        print_answers(args, (lora_A, lora_B))
    if args.out:
        save_peft(args.out, lora_A, lora_B, base_model=t2l.cfg.base_model, description=said,
                  encoder=encoder.name, hypernetwork=fingerprint(t2l))
    if args.merged:
        merge_folder(model_folder(args.model), (lora_A, lora_B), args.merged, add_delta)

    size = sum(w.numel() for side in (lora_A, lora_B) for w in side.values())
    written = " and ".join(path for path in (args.out, args.merged, args.gguf) if path)
    print(f"adapter: {size:,} numbers in {seconds:.3f} s"
          + (f", written to {written}" if written else ""))


if __name__ == "__main__":
    run(main)
