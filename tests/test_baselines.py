"""Other ways to tell a model its task: Arrow by a slow reference, and the table of all rows."""
import csv
import itertools
import json
import shutil

import pytest
import torch
from conftest import GOLDEN, TINY, call, random_lora, refused, train_tiny
from torch import nn

from data.tasks import Sample, Task
from encoder import embed, load_encoder
from experiments.baselines import ArrowLinear, arrow_model, kind_of_run, with_examples
from experiments.readers import READS, OtherReader, Vectors
from lora import load_peft, map_lora
from mistral import load_model, load_tokenizer
from t2l import T2L, generate_lora, load_t2l, t2l_config
from utils.cli import UserError


@pytest.mark.quick
def test_examples_are_turns_before_the_input():
    tokenizer = load_tokenizer(GOLDEN / "llama")
    task = Task("t", tuple((f"in {i}", (f"out {i}", "other")) for i in range(5)), (), ("Do.",), ())
    sample = Sample("t", "Do.", "x", ("y",))

    def turn(text: str, answer: str) -> list[int]:
        return [*tokenizer.prompt(text), *tokenizer.answer(answer), *tokenizer.encode("\n")]
    turns = [turn(f"in {i}", f"out {i}") for i in range(3)]
    plain = sum(turns, []) + tokenizer.prompt("x")
    assert with_examples(sample, task, "lora", tokenizer, 1000) == plain
    assert with_examples(sample, task, "prompt", tokenizer, 1000) == sum(
        (turn(f"Do.\n\nin {i}", f"out {i}") for i in range(3)), []) + tokenizer.prompt("Do.\n\nx")
    assert with_examples(sample, task, "lora", tokenizer, len(plain) - 1) == sum(
        turns[:2], []) + tokenizer.prompt("x")
    assert with_examples(sample, task, "lora", tokenizer, 1) == tokenizer.prompt("x")


@pytest.mark.quick
def test_arrow_is_what_a_loop_over_tokens_and_loras_gives():
    N, r, d_in, d_out, k = 5, 3, 12, 7, 2
    linear, x = nn.Linear(d_in, d_out), torch.randn(2, 4, d_in)
    A, B = torch.randn(N, r, d_in), torch.randn(N, d_out, r)
    found = ArrowLinear(linear, A, B, k)(x)
    for b in range(2):
        for t in range(4):
            fits = [abs(torch.linalg.svd(B[i] @ A[i])[2][0] @ x[b, t]) for i in range(N)]
            best = sorted(range(N), key=lambda i: -fits[i])[:k]
            weights = torch.stack([fits[i] for i in best]).softmax(0)
            delta = sum(w * B[i] @ (A[i] @ x[b, t]) for w, i in zip(weights, best))
            torch.testing.assert_close(found[b, t], linear(x[b, t]) + delta, atol=1e-5, rtol=1e-5)


@pytest.mark.quick
def test_arrow_in_a_model():
    """Of one LoRA, or of equal ones, it is that LoRA; the model itself is left as it was."""
    model, ids = load_model(GOLDEN / "llama", torch.float32), torch.randint(3, 60, (2, 6))
    lora = map_lora(load_peft(GOLDEN / "llama" / "adapter"), lambda w: 5 * w)
    other = map_lora(lora, torch.randn_like)
    before, alone = model(ids), model(ids, lora=lora)
    for loras in ([lora], [lora] * 3):
        torch.testing.assert_close(arrow_model(model, loras, 2)(ids), alone, atol=1e-5, rtol=1e-5)
    mixed = arrow_model(model, [lora, other], 2)(ids)
    assert (mixed - alone).abs().max() > 1e-2 and torch.equal(model(ids), before)


@pytest.mark.quick
@pytest.mark.parametrize("reads, same", [
    ("input", "01"), ("random", "02 03 23"), ("number", "12")])
def test_what_else_is_read_and_nothing_more(reads, same):
    """Samples whose input, whose wording, whose task is the same have the same adapter."""
    model, bert = load_model(GOLDEN / "llama", torch.float32), load_encoder(GOLDEN / "bert")
    t2l = T2L(t2l_config(model.cfg, "bank", bert)).eval()
    tasks = [Task(name, ((f"{name} 1", ("a",)), (f"{name} 2", ("b",))), (), ("Do.", "Do not."), ())
             for name in "xy"]
    source = OtherReader(reads, "the command", t2l, bert, tasks,
                         held_out=[Sample("z", "New.", "new", ("c",))])
    samples = [Sample(task, said, text, ("",)) for task, said, text in (
        ("x", "Do.", "x 1"), ("y", "Do not.", "x 1"), ("y", "Do.", "y 2"), ("z", "Do.", "new"))]
    A = source.adapters(samples)[0]["q_proj"]
    for i, j in itertools.combinations(range(4), 2):
        apart = (A[i] - A[j]).abs().max()
        assert apart == 0 if f"{i}{j}" in same.split() else apart > 1e-3


