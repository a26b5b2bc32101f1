"""A library of LoRAs: one form, distances, draws, and libraries that cannot be learnt."""
import json
import math
from collections import Counter

import pytest
import torch
from conftest import random_lora, train_tiny

from data.suite import load_suite
from data.tasks import Sample, draw_tasks
from lora import LoRA, load_peft, map_lora, save_peft
from train import recon_loss
from utils.cli import UserError
from utils.library import (ReconTargets, canonical, delta_error, delta_l1, load_library,
                           stack_loras)

pytestmark = pytest.mark.quick


def delta(lora: LoRA) -> dict[str, torch.Tensor]:
    return {m: lora[1][m].double() @ lora[0][m].double() for m in lora[0]}


@pytest.mark.parametrize("seed", range(3))
def test_canonical_keeps_delta_and_forgets_the_gauge(seed):
    A, B = random_lora(seed=seed)
    mixed: LoRA = ({}, {})
    for m in A:
        M = torch.randn(*A[m].shape[:-2], A[m].shape[-2], A[m].shape[-2], dtype=torch.double)
        mixed[0][m], mixed[1][m] = torch.linalg.solve(M, A[m].double()), B[m].double() @ M
        A[m], B[m] = A[m].double(), B[m].double()
    one, two = canonical((A, B)), canonical(mixed)
    for m in A:
        assert (mixed[0][m] - A[m]).abs().max() > 0.1                # they were far apart
        torch.testing.assert_close(delta(one)[m], delta((A, B))[m], atol=1e-6, rtol=1e-6)
        for side in (0, 1):
            torch.testing.assert_close(one[side][m], two[side][m], atol=1e-6, rtol=1e-6)
        lengths = one[0][m].norm(dim=-1)
        torch.testing.assert_close(lengths, one[1][m].norm(dim=-2))  # split evenly …
        assert (lengths.diff(dim=-1) <= 0).all()                     # … and sorted


def test_canonical_of_a_lora_that_does_nothing_is_finite():
    A, B = random_lora()
    zero = canonical((A, {m: torch.zeros_like(w) for m, w in B.items()}))
    assert all(w.isfinite().all() for side in zero for w in side.values())
    assert all(w.abs().max() < 1e-6 for w in delta(zero).values())


def test_a_library_has_no_hidden_adapters(tmp_path):
    """What begins with "." is no adapter: a killed command's scratch, whole or not."""
    lora = random_lora()
    for name in ("one", "two", ".text-to-lora-part-0123456789ab", ".one.ab12"):
        save_peft(tmp_path / name, *lora, base_model="tiny")
    (tmp_path / ".text-to-lora-part-456789abcdef").mkdir()
    assert sorted(load_library(tmp_path)[0]) == ["one", "two"]


@pytest.mark.parametrize("rows", [3, 64])
def test_the_distance_in_delta_is_the_dense_one_with_its_gradient(rows):
    lora, target = (random_lora(2, seed=7) for _ in "ab")
    target = tuple({m: torch.randn_like(w) for m, w in side.items()} for side in target)
    grads = []
    for dense in (False, True):
        leaves = [{m: w.clone().requires_grad_() for m, w in side.items()} for side in lora]
        if dense:
            gaps = [(leaves[1][m] @ leaves[0][m] - target[1][m] @ target[0][m]).abs()
                    for m in target[0]]
            value = sum(g.sum() for g in gaps) / sum(g.numel() for g in gaps)
        else:
            value = delta_l1(tuple(leaves), target, rows)
        value.backward()
        grads.append([value.detach(), *(w.grad for side in leaves for w in side.values())])
    for ours, dense in zip(*grads):
        torch.testing.assert_close(ours, dense, atol=1e-5, rtol=1e-5)


def test_canonical_of_a_bf16_library_is_not_rounded():
    lora = tuple({m: w.bfloat16() for m, w in side.items()} for side in random_lora(seed=5))
    assert delta_error(canonical(lora), lora) < 1e-6


def test_an_oracle_that_does_nothing_has_a_stated_distance():
    A, B = random_lora()
    nothing = A, {m: torch.zeros_like(w) for m, w in B.items()}
    assert delta_error((A, B), nothing) == math.inf
    assert delta_error(nothing, nothing) == 0


