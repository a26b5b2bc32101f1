"""Training tiny models: it learns, changes nothing else, resumes exactly, says its loss."""
import hashlib
import json
import math
import random
import shutil
import sys
from collections import Counter

import pytest
import torch
from conftest import GOLDEN

import mistral
import t2l as t2l_ops
import train as train_ops
from data.suite import load_suite
from data.tasks import Sample, Task, draw_samples, encode
from encoder import load_encoder

TINY = ["--model", str(GOLDEN / "llama"), "--encoder", str(GOLDEN / "bert"),
        "--dtype", "float32", "--batch-size", "4"]


def run(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *TINY, *map(str, flags)])
    train_ops.main()


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def digest(model: torch.nn.Module) -> str:
    weights = b"".join(w.numpy().tobytes() for w in model.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("mode, arch, describe", [
    ("sft", "L", "lora"), ("sft", "M", "lora"), ("sft", "S", "both"),
    ("mtlora", "L", "lora"), ("mtlora", "L", "prompt")])
def test_a_run_learns_and_writes_its_folder(mode, arch, describe, tiny_tasks, tmp_path, monkeypatch,
                                            capsys):
    out = tmp_path / "run"
    run(monkeypatch, "--mode", mode, "--arch", arch, "--describe", describe, "--tasks", tiny_tasks,
        "--out", out, "--steps", 40, "--lr", 0.01, "--eval-samples", 2)
    log = log_of(out)
    assert [row["step"] for row in log] == list(range(40))
    assert set(log[0]) == {"step", "loss", "lr", "grad_norm"}
    losses = [row["loss"] for row in log]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    assert json.loads((out / "config.json").read_text())["finished"]
    results = json.loads((out / "results.json").read_text())
    assert list(results["unseen"]["base model"]) == ["gamma"]
    assert len(results["unseen"]) == (7 if mode == "sft" else 3)
    assert "40 steps" in capsys.readouterr().out.splitlines()[-1]


def test_the_task_encoder_starts_by_telling_tasks_apart():
    """Where wordings vary far more than tasks do, its leading outputs still show the tasks."""
    tasks = [Task(f"t{i}", (), (), tuple(f"wording {i} {j}" for j in range(20)), ())
             for i in range(9)]
    encoder = load_encoder(GOLDEN / "bert")
    width = encoder.cfg.hidden_size
    sizes = t2l_ops.Config("L", width, 2, {"q_proj": (8, 8)})
    usual = t2l_ops.T2L(sizes).task_encoder.mlp[0]
    trainee = train_ops.TextToLoRA(t2l_ops.T2L(sizes), encoder, tasks)
    of_task = torch.tensor([int(text.split()[1]) for text in trainee.rows])
    loud = torch.where(torch.arange(width) < width // 2, 3.0, 0.2)    # where the wordings vary
    trainee.embeddings = 3 + torch.randn(9, width)[of_task] + loud * torch.randn(180, width)
    trainee.spread(tasks)

    def between(outputs) -> torch.Tensor:
        """The tasks' share of the variance, output by output."""
        means = torch.stack([outputs[of_task == i].mean(0) for i in range(9)])
        return (means.var(0, correction=0) / outputs.var(0, correction=0))

    with torch.no_grad():
        started = trainee.t2l.task_encoder.mlp[0](trainee.embeddings)
        leading = (started.var(0, correction=0) - 1).abs() < 1e-3
        assert leading.sum() >= 8 and started.mean(0).abs().max() < 1e-3
        assert between(started[:, leading]).max() > 0.8
        assert between(usual(trainee.embeddings)).max() < 0.6


@pytest.mark.parametrize("mode", ["sft", "mtlora", "recon"])
def test_a_resumed_run_equals_an_uninterrupted_one(mode, tiny_tasks, tmp_path, monkeypatch):
    flags = ["--mode", mode, "--tasks", tiny_tasks, "--steps", 12, "--eval-samples", 0,
             "--save-every", 5]
    if mode == "recon":                                # one of two LoRAs a step
        run(monkeypatch, "--mode", "lora", "--tasks", tiny_tasks, "--steps", 3, "--lr", 0.01,
            "--batch-size", 16, "--out", tmp_path / "lora")
        assert not (tmp_path / "lora" / "train_state.pt").exists()
        flags += ["--loras", tmp_path / "lora", "--batch-size", 1]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(monkeypatch, *flags, "--out", whole)

    save_state = train_ops.save_state

    def save_and_die(out, trainee, optimizer, step):
        save_state(out, trainee, optimizer, step)
        if step == 10:
            raise KeyboardInterrupt
    monkeypatch.setattr(train_ops, "save_state", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *flags, "--out", broken)
    monkeypatch.setattr(train_ops, "save_state", save_state)
    run(monkeypatch, *flags, "--out", broken, "--resume")
    assert (whole / "log.jsonl").read_text() == (broken / "log.jsonl").read_text()
    names = {"sft": "t2l.safetensors", "mtlora": "adapter_model.safetensors",
             "recon": "t2l.safetensors"}
    assert (whole / names[mode]).read_bytes() == (broken / names[mode]).read_bytes()


@pytest.mark.parametrize("flag", ["--recompute", pytest.param("--compile", marks=pytest.mark.skipif(
    not shutil.which("c++"), reason="torch.compile needs a C++ compiler"))])
def test_flags_that_save_time_or_memory_train_alike(flag, tiny_tasks, tmp_path, monkeypatch):
    logs, runs, forward = [], [], mistral.Layer.forward
    if flag == "--recompute":               # count the layers' calls; a compiler must not see that
        monkeypatch.setattr(mistral.Layer, "forward",
                            lambda layer, *args: runs.append(flag) or forward(layer, *args))
    for flags in ([], [flag]):
        run(monkeypatch, "--mode", "sft", "--tasks", tiny_tasks, "--steps", 4,
            "--eval-samples", 0, "--out", tmp_path / "run", *flags)
        logs.append([row["loss"] for row in log_of(tmp_path / "run")])
        runs.append(None)
    assert logs[0] == pytest.approx(logs[1], abs=1e-3)
    if flag == "--recompute":               # each layer ran once more in the backward pass
        plain = runs.index(None)
        assert len(runs) - plain - 2 == 2 * plain


def test_resuming_a_finished_run_says_so(tiny_tasks, tmp_path, monkeypatch, capsys):
    flags = ["--mode", "mtlora", "--tasks", tiny_tasks, "--steps", 2, "--eval-samples", 0,
             "--out", tmp_path / "run"]
    run(monkeypatch, *flags)
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    run(monkeypatch, *flags, "--resume")
    assert "is finished" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before


def test_only_the_optimisers_step_changes_anything_and_only_the_trainee(tiny_tasks, tmp_path,
                                                                        monkeypatch):
    """Hashes around the real loop, and around each optimizer step in it."""
    model = mistral.load_model(GOLDEN / "llama", torch.float32)
    tokenizer = mistral.load_tokenizer(GOLDEN / "llama")
    encoder, tasks = train_ops.load_encoder(GOLDEN / "bert"), load_suite(tiny_tasks).train
    monkeypatch.setattr(sys, "argv", ["train.py", *TINY, "--mode", "sft", "--steps", "3",
                                      "--lr", "0.01"])
    args = train_ops.parse_args()
    trainee = train_ops.TextToLoRA(t2l_ops.T2L(t2l_ops.for_model(model.cfg, "L", encoder)), encoder,
                                   tasks)
    optimizer = train_ops.new_optimizer(trainee, args)
    frozen, moving = (digest(model), digest(encoder)), [digest(trainee)]
    step = torch.optim.AdamW.step

    def watched_step(optimizer, *rest):
        assert digest(trainee) == moving[-1]                     # nothing moved since the last step
        step(optimizer, *rest)
        moving.append(digest(trainee))
    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    before = [p.detach().clone() for p in trainee.parameters()]
    train_ops.train(trainee, optimizer, draw_samples(tasks, tokenizer, 4),
                    train_ops.Answers(model, tokenizer, "lora"), args, tmp_path / "log.jsonl")
    assert digest(trainee) == moving[-1] and len(set(moving)) == 4
    assert all((p != old).any() for p, old in zip(trainee.parameters(), before))
    assert (digest(model), digest(encoder)) == frozen


def test_the_loss_covers_exactly_the_answer_and_its_end_token():
    tokenizer = mistral.load_tokenizer(GOLDEN / "llama")
    samples = [Sample("t", "d", "one two", ("ab", "no")), Sample("t", "d", "x", ("longer answer",))]
    batch = encode(samples, tokenizer)
    targets = batch.targets.tolist()
    for i, sample in enumerate(samples):
        kept = batch.keep[i].nonzero()[:, 0]
        n, ids = len(tokenizer.answer(sample.answers[0])), batch.ids[i].tolist()
        mine, targets = targets[:n], targets[n:]
        assert len(kept) == n and mine == tokenizer.answer(sample.answers[0])
        assert ids[:kept[0] + 1] == tokenizer.prompt(sample.input)
        assert ids[kept[0] + 1:kept[-1] + 1] == mine[:-1]    # each kept position sees the past only
        assert not any(ids[kept[-1] + 1:])
    assert not targets
    n = [len(tokenizer.answer(s.answers[0])) for s in samples]
    expected = torch.tensor([1 / (2 * n[0])] * n[0] + [1 / (2 * n[1])] * n[1])
    torch.testing.assert_close(batch.weights, expected)


def test_the_loss_is_the_mean_over_samples_of_the_mean_over_tokens():
    model = mistral.load_model(GOLDEN / "llama", torch.float32)
    tokenizer = mistral.load_tokenizer(GOLDEN / "llama")
    samples = [Sample("t", "d", "one two", ("ab",)), Sample("t", "d", "x", ("longer answer",))]
    alone = []
    for sample in samples:
        prompt, answer = tokenizer.prompt(sample.input), tokenizer.answer(sample.answers[0])
        logp = model(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        alone.append(-sum(logp[len(prompt) + j - 1, t] for j, t in enumerate(answer)) / len(answer))
    loss = train_ops.answer_loss(model, encode(samples, tokenizer), None)
    torch.testing.assert_close(loss, sum(alone) / 2)
    shifted = encode(samples, tokenizer)                     # negative control: labels off by one
    shifted.keep[:] = shifted.keep.roll(-1, 1)
    assert (train_ops.answer_loss(model, shifted, None) - sum(alone) / 2).abs() > 0.1


def test_prompts_hold_the_description_only_where_asked():
    tokenizer, sample = mistral.load_tokenizer(GOLDEN / "llama"), Sample("t", "say it", "x", ("y",))
    for describe, there in (("lora", False), ("prompt", True), ("both", True)):
        text = tokenizer.decode(encode([sample], tokenizer, describe).ids[0].tolist())
        assert ("say it" in text) == there


def test_sampling_is_uniform_whatever_the_length_and_batches_hold_similar_lengths(tiny_tasks):
    from conftest import task_file
    task_file(tiny_tasks, "long", Instances=[{"input": f"{'word ' * 20}{i}", "output": ["x"]}
                                             for i in range(20)])
    tokenizer, suite = mistral.load_tokenizer(GOLDEN / "llama"), load_suite(tiny_tasks)
    batches = draw_samples(suite.train, tokenizer, 8, seed=random.randrange(10 ** 6))
    drawn = [next(batches) for _ in range(240)]
    counts = Counter(s.task for batch in drawn for s in batch)
    n = sum(counts.values())
    for task in suite.train:         # five standard deviations of a binomial draw
        assert abs(counts[task.name] - n / 3) < 5 * math.sqrt(n * 2 / 9)
    mixed = [len({len(s.input) > 50 for s in batch}) == 2 for batch in drawn]
    assert sum(mixed) <= len(drawn) / 4
    words = {s.description for batch in drawn for s in batch}
    assert words == {d for t in suite.train for d in t.descriptions}     # all of these, no held-out


def test_schedule_warms_up_and_falls_to_zero():
    factors = [train_ops.schedule(step, 100) for step in range(100)]
    assert max(factors) == factors[9] == 1 and factors[0] == 0.1
    assert all(a > b for a, b in zip(factors[10:], factors[11:])) and 0 < factors[-1] < 0.02