@pytest.mark.quick
def test_a_number_is_one_hot_and_random_vectors_are_those_of_the_text():
    bert = load_encoder(GOLDEN / "bert")
    numbers = Vectors(bert, ["a", "b"])
    assert embed(numbers, ["b", "a", "c"])[:, :2].sign().tolist() == [[0, 1], [1, 0], [0, 0]]
    first, again, other = embed(Vectors(bert), ["Do it.", "Do it.", "Do it!"])
    assert torch.equal(first, again) and (first - other).abs().max() > 1
    with pytest.raises(UserError, match="but vectors of"):
        Vectors(bert, ["a"] * 1000)


@pytest.mark.quick
def test_a_run_is_called_by_what_sets_it_apart():
    sft = {"mode": "sft", "steps": 540, "describe": "lora", "modules": ["q_proj", "v_proj"],
           "t2l": {"arch": "bank"}}
    for changes, name in (
            ({}, "T2L bank"), ({"describe": "both"}, "T2L bank + prompt"),
            ({"mode": "recon", "steps": 600, "t2l": {"arch": "M"}}, "T2L M, from oracles"),
            ({"modules": [*"abc"], "read_with": "x", "steps": 3000},
             "T2L bank, 3 modules, read with a LoRA, 3,000 steps"),
            ({"encoder": "x/base"}, "T2L bank, base"),
            ({"mode": "recon", "steps": 600, "modules": None, "encoder": "all-MiniLM-L6-v2",
              "t2l": {"arch": "L", "modules": {"a": [], "b": [], "c": []}}},
             "T2L L, from oracles, 3 modules"),
            ({"reads": "input"}, "Hyperdecoder bank"), ({"max_tasks": 31}, "T2L bank, 31 tasks"),
            ({"mode": "mtlora"}, "multi-task LoRA"),
            ({"mode": "mtlora", "describe": "prompt"},
             "multi-task LoRA, description in its prompt")):
        assert kind_of_run(sft | changes) == name


def test_the_table(library, tiny_tasks, tmp_path):
    """Every row in every column, oracles in their own; two seeds joined; a file for each reader."""
    common = ["--tasks", tiny_tasks, "--steps", 2, "--eval-samples", 0, "--out"]
    for seed in (0, 1):
        train_tiny("--mode", "mtlora", "--seed", seed, *common, tmp_path / f"mt{seed}")
    train_tiny("--mode", "recon", "--loras", library, *common, tmp_path / "recon")
    for reads in READS:
        call("experiments.readers", reads, *TINY, "--dtype", "float32", "--arch", "L", *common,
             tmp_path / reads)
        config = json.loads((tmp_path / reads / "config.json").read_text())
        assert config["command"].startswith(f"python -m experiments.readers {reads} --model")
    with pytest.raises(UserError, match="instead of a description: number; its row is in"):
        generate_lora(load_t2l(tmp_path / "number"), "Do it.")

    flags = ["--loras", library, "--tasks", tiny_tasks, *TINY, "--eval-samples", 2,
             "--out", tmp_path / "out", "--ckpt"]
    runs = [tmp_path / name for name in ("mt0", "mt1", "recon", *READS)]
    call("experiments.baselines", *flags, *runs)
    found = json.loads((tmp_path / "out" / "baselines_unseen.json").read_text())
    rows = ["base model", "base model, description in its prompt",
            "base model, 3 examples in its prompt",
            "base model, 3 examples with the description", "average of the oracles",
            "Arrow over the oracles", "multi-task LoRA, 2 steps (mt0)",
            "multi-task LoRA, 2 steps (mt1)", "T2L L, from oracles, bert, 2 steps (recon)",
            "Hyperdecoder L, bert, 2 steps (input)", "random vectors L, bert, 2 steps (random)",
            "one-hot L, bert, 2 steps (number)", "multi-task LoRA (2 seeds), 2 steps"]
    assert list(found["unseen"]) == list(found["seen"]) == rows
    assert list(found["with an oracle"]) == [*rows[:4], "oracle", *rows[4:]]
    assert set(found["unseen"]["base model"]) == {"gamma"}
    assert set(found["with an oracle"]["oracle"]) == {"alpha", "beta"}

    lines = list(csv.reader((tmp_path / "out" / "baselines_unseen.csv").open()))
    assert lines[0] == ["row", "tasks", "mean", "low", "high", "seeds"] and len(lines) == 35
    joined = [line for line in lines if line[0] == rows[-1]]
    assert [line[1] for line in joined] == ["unseen", "seen", "with an oracle"]
    assert {line[-1] for line in joined} == {"2"} and {line[-1] for line in lines[1:4]} == {"1"}

    alone = ["experiments.baselines", "--tasks", tiny_tasks, *TINY, "--eval-samples", 1, "--ckpt"]
    assert "is no finished run" in refused(*alone, library)
    assert "what is read comes first" in refused("experiments.readers", "--out", "x", "input")
    (tmp_path / "splits.json").unlink()
    assert "names no unseen task" in refused("experiments.baselines", *flags, *runs)
    shutil.copytree(tmp_path / "mt0", tmp_path / "copy")
    assert "have the same seed, 0" in refused("experiments.baselines", *flags, *runs,
                                              tmp_path / "copy")