def test_the_relative_error_is_the_dense_one():
    lora, target = random_lora(seed=3), random_lora(seed=3)
    lora = tuple({m: w + 0.3 * torch.randn_like(w) for m, w in side.items()} for side in lora)
    gaps = [delta(lora)[m] - delta(target)[m] for m in target[0]]
    dense = (sum(g.square().sum() for g in gaps)
             / sum(d.square().sum() for d in delta(target).values())).sqrt()
    assert delta_error(lora, target) == pytest.approx(dense.item(), rel=1e-5)
    assert delta_error(target, target) < 1e-6


def test_a_batch_smaller_than_the_library_is_a_fair_draw_and_has_its_own_targets(tiny_tasks):
    tasks = load_suite(tiny_tasks).train + load_suite(tiny_tasks).unseen
    drawn = [next(draw_tasks(tasks, 2, seed=3, start=i)) for i in range(300)]
    assert all(len({s.task for s in batch}) == 2 for batch in drawn)
    counts = Counter(s.task for batch in drawn for s in batch)
    assert all(150 < counts[task.name] < 250 for task in tasks)               # 200 each
    whole = draw_tasks(tasks, 2, seed=3)
    assert [next(whole) for _ in range(300)] == drawn               # resumed anywhere: the same
    batched = random_lora(len(tasks))
    loras = {task.name: map_lora(batched, lambda w, i=i: w[i])
             for i, task in enumerate(tasks)}
    targets = ReconTargets(loras, z_scores=False, dtype=torch.float32)

    def distance(wanted: list[Sample], found: list[Sample]) -> torch.Tensor:
        own = stack_loras([loras[s.task] for s in found])
        target = targets.select([s.task for s in wanted])
        return recon_loss(own, target, targets.loss_std, "factors")
    for batch in drawn[:5]:
        assert distance(batch, batch) == 0 and distance(batch[::-1], batch) > 0.1


def test_libraries_that_cannot_be_learnt(library, tiny_tasks, tmp_path):
    def refused(said: str, *flags) -> None:
        with pytest.raises(UserError, match=said):
            train_tiny("--mode", "recon", "--tasks", tiny_tasks, "--steps", 1, *flags)

    refused("needs --loras")
    (tmp_path / "empty").mkdir()
    refused("holds no adapter folder", "--loras", tmp_path / "empty")
    refused("no 'delta' to train on", "--loras", library, "--task", "delta")
    A, B = load_peft(library / "alpha")
    base = json.loads((library / "alpha" / "adapter_config.json").read_text())[
        "base_model_name_or_path"]
    odd = library / "odd"
    save_peft(odd, A, B, base_model="another")
    refused("odd is for 'another'", "--loras", library)
    save_peft(odd, {m: w[:, :2] for m, w in A.items()},
              {m: w[..., :2] for m, w in B.items()}, base_model=base)
    refused("odd: its shapes", "--loras", library)
    save_peft(odd, A, {m: w * torch.nan for m, w in B.items()}, base_model=base)
    refused("odd: holds numbers that are not finite", "--loras", library)
    save_peft(odd, A, B, base_model=base)
    refused("odd: no task of that name", "--loras", library)
    (odd / "adapter_config.json").unlink()
    refused("odd/adapter_config.json does not exist", "--loras", library)


@pytest.mark.parametrize("rank", [3, 8, 20])
def test_the_canonical_form_at_ranks_beyond_a_modules_own(rank):
    """q_proj 16 x 6, v_proj 5 x 16: the same ΔW, at the library's rank."""
    lora = ({"q_proj": torch.randn(2, rank, 6), "v_proj": torch.randn(2, rank, 16)},
            {"q_proj": torch.randn(2, 16, rank), "v_proj": torch.randn(2, 5, rank)})
    A, B = canonical(lora)
    for m in lora[0]:
        assert A[m].shape == lora[0][m].shape and B[m].shape == lora[1][m].shape
        torch.testing.assert_close(B[m] @ A[m], lora[1][m] @ lora[0][m], atol=1e-4, rtol=1e-4)


def test_a_library_whose_mean_is_not_finite():
    lora = ({"q_proj": torch.full((1, 1, 2), 3e38)}, {"q_proj": torch.ones(1, 2, 1)})
    with pytest.raises(UserError, match="too large for their mean"):
        ReconTargets({"a": lora, "b": lora}, True, torch.float32)
