"""A layer of a Llama-like model in fewer and larger kernels, and all layers as one CUDA graph.

A GPU that runs a small model waits for Python, which has to start each of them.

q, k and v come from one matmul, gate and up from another; a norm, the rotation of q and k together,
and attention are one kernel each. What is computed is what mistral.Layer computes, for whole
sequences that start at the left; in bf16 it rounds elsewhere.
"""
import argparse
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.cli import UserError

Pair = tuple[Tensor, Tensor]
ROUND_TO = 16                     # positions: so few graphs, for a few more positions of padding


def set_up_layers(model: nn.Module, args: argparse.Namespace) -> None:
    """What train.py's flags say of how the layers are run."""
    model.activation_checkpointing = args.activation_checkpointing
    if args.cuda_graphs:
        if not model.fused:
            raise UserError("--cuda-graphs is for models like Llama and Mistral on --device cuda, "
                            "without biases, soft-caps or norms of q and k; leave it out")
        torch.cuda.set_device(model.device)            # where streams and graphs then are
        model.graphs = CudaGraphs(model)
    if args.compile:
        compile_layers(model)


def compile_layers(model: nn.Module) -> None:
    """torch.compile in place of fused_layer: one graph for all layers and batch shapes (a second
    one for long sequences)."""
    model.fused = False
    for layer in model.model["layers"]:
        layer.compile(dynamic=True)


def lay_together(model: nn.Module) -> bool:
    """Store what one matmul reads side by side: the weights of q, k and v, of gate and up. They
    keep their names and shapes; one more copy of one layer is needed on the way. False, and nothing
    is done, where the layers are not as fused_layer has them."""
    cfg = model.cfg
    if cfg.gemma or cfg.qk_norm or cfg.biases or cfg.attn_logit_softcapping:
        return False
    for layer in model.model["layers"]:
        for linears in matmuls(layer):
            whole = torch.cat([linear.weight for linear in linears])
            for linear, part in zip(linears, whole.split([len(x.weight) for x in linears])):
                linear.weight.data = part
    return True


def matmuls(layer: nn.Module) -> tuple[list[nn.Linear], list[nn.Linear]]:
    attention, mlp = layer.self_attn, layer.mlp
    return [attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj]


def together(linears: list[nn.Linear]) -> Tensor:
    """Their weights, one below the other; a view where they lie so, a copy where, say, an adapter
    was merged into one of them."""
    weights = [linear.weight for linear in linears]
    end, storage = weights[0].data_ptr(), weights[0].untyped_storage().data_ptr()
    for w in weights:
        if w.data_ptr() != end or w.untyped_storage().data_ptr() != storage:
            return torch.cat(weights)
        end += w.nbytes
    return weights[0].as_strided((sum(map(len, weights)), weights[0].shape[1]),
                                 weights[0].stride())


def adapt(y: Tensor, x: Tensor, adapter: Pair | None) -> Tensor:
    """y + B A x, for one adapter or one a sample."""
    if adapter is None:
        return y
    A, B = adapter
    if A.dim() == 2:
        return y + F.linear(F.linear(x, A), B)
    return torch.baddbmm(y, x @ A.transpose(1, 2), B.transpose(1, 2))


def fused_layer(layer: nn.Module, x: Tensor, rope: Pair, adapter: dict[str, Pair],
                *unused) -> Tensor:
    """x (b, t, d) → (b, t, d), as layer(x, rope, adapter, …) with a causal mask and no cache."""
    (b, t, _), attention, (qkv, gate_up) = x.shape, layer.self_attn, matmuls(layer)
    k, c, (cos, sin) = attention.k, attention.c, rope

    # Attention; q (b, t, h, c) and k (b, t, k, c) turn together.
    y = normed(layer.input_layernorm, x)
    sizes = [len(linear.weight) for linear in qkv]
    q, key, v = (adapt(part, y, adapter.get(m)) for m, part in zip(
        ("q_proj", "k_proj", "v_proj"), F.linear(y, together(qkv)).split(sizes, -1)))
    both = torch.cat([q, key], -1).view(b, t, -1, c)
    left, right = both.chunk(2, -1)
    both = (both * cos + torch.cat([-right, left], -1) * sin).transpose(1, 2)
    q, key = both.split([both.shape[1] - k, k], 1)
    y = F.scaled_dot_product_attention(q, key, v.view(b, t, k, c).transpose(1, 2), is_causal=True,
                                       scale=attention.scale, enable_gqa=True)
    y = y.transpose(1, 2).reshape(b, t, -1)
    x = x + adapt(attention.o_proj(y), y, adapter.get("o_proj"))

    # MLP.
    y = normed(layer.post_attention_layernorm, x)
    gate, up = (adapt(part, y, adapter.get(m)) for m, part in zip(
        ("gate_proj", "up_proj"), F.linear(y, together(gate_up)).chunk(2, -1)))
    y = F.silu(gate) * up
    return x + adapt(layer.mlp.down_proj(y), y, adapter.get("down_proj"))


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


class CudaGraphs:
    """All layers as one CUDA graph for each batch shape, forward and backward: one call starts what
    Python else starts kernel by kernel.

    A graph reads from and writes to fixed places. So the weights must stay where they are, and each
    forward pass must be followed by its backward pass before the next.
    """

    def __init__(self, model: nn.Module):
        self.layers, self.captured, self.pool = model.model["layers"], {}, None

    def __deepcopy__(self, memo: dict) -> None:
        """A copied model has other weights, and none of these graphs."""

    def __call__(self, x: Tensor, rope: Pair, adapters: list[dict[str, Pair]]) -> Tensor:
        """x (b, t, d) → (b, t, d), the last layer's states; rope is cos, sin (t, 1, c)."""
        t, modules = x.shape[1], list(adapters[0])
        padding = -t % ROUND_TO                   # at the right, where causal layers do not look
        x = F.pad(x, (0, 0, 0, padding))
        cos, sin = (F.pad(z, (0, 0, 0, 0, 0, padding)) for z in rope)
        A, B = ([torch.stack([adapter[m][side] for adapter in adapters]) for m in modules]
                for side in (0, 1))                                      # (n, r, d_in) or (n, b, …)
        inputs = (x, cos, sin, *A, *B)

        # Captured with tensors of its own. One forward and backward pass ends before the next
        # begins, so all graphs may use the same memory.
        key = (*modules, *((z.shape, z.requires_grad) for z in inputs))
        if key not in self.captured:
            own = tuple(z.detach().clone().requires_grad_(z.requires_grad) for z in inputs)
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            self.captured[key] = torch.cuda.make_graphed_callables(
                partial(self.all_layers, modules), own, pool=self.pool)
        return self.captured[key](*inputs)[:, :t]

    def all_layers(self, modules: list[str], x: Tensor, cos: Tensor, sin: Tensor,
                   *stacked: Tensor) -> Tensor:
        A, B = stacked[:len(modules)], stacked[len(modules):]
        for i, layer in enumerate(self.layers):
            adapter = {m: (a[i], b[i]) for m, a, b in zip(modules, A, B)}
            x = fused_layer(layer, x, (cos, sin), adapter)
        return x
