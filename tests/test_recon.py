"""Oracles side by side, and T2L that is trained to give them."""
import json
from dataclasses import replace

import pytest
import torch
from conftest import GOLDEN, TINY, call, task_file, train_tiny
from safetensors import safe_open

from data.suite import load_suite
from data.tasks import Sample, encode
from encoder import load_encoder
from experiments import plots
from lora import load_peft
from mistral import load_model, load_tokenizer
from t2l import generate_lora, load_t2l
from train import sft_loss
from utils.cli import UserError
from utils.early_stopping import PATIENCE
from utils.library import average_lora, canonical, delta_error, load_library


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
