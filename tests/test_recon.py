"""Oracles side by side, and T2L that is trained to give them."""
import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import GOLDEN, TINY, call, random_lora, task_file, train_tiny
from safetensors import safe_open

from data.suite import load_suite
from data.tasks import Sample, draw_tasks, encode
from encoder import load_encoder
from experiments import plots
from lora import LoRA, load_peft, map_lora, save_peft
from mistral import load_model, load_tokenizer
from t2l import generate_lora, load_t2l
from train import recon_loss, sft_loss
from utils.cli import UserError
from utils.early_stopping import PATIENCE
from utils.library import (ReconTargets, average_lora, canonical, delta_error, delta_l1,
                           load_library, stack_loras)


def test_an_oracle_is_the_same_alone_and_in_company(tiny_tasks, tmp_path):
    """Same draws, same start, and gradients that do not know of the neighbours."""
    flags = ["--mode", "lora", "--tasks", tiny_tasks, "--steps", 6, "--lr", 0.02]
    train_tiny(*flags, "--batch-size", 8, "--task", "beta", "--out", tmp_path / "alone")
    train_tiny(*flags, "--batch-size", 16, "--out", tmp_path / "fused")
    assert not (tmp_path / "alone" / "alpha").exists()
    alone, fused = (load_peft(tmp_path / out / "beta") for out in ("alone", "fused"))
    other = load_peft(tmp_path / "fused" / "alpha")
    error = delta_error
    assert error(fused, alone) < 1e-3 < 0.1 < error(other, alone)


def test_every_oracle_says_its_task_and_its_scores(library):
    for name in ("alpha", "beta"):
        with safe_open(library / name / "adapter_model.safetensors", "pt") as file:
            about = file.metadata()
        assert about["task"] == name and 0 < int(about["best_step"]) <= 30
        assert float(about["validation_loss"]) < 0.8 * float(about["base_loss"])
        assert 0 <= float(about["validation_exact_match"]) <= 100
    assert json.loads((library / "config.json").read_text())["finished"]


