"""The memory table of bench.py against memory as it is used, tensor by tensor."""
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bench
import mistral
import t2l as t2l_ops


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made under it that are alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return out

    def count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, key, size)

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


# SmolLM2-135M's sizes; random weights do
SIZES = mistral.Config(vocab_size=49152, hidden_size=576, intermediate_size=1536,
                       num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                       head_dim=64, rms_norm_eps=1e-5, rope_theta=1e5, sliding_window=None,
                       tie_word_embeddings=True, max_position_embeddings=8192, eos_token_id=(2,))


@pytest.mark.parametrize("b, t, recompute", [(16, 40, False), (16, 40, True), (2, 300, False)])
def test_the_memory_table_is_within_a_tenth_of_what_a_step_uses(b, t, recompute):
    with LiveBytes() as live:
        model = bench.random_model(SIZES)
        model.recompute = recompute
        t2l = bench.fresh_t2l(SIZES)
        step = bench.our_step(model, t2l, *bench.made_up(SIZES, b, t))
        step()                                          # makes AdamW's moments
        live.peak = live.now
        step()
    table = bench.step_memory(SIZES, t2l, b, t, 4 * b, recompute)
    assert sum(table.values()) == pytest.approx(live.peak, rel=0.1)
    fixed = sum(list(table.values())[:3])               # weights and moments: known to the byte
    near = 0.2 if recompute else 0.05                   # of the layer that is computed again
    assert sum(table.values()) - fixed == pytest.approx(live.peak - fixed, rel=near)


def test_the_cost_of_a_query_is_two_flops_for_each_weight_and_token():
    """By hand for the language model; for L its linear layers, called 64 times, and the task's."""
    found = bench.query_cost("L", 36, 58, 293)
    cfg = bench.MISTRAL_7B
    d, inner, kv = cfg.hidden_size, cfg.intermediate_size, 1024
    weights = 32 * (2 * d * d + 2 * d * kv + 3 * d * inner) + d * cfg.vocab_size
    scores = 32 * 32 * 4 * 58 ** 2 * 128                                   # q k and weights v
    assert found["language model"] * 1e12 == pytest.approx(2 * 58 * weights + scores, rel=1e-3)
    with torch.device("meta"):
        t2l = t2l_ops.T2L(t2l_ops.Config("L", 1024, 32, t2l_ops.adapted_modules(cfg)))
    linear = {name: layer.weight.numel() for name, layer in t2l.named_modules()
              if isinstance(layer, torch.nn.Linear)}
    often = sum(32 * n if name.startswith("heads") else n if "task" in name else 64 * n
                for name, n in linear.items())
    assert found["hypernetwork"] * 1e12 == pytest.approx(2 * often, rel=1e-6)


def test_random_weights_in_shards_load_as_a_model(tmp_path):
    cfg = mistral.Config(**vars(SIZES) | {"vocab_size": 100, "num_hidden_layers": 2})
    size = bench.write_random_model(cfg, tmp_path, shard_bytes=4 << 20)
    model = mistral.load_model(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert size == sum(2 * w.numel() for w in model.parameters())
    assert all(w.std() > 0 for name, w in model.named_parameters() if "proj" in name)
