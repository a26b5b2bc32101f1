"""The cost of a query, by hand."""
import pytest
import torch

from experiments import cost
from t2l import T2L, T2LConfig, adapted_modules


def test_the_cost_of_a_query_is_two_flops_for_each_weight_and_token():
    """By hand for the language model; for L its linear layers, called for every layer and adapted
    module, and the task's."""
    found = cost.query_cost("L", 36, 58, 293)
    cfg = cost.MISTRAL_7B
    d, inner, kv = cfg.hidden_size, cfg.intermediate_size, 1024
    weights = 32 * (2 * d * d + 2 * d * kv + 3 * d * inner) + d * cfg.vocab_size
    scores = 32 * 32 * 4 * 58 ** 2 * 128                                   # q k and weights v
    assert found["language model"] * 1e12 == pytest.approx(2 * 58 * weights + scores, rel=1e-3)
    with torch.device("meta"):
        t2l = T2L(T2LConfig("L", 1024, 32, adapted_modules(cfg)))
    calls = 32 * len(t2l.cfg.modules)
    linear = {name: layer.weight.numel() for name, layer in t2l.named_modules()
              if isinstance(layer, torch.nn.Linear)}
    often = sum(32 * n if name.startswith("heads") else n if "task" in name else calls * n
                for name, n in linear.items())
    assert found["hypernetwork"] * 1e12 == pytest.approx(2 * often, rel=1e-6)