def test_a_task_that_gets_no_better_leaves_the_batches(tiny_tasks, tmp_path):
    train_tiny("--mode", "lora", "--tasks", tiny_tasks, "--steps", 60, "--lr", 1e-9,
               "--batch-size", 16, "--out", tmp_path / "lora")
    steps = len((tmp_path / "lora" / "log_000.jsonl").read_text().splitlines())
    assert steps == PATIENCE * (60 // 15)


def test_the_best_step_is_kept_and_not_the_last(tiny_tasks, tmp_path):
    """A rate far too high: the loss rises, and what is saved is no worse than the base model."""
    train_tiny("--mode", "lora", "--tasks", tiny_tasks, "--steps", 15, "--lr", 30,
               "--task", "alpha", "--out", tmp_path / "lora")
    with safe_open(tmp_path / "lora" / "alpha" / "adapter_model.safetensors", "pt") as file:
        about = file.metadata()
    assert int(about["best_step"]) < 15
    assert float(about["validation_loss"]) <= float(about["base_loss"])
    model = load_model(GOLDEN / "llama", torch.float32)
    tokenizer = load_tokenizer(GOLDEN / "llama")
    task = load_suite(tiny_tasks).train[0]
    samples = [Sample("alpha", "", text, answers) for text, answers in task.train[-3:]]
    batch = encode(samples, tokenizer)
    logits = model(batch.ids, lora=load_peft(tmp_path / "lora" / "alpha"), keep=batch.keep)
    loss = sft_loss(logits, batch)
    assert loss.item() == pytest.approx(float(about["validation_loss"]), abs=1e-3)


def test_resuming_oracles_trains_what_is_missing_only(library, tiny_tasks, capsys):
    flags = ["--mode", "lora", "--tasks", tiny_tasks, "--steps", 30, "--lr", 0.02,
             "--batch-size", 16, "--out", library]
    with pytest.raises(UserError, match="earlier run"):
        train_tiny(*flags)
    train_tiny(*flags, "--resume")
    assert "is finished" in capsys.readouterr().out
    config = json.loads((library / "config.json").read_text())
    (library / "config.json").write_text(json.dumps(config | {"finished": False}))
    before = load_peft(library / "beta")[1]
    for file in (library / "beta").iterdir():
        file.unlink()
    (library / "beta").rmdir()
    logs = {path.name for path in library.glob("log*.jsonl")}
    train_tiny(*flags, "--resume")
    assert "2 oracles in" in capsys.readouterr().out         # they share a batch
    assert logs and {path.name for path in library.glob("log*.jsonl")} == logs
    again = load_peft(library / "beta")[1]
    assert before and all(torch.equal(again[m], w) for m, w in before.items())


# ------------------------------------------------------------------------- reconstruction


@pytest.mark.parametrize("arch, extra", [("L", []), ("bank", []),
                                         pytest.param("M", ["--canonical"], marks=pytest.mark.slow),
                                         pytest.param("S", ["--one-hot"], marks=pytest.mark.slow),
                                         pytest.param("L", ["--recon-space", "delta"],
                                                      marks=pytest.mark.slow)])
def test_reconstruction_begins_with_the_mean_and_comes_near(arch, extra, library, tiny_tasks,
                                                            tmp_path, capsys):
    flags = ["--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--arch", arch, *extra]
    train_tiny(*flags, "--steps", 1, "--lr", 1e-12, "--eval-samples", 0,
               "--out", tmp_path / "start")
    train_tiny(*flags, "--steps", 300, "--lr", 0.003, "--eval-samples", 2,
               "--out", tmp_path / "recon")
    loras, _ = load_library(library)
    if "--canonical" in extra:
        loras = {name: canonical(lora) for name, lora in loras.items()}
    average = average_lora(loras)
    errors = {}
    for run_name in ("start", "recon"):
        t2l = load_t2l(tmp_path / run_name)
        assert (sorted(t2l.cfg.tasks) == ["alpha", "beta"]) == ("--one-hot" in extra)
        encoder = None if t2l.cfg.tasks else load_encoder(GOLDEN / "bert")
        names = ["alpha", "beta"]
        lines = names if t2l.cfg.tasks else [f"Wording {i} of {n}." for i, n in enumerate(names)]
        guesses = generate_lora(t2l, lines, encoder)
        guesses = [tuple({m: w[i] for m, w in s.items()} for s in guesses) for i in (0, 1)]
        errors[run_name] = max(delta_error(g, loras[n]) for g, n in zip(guesses, names))
        if run_name == "start":
            assert all(delta_error(g, average) < 1e-4 for g in guesses)
    assert errors["recon"] < 0.3 * errors["start"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert "300 steps" in last and "oracle" in last and "average LoRA" in last

    # The table is experiments.compare's.
    call("experiments.compare", "--loras", library, "--tasks", tiny_tasks, *TINY, "--dtype",
         "float32", "--eval-samples", 2, "--ckpt", tmp_path / "recon", "--out", tmp_path / "recon")
    found = json.loads((tmp_path / "recon" / "results_library.json").read_text())
    assert found["distances"]["T2L recon"][2] < found["distances"]["T2L recon: average LoRA"][2]
    assert len(found["scores"]) == (5 if "--one-hot" in extra else 6)

    # And so is what is read from it.
    capsys.readouterr()
    one = plots.read_run(tmp_path / "recon")
    assert one.error == found["distances"]["T2L recon"][2] and one.loras == 2
    plots.table([one, replace(one, own=one.own + 1), replace(one, loras=8)])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 and f"{one.own + 0.5:.1f} [{one.own:.1f}, {one.own + 1:.1f}]" in rows[0]


def test_a_library_of_one_has_deviations_of_one(library, tiny_tasks, tmp_path):
    """z-scores are undefined there; the rule is that a deviation of 0 counts as 1."""
    train_tiny("--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--max-tasks", 1,
               "--steps", 3, "--eval-samples", 1, "--out", tmp_path / "recon")
    t2l = load_t2l(tmp_path / "recon")
    assert all((w == 1).all() for k, w in t2l.named_buffers() if k.startswith("std_recon_target.A"))
    log = (tmp_path / "recon" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["loss"] < 1e-6                 # the mean is the only target
    name = json.loads((tmp_path / "recon" / "config.json").read_text())["library"]
    assert name in (["alpha"], ["beta"])


@pytest.mark.parametrize("first, second", [("recon", "sft"), ("sft", "recon")])
@pytest.mark.parametrize("arch", ["L", "bank"])
def test_each_training_starts_where_the_other_ended(arch, first, second, library,
                                                        tiny_tasks, tmp_path):
    flags = {"recon": ["--mode", "recon", "--loras", library], "sft": ["--mode", "sft"]}
    common = ["--tasks", tiny_tasks, "--eval-samples", 0, "--batch-size", 4, "--arch", arch]
    train_tiny(*flags[first], *common, "--steps", 40, "--lr", 0.005,
               "--out", tmp_path / "one")
    train_tiny(*flags[second], *common, "--steps", 1, "--lr", 1e-12, "--init",
               tmp_path / "one", "--out", tmp_path / "two")
    one, two = (load_t2l(tmp_path / name) for name in ("one", "two"))
    assert replace(one.cfg, dropout=0) == replace(two.cfg, dropout=0)
    assert two.cfg.dropout == (0.05 if second == "sft" else 0)
    assert {layer.p for layer in two.modules() if isinstance(layer, torch.nn.Dropout)} == (
        set() if arch == "bank" else {two.cfg.dropout})
    emb = torch.randn(2, one.cfg.emb_size)
    with torch.no_grad():
        for ours, theirs in zip(one(emb), two(emb)):
            for m in ours:
                torch.testing.assert_close(ours[m], theirs[m], atol=1e-6, rtol=1e-4)
    with pytest.raises(UserError, match=f"its arch is '{arch}'"):
        train_tiny(*flags[second], *common, "--steps", 1, "--arch", "S", "--init",
                   tmp_path / "one", "--out", tmp_path / "three")


def test_a_one_hot_t2l_knows_no_unseen_task(library, tiny_tasks, tmp_path):
    train_tiny("--mode", "recon", "--loras", library, "--one-hot", "--steps", 2,
               "--eval-samples", 0, "--out", tmp_path / "recon")
    t2l = load_t2l(tmp_path / "recon")
    generate_lora(t2l, "alpha")
    with pytest.raises(UserError, match="knows its own tasks only, not 'gamma'"):
        generate_lora(t2l, "gamma")


def test_a_task_with_too_few_instances(tiny_tasks, tmp_path):
    task_file(tiny_tasks, "few", Instances=[{"input": f"few {i}", "output": [f"f{i}"]}
                                            for i in range(5)], Split=None)
    with pytest.raises(UserError, match="few has 4 training instances"):
        train_tiny("--mode", "lora", "--tasks", tiny_tasks, "--task", "few", "--steps", 1,
                   "--out", tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


# ------------------------------------------------------------------------------- a library of LoRAs

def delta(lora: LoRA) -> dict[str, torch.Tensor]:
    return {m: lora[1][m].double() @ lora[0][m].double() for m in lora[0]}


@pytest.mark.quick
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


@pytest.mark.quick
def test_canonical_of_a_lora_that_does_nothing_is_finite():
    A, B = random_lora()
    zero = canonical((A, {m: torch.zeros_like(w) for m, w in B.items()}))
    assert all(w.isfinite().all() for side in zero for w in side.values())
    assert all(w.abs().max() < 1e-6 for w in delta(zero).values())


@pytest.mark.quick
def test_a_library_has_no_hidden_adapters(tmp_path):
    """What begins with "." is no adapter: a killed command's scratch, whole or not."""
    lora = random_lora()
    for name in ("one", "two", ".text-to-lora-part-0123456789ab", ".one.ab12"):
        save_peft(tmp_path / name, *lora, base_model="tiny")
    (tmp_path / ".text-to-lora-part-456789abcdef").mkdir()
    assert sorted(load_library(tmp_path)[0]) == ["one", "two"]


@pytest.mark.quick
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


@pytest.mark.quick
def test_canonical_of_a_bf16_library_is_not_rounded():
    lora = tuple({m: w.bfloat16() for m, w in side.items()} for side in random_lora(seed=5))
    assert delta_error(canonical(lora), lora) < 1e-6


@pytest.mark.quick
def test_an_oracle_that_does_nothing_has_a_stated_distance():
    A, B = random_lora()
    nothing = A, {m: torch.zeros_like(w) for m, w in B.items()}
    assert delta_error((A, B), nothing) == math.inf
    assert delta_error(nothing, nothing) == 0


@pytest.mark.quick
def test_the_relative_error_is_the_dense_one():
    lora, target = random_lora(seed=3), random_lora(seed=3)
    lora = tuple({m: w + 0.3 * torch.randn_like(w) for m, w in side.items()} for side in lora)
    gaps = [delta(lora)[m] - delta(target)[m] for m in target[0]]
    dense = (sum(g.square().sum() for g in gaps)
             / sum(d.square().sum() for d in delta(target).values())).sqrt()
    assert delta_error(lora, target) == pytest.approx(dense.item(), rel=1e-5)
    assert delta_error(target, target) < 1e-6


@pytest.mark.quick
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


@pytest.mark.quick
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


@pytest.mark.quick
@pytest.mark.parametrize("rank", [3, 8, 20])
def test_the_canonical_form_at_ranks_beyond_a_modules_own(rank):
    """q_proj 16 x 6, v_proj 5 x 16: the same ΔW, at the library's rank."""
    lora = ({"q_proj": torch.randn(2, rank, 6), "v_proj": torch.randn(2, rank, 16)},
            {"q_proj": torch.randn(2, 16, rank), "v_proj": torch.randn(2, 5, rank)})
    A, B = canonical(lora)
    for m in lora[0]:
        assert A[m].shape == lora[0][m].shape and B[m].shape == lora[1][m].shape
        torch.testing.assert_close(B[m] @ A[m], lora[1][m] @ lora[0][m], atol=1e-4, rtol=1e-4)


@pytest.mark.quick
def test_a_library_whose_mean_is_not_finite():
    lora = ({"q_proj": torch.full((1, 1, 2), 3e38)}, {"q_proj": torch.ones(1, 2, 1)})
    with pytest.raises(UserError, match="too large for their mean"):
        ReconTargets({"a": lora, "b": lora}, True, torch.float32)
