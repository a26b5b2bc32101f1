"""The other training: oracles side by side, what is compared with them, and T2L that gives them."""
import json
import math
import random
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import GOLDEN, task_file
from safetensors import safe_open

import compare
import eval as eval_ops
import library as library_ops
import lora as lora_ops
import mistral
import plots
import t2l as t2l_ops
import train as train_ops
from data.files import UserError
from data.suite import load_suite
from data.tasks import Sample, draw_from_each, draw_tasks, encode

TINY = ["--model", str(GOLDEN / "llama"), "--encoder", str(GOLDEN / "bert"),
        "--dtype", "float32"]


def run(monkeypatch, *flags) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *TINY, *map(str, flags)])
    train_ops.main()


def random_lora(*lead: int, seed: int = 0) -> lora_ops.LoRA:
    """A and B of two modules with sizes of their own, (*lead, n, r, d_in), (*lead, n, d_out, r)."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    n, r = rng.randint(2, 4), rng.randint(2, 5)
    sizes = {m: (rng.randint(8, 20), rng.randint(8, 20)) for m in ("q_proj", "v_proj")}
    return ({m: torch.randn(*lead, n, r, d, generator=generator) for m, (d, _) in sizes.items()},
            {m: torch.randn(*lead, n, d, r, generator=generator) for m, (_, d) in sizes.items()})


def delta(lora: lora_ops.LoRA) -> dict[str, torch.Tensor]:
    return {m: lora[1][m].double() @ lora[0][m].double() for m in lora[0]}


@pytest.fixture
def library(tiny_tasks, tmp_path, monkeypatch):
    """Oracles of the two tiny training tasks."""
    run(monkeypatch, "--mode", "lora", "--tasks", tiny_tasks, "--steps", 30, "--lr", 0.02,
        "--batch-size", 16, "--out", tmp_path / "lora")
    return tmp_path / "lora"


# ------------------------------------------------------------------------------ the algebra

@pytest.mark.parametrize("seed", range(3))
def test_canonical_keeps_delta_and_forgets_the_gauge(seed):
    A, B = random_lora(seed=seed)
    mixed: lora_ops.LoRA = ({}, {})
    for m in A:
        M = torch.randn(*A[m].shape[:-2], A[m].shape[-2], A[m].shape[-2], dtype=torch.double)
        mixed[0][m], mixed[1][m] = torch.linalg.solve(M, A[m].double()), B[m].double() @ M
        A[m], B[m] = A[m].double(), B[m].double()
    one, two = library_ops.canonical((A, B)), library_ops.canonical(mixed)
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
    zero = library_ops.canonical((A, {m: torch.zeros_like(w) for m, w in B.items()}))
    assert all(w.isfinite().all() for side in zero for w in side.values())
    assert all(w.abs().max() < 1e-6 for w in delta(zero).values())


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
            value = library_ops.delta_l1(tuple(leaves), target, rows)
        value.backward()
        grads.append([value.detach(), *(w.grad for side in leaves for w in side.values())])
    for ours, dense in zip(*grads):
        torch.testing.assert_close(ours, dense, atol=1e-5, rtol=1e-5)


def test_canonical_of_a_bf16_library_is_not_rounded():
    lora = tuple({m: w.bfloat16() for m, w in side.items()} for side in random_lora(seed=5))
    assert library_ops.delta_error(library_ops.canonical(lora), lora) < 1e-6


def test_an_oracle_that_does_nothing_has_a_stated_distance():
    A, B = random_lora()
    nothing = A, {m: torch.zeros_like(w) for m, w in B.items()}
    assert library_ops.delta_error((A, B), nothing) == math.inf
    assert library_ops.delta_error(nothing, nothing) == 0


def test_the_relative_error_is_the_dense_one():
    lora, target = random_lora(seed=3), random_lora(seed=3)
    lora = tuple({m: w + 0.3 * torch.randn_like(w) for m, w in side.items()} for side in lora)
    gaps = [delta(lora)[m] - delta(target)[m] for m in target[0]]
    dense = (sum(g.square().sum() for g in gaps)
             / sum(d.square().sum() for d in delta(target).values())).sqrt()
    assert library_ops.delta_error(lora, target) == pytest.approx(dense.item(), rel=1e-5)
    assert library_ops.delta_error(target, target) < 1e-6


# ------------------------------------------------------------------------------ the oracles

def test_an_oracle_is_the_same_alone_and_in_company(tiny_tasks, tmp_path, monkeypatch):
    """Same draws, same start, and gradients that do not know of the neighbours."""
    flags = ["--mode", "lora", "--tasks", tiny_tasks, "--steps", 6, "--lr", 0.02]
    run(monkeypatch, *flags, "--batch-size", 8, "--task", "beta", "--out", tmp_path / "alone")
    run(monkeypatch, *flags, "--batch-size", 16, "--out", tmp_path / "fused")
    assert not (tmp_path / "alone" / "alpha").exists()
    alone, fused = (lora_ops.load_peft(tmp_path / out / "beta") for out in ("alone", "fused"))
    other = lora_ops.load_peft(tmp_path / "fused" / "alpha")
    error = library_ops.delta_error
    assert error(fused, alone) < 1e-3 < 0.1 < error(other, alone)


def test_every_oracle_says_its_task_and_its_scores(library):
    for name in ("alpha", "beta"):
        with safe_open(library / name / "adapter_model.safetensors", "pt") as file:
            about = file.metadata()
        assert about["task"] == name and 0 < int(about["best_step"]) <= 30
        assert float(about["validation_loss"]) < 0.8 * float(about["base_loss"])
        assert 0 <= float(about["validation_exact_match"]) <= 100
    assert json.loads((library / "config.json").read_text())["finished"]


def test_a_task_that_gets_no_better_leaves_the_batches(tiny_tasks, tmp_path, monkeypatch):
    run(monkeypatch, "--mode", "lora", "--tasks", tiny_tasks, "--steps", 60, "--lr", 1e-9,
        "--batch-size", 16, "--out", tmp_path / "lora")
    steps = len((tmp_path / "lora" / "log_000.jsonl").read_text().splitlines())
    assert steps == train_ops.PATIENCE * (60 // 15)


def test_the_best_step_is_kept_and_not_the_last(tiny_tasks, tmp_path, monkeypatch):
    """A rate far too high: the loss rises, and what is saved is no worse than the base model."""
    run(monkeypatch, "--mode", "lora", "--tasks", tiny_tasks, "--steps", 15, "--lr", 30,
        "--task", "alpha", "--out", tmp_path / "lora")
    with safe_open(tmp_path / "lora" / "alpha" / "adapter_model.safetensors", "pt") as file:
        about = file.metadata()
    assert int(about["best_step"]) < 15
    assert float(about["validation_loss"]) <= float(about["base_loss"])
    model = mistral.load_model(GOLDEN / "llama", torch.float32)
    tokenizer = mistral.load_tokenizer(GOLDEN / "llama")
    task = load_suite(tiny_tasks).train[0]
    samples = [Sample("alpha", "", text, answers) for text, answers in task.train[-3:]]
    loss = train_ops.answer_loss(model, encode(samples, tokenizer),
                                 lora_ops.load_peft(tmp_path / "lora" / "alpha"))
    assert loss.item() == pytest.approx(float(about["validation_loss"]), abs=1e-3)


def test_draws_do_not_depend_on_company(tiny_tasks):
    tasks = load_suite(tiny_tasks).train
    both, one = draw_from_each(tasks, 8), draw_from_each(tasks[1:], 8)
    for _ in range(3):
        assert next(both)[8:] == next(one)


def test_resuming_oracles_trains_what_is_missing_only(library, tiny_tasks, monkeypatch, capsys):
    flags = ["--mode", "lora", "--tasks", tiny_tasks, "--steps", 30, "--lr", 0.02,
             "--batch-size", 16, "--out", library]
    with pytest.raises(UserError, match="earlier run"):
        run(monkeypatch, *flags)
    run(monkeypatch, *flags, "--resume")
    assert "is finished" in capsys.readouterr().out
    config = json.loads((library / "config.json").read_text())
    (library / "config.json").write_text(json.dumps(config | {"finished": False}))
    before = lora_ops.load_peft(library / "beta")[1]["q_proj"]
    for file in (library / "beta").iterdir():
        file.unlink()
    (library / "beta").rmdir()
    logs = {path.name for path in library.glob("log*.jsonl")}
    run(monkeypatch, *flags, "--resume")
    assert "2 oracles in" in capsys.readouterr().out         # they share a batch
    assert logs and {path.name for path in library.glob("log*.jsonl")} == logs
    assert torch.equal(lora_ops.load_peft(library / "beta")[1]["q_proj"], before)


# ------------------------------------------------------------------------- reconstruction

@pytest.mark.parametrize("arch, extra", [("L", []), ("M", ["--canonical"]), ("S", ["--one-hot"]),
                                         ("L", ["--recon-space", "delta"])])
def test_reconstruction_begins_with_the_mean_and_comes_near(arch, extra, library, tiny_tasks,
                                                            tmp_path, monkeypatch, capsys):
    flags = ["--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--arch", arch, *extra]
    run(monkeypatch, *flags, "--steps", 1, "--lr", 1e-12, "--eval-samples", 0,
        "--out", tmp_path / "start")
    run(monkeypatch, *flags, "--steps", 300, "--lr", 0.003, "--eval-samples", 2,
        "--out", tmp_path / "recon")
    loras, _ = library_ops.load_library(library)
    if "--canonical" in extra:
        loras = {name: library_ops.canonical(lora) for name, lora in loras.items()}
    average = library_ops.average_of(loras)
    errors = {}
    for run_name in ("start", "recon"):
        t2l = t2l_ops.load_t2l(tmp_path / run_name)
        assert (sorted(t2l.cfg.tasks) == ["alpha", "beta"]) == ("--one-hot" in extra)
        encoder = None if t2l.cfg.tasks else train_ops.load_encoder(GOLDEN / "bert")
        lines = ["alpha", "beta"]
        if not t2l.cfg.tasks:
            lines = [f"Wording {i} of {name}." for i, name in enumerate(lines)]
        guesses = t2l_ops.generate_lora(t2l, lines, encoder)
        guesses = [tuple({m: w[i] for m, w in s.items()} for s in guesses) for i in (0, 1)]
        errors[run_name] = max(library_ops.delta_error(g, loras[n]) for g, n in zip(guesses, loras))
        if run_name == "start":
            assert all(library_ops.delta_error(g, average) < 1e-4 for g in guesses)
    assert errors["recon"] < 0.3 * errors["start"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert "300 steps" in last and "oracle" in last and "average LoRA" in last
    found = json.loads((tmp_path / "recon" / "results_library.json").read_text())
    assert found["distances"]["T2L recon"][2] < found["distances"]["T2L recon: average LoRA"][2]
    assert len(found["scores"]) == (5 if "--one-hot" in extra else 6)
    one = plots.read_run(tmp_path / "recon")
    assert one.error == found["distances"]["T2L recon"][2] and one.loras == 2
    plots.table([one, replace(one, own=one.own + 1), replace(one, loras=8)])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 and f"{one.own + 0.5:.1f} [{one.own:.1f}, {one.own + 1:.1f}]" in rows[0]


def test_a_batch_smaller_than_the_library_is_a_fair_draw_and_has_its_own_targets(tiny_tasks):
    tasks = load_suite(tiny_tasks).train + load_suite(tiny_tasks).unseen
    drawn = [next(draw_tasks(tasks, 2, seed=3, start=i)) for i in range(300)]
    assert all(len({s.task for s in batch}) == 2 for batch in drawn)
    counts = Counter(s.task for batch in drawn for s in batch)
    assert all(150 < counts[task.name] < 250 for task in tasks)               # 200 each
    whole = draw_tasks(tasks, 2, seed=3)
    assert [next(whole) for _ in range(300)] == drawn               # resumed anywhere: the same
    batched = random_lora(len(tasks))
    loras = {task.name: lora_ops.mapped(batched, lambda w, i=i: w[i])
             for i, task in enumerate(tasks)}
    objective = library_ops.Library(loras, "factors", False, torch.float32)
    for batch in drawn[:5]:
        own = library_ops.stacked([loras[s.task] for s in batch])
        assert objective(batch, own) == 0 and objective(batch[::-1], own) > 0.1


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    run = plots.Run("L", 8, 2 ** 20, 2 ** 24, 1.0, 90.0, 5.0, 80.0, 70.0, 2.0, 0.2, 0.9)
    plots.figure([run, replace(run, loras=16, library_bytes=2 ** 21)], tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes()[:4] == b"\x89PNG"


def test_a_library_of_one_has_deviations_of_one(library, tiny_tasks, tmp_path, monkeypatch):
    """z-scores are undefined there; the rule is that a deviation of 0 counts as 1."""
    run(monkeypatch, "--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--max-tasks", 1,
        "--steps", 3, "--eval-samples", 1, "--out", tmp_path / "recon")
    t2l = t2l_ops.load_t2l(tmp_path / "recon")
    assert all((w == 1).all() for k, w in t2l.named_buffers() if k.startswith("std_recon_target.A"))
    log = (tmp_path / "recon" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["loss"] < 1e-6                 # the mean is the only target
    name = json.loads((tmp_path / "recon" / "config.json").read_text())["library"]
    assert name in (["alpha"], ["beta"])


@pytest.mark.parametrize("first, second", [("recon", "sft"), ("sft", "recon")])
def test_each_training_starts_where_the_other_ended(first, second, library, tiny_tasks, tmp_path,
                                                    monkeypatch):
    flags = {"recon": ["--mode", "recon", "--loras", library], "sft": ["--mode", "sft"]}
    common = ["--tasks", tiny_tasks, "--eval-samples", 0, "--batch-size", 4]
    run(monkeypatch, *flags[first], *common, "--steps", 40, "--lr", 0.005,
        "--out", tmp_path / "one")
    run(monkeypatch, *flags[second], *common, "--steps", 1, "--lr", 1e-12, "--init",
        tmp_path / "one", "--out", tmp_path / "two")
    one, two = (t2l_ops.load_t2l(tmp_path / name) for name in ("one", "two"))
    assert replace(one.cfg, dropout=0) == replace(two.cfg, dropout=0)
    assert two.cfg.dropout == (0.05 if second == "sft" else 0)
    assert {layer.p for layer in two.modules() if isinstance(layer, torch.nn.Dropout)} == {
        two.cfg.dropout}
    emb = torch.randn(2, one.cfg.emb_size)
    with torch.no_grad():
        for ours, theirs in zip(one(emb), two(emb)):
            for m in ours:
                torch.testing.assert_close(ours[m], theirs[m], atol=1e-6, rtol=1e-4)
    with pytest.raises(UserError, match="its arch is 'L'"):
        run(monkeypatch, *flags[second], *common, "--steps", 1, "--arch", "S", "--init",
            tmp_path / "one", "--out", tmp_path / "three")


def test_one_hot_and_text_beside_each_other(library, tiny_tasks, tmp_path, monkeypatch, capsys):
    """Each T2L hears of its tasks in its own way, in whatever order they are given."""
    heard, generate = [], t2l_ops.generate_lora
    common = ["--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--steps", 2,
              "--eval-samples", 0]
    run(monkeypatch, *common, "--one-hot", "--out", tmp_path / "number")
    run(monkeypatch, *common, "--out", tmp_path / "text")
    monkeypatch.setattr(t2l_ops, "generate_lora", lambda t2l, lines, encoder: heard.append(
        (bool(t2l.cfg.tasks), lines)) or generate(t2l, lines, encoder))
    monkeypatch.setattr(sys, "argv", list(map(str, [
        "eval.py", "--loras", library, "--tasks", tiny_tasks, *TINY, "--eval-samples", 2, "--ckpt",
        tmp_path / "number", tmp_path / "text"])))
    eval_ops.main()
    for one_hot, lines in heard:
        assert all((line in ("alpha", "beta")) == one_hot for line in lines), lines
    assert {one_hot for one_hot, _ in heard} == {True, False}
    for folder, describe in ((tmp_path / "text", "both"), (tmp_path / "number", "lora")):
        config = json.loads((folder / "config.json").read_text()) | {"describe": describe}
        (folder / "config.json").write_text(json.dumps(config))
    t2ls = compare.load_t2ls([tmp_path / "text", tmp_path / "number"],
                             *library_ops.load_library(library), lambda cfg: None)
    rows = compare.library_rows(library_ops.load_library(library)[0], t2ls,
                                load_suite(tiny_tasks).train)
    assert [row.describe for row in rows] == 3 * ["lora"] + 3 * ["both"] + 2 * ["lora"]
    (tmp_path / "again" / "text").mkdir(parents=True)
    sys.argv.append(str(tmp_path / "again" / "text"))
    with pytest.raises(UserError, match="have the same name in the table"):
        eval_ops.main()


def test_a_run_does_not_delete_what_it_starts_from(library, tiny_tasks, tmp_path, monkeypatch):
    flags = ["--mode", "recon", "--loras", library, "--tasks", tiny_tasks, "--steps", 2,
             "--eval-samples", 0, "--out", tmp_path / "recon"]
    run(monkeypatch, *flags)
    with pytest.raises(UserError, match="the folder that this run writes"):
        run(monkeypatch, *flags, "--init", tmp_path / "recon")
    assert (tmp_path / "recon" / "t2l.safetensors").exists()


def test_a_one_hot_t2l_knows_no_unseen_task(library, tiny_tasks, tmp_path, monkeypatch):
    run(monkeypatch, "--mode", "recon", "--loras", library, "--one-hot", "--steps", 2,
        "--eval-samples", 0, "--out", tmp_path / "recon")
    t2l = t2l_ops.load_t2l(tmp_path / "recon")
    t2l_ops.generate_lora(t2l, "alpha")
    with pytest.raises(UserError, match="knows its own tasks only, not 'gamma'"):
        t2l_ops.generate_lora(t2l, "gamma")


# -------------------------------------------------------------------------------- bad input

def test_libraries_that_cannot_be_learnt(library, tiny_tasks, tmp_path, monkeypatch):
    def refused(said: str, *flags) -> None:
        with pytest.raises(UserError, match=said):
            run(monkeypatch, "--mode", "recon", "--tasks", tiny_tasks, "--steps", 1, *flags)

    refused("needs --loras")
    (tmp_path / "empty").mkdir()
    refused("holds no adapter folder", "--loras", tmp_path / "empty")
    refused("no 'delta' to train on", "--loras", library, "--task", "delta")
    A, B = lora_ops.load_peft(library / "alpha")
    base = json.loads((library / "alpha" / "adapter_config.json").read_text())[
        "base_model_name_or_path"]
    odd = library / "odd"
    lora_ops.save_peft(odd, A, B, base_model="another")
    refused("odd is for 'another'", "--loras", library)
    lora_ops.save_peft(odd, {m: w[:, :2] for m, w in A.items()},
                       {m: w[..., :2] for m, w in B.items()}, base_model=base)
    refused("odd: its shapes", "--loras", library)
    lora_ops.save_peft(odd, A, {m: w * torch.nan for m, w in B.items()}, base_model=base)
    refused("odd: holds numbers that are not finite", "--loras", library)
    lora_ops.save_peft(odd, A, B, base_model=base)
    refused("odd: no task of that name", "--loras", library)
    refused("odd: no task of that name", "--loras", library, "--one-hot")    # to be evaluated
    refused("the library is for .*; the language model is", "--loras", library, "--model",
            GOLDEN / "mistral")
    (odd / "adapter_config.json").unlink()
    refused("odd/adapter_config.json does not exist", "--loras", library)


def test_a_task_with_too_few_instances(tiny_tasks, tmp_path, monkeypatch):
    task_file(tiny_tasks, "few", Instances=[{"input": f"few {i}", "output": [f"f{i}"]}
                                            for i in range(5)], Split=None)
    with pytest.raises(UserError, match="few has 4 training instances"):
        run(monkeypatch, "--mode", "lora", "--tasks", tiny_tasks, "--task", "few", "--steps", 1,
            "--out", tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


@pytest.mark.parametrize("flags, said", [
    (["--mode", "lora", "--batch-size", "12"], "no multiple of 8"),
    (["--mode", "sft", "--one-hot"], "no use for --one-hot"),
    (["--mode", "recon", "--loras", "x", "--compile"], "no use for --compile"),
    (["--mode", "lora", "--max-tasks", "0"], "--max-tasks and --lr must be positive"),
    (["--mode", "mtlora", "--init", "x"], "no use for --init"),
    (["--mode", "recon", "--loras", "x", "--describe", "both"], "leave out --describe")])
def test_flags_that_a_mode_would_ignore(flags, said, monkeypatch):
    with pytest.raises(UserError, match=said):
        run(monkeypatch, *flags)
