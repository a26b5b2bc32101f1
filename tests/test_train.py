"""Training tiny models (sft, mtlora): it learns, changes nothing else, resumes, says its loss."""
import hashlib
import json
import shutil
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES, GOLDEN, TINY, call, task_file, train_tiny

import mistral
import train
from data.suite import load_suite, tasks_of_checkpoint
from data.tasks import Sample, Task, draw_samples, encode, validation_samples
from encoder import load_encoder
from lora import MODULES, TARGETS, load_peft
from mistral import load_model, load_tokenizer
from t2l import T2L, T2LConfig, generate_lora, load_t2l, t2l_config
from train import LoRATable, Setup, TextToLoRA, lr_schedule, sft_loss
from utils.cli import UserError, train_args
from utils.modules import layer_name
from utils.run_folder import run_dtype
from utils.weights import usual_dtype


def run(*flags) -> None:
    train_tiny("--batch-size", 4, *flags)


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def digest(model: torch.nn.Module) -> str:
    weights = b"".join(w.numpy().tobytes() for w in model.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("mode, arch, describe", [
    ("sft", "L", "lora"), ("sft", "M", "lora"), ("sft", "S", "both"),
    ("mtlora", "L", "lora"), ("mtlora", "L", "prompt")])
def test_a_run_learns_and_writes_its_folder(mode, arch, describe, tiny_tasks, tmp_path, capsys):
    out, steps = tmp_path / "run", 80 if arch == "S" else 40             # S learns more slowly
    run("--mode", mode, "--arch", arch, "--describe", describe, "--tasks", tiny_tasks,
        "--out", out, "--steps", steps, "--lr", 0.01, "--eval-samples", 2)
    log = log_of(out)
    assert [row["step"] for row in log] == list(range(steps))
    assert set(log[0]) == {"step", "loss", "lr", "grad_norm"}
    losses = [row["loss"] for row in log]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    assert json.loads((out / "config.json").read_text())["finished"]
    results = json.loads((out / "results.json").read_text())
    assert list(results["unseen"]["base model"]) == ["gamma"]
    assert len(results["unseen"]) == (7 if mode == "sft" else 3)
    assert f"{steps} steps" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.quick
def test_the_task_encoder_starts_by_telling_tasks_apart(monkeypatch):
    """Where wordings vary far more than tasks do, its leading outputs still show the tasks."""
    tasks = [Task(f"t{i}", (), (), tuple(f"wording {i} {j}" for j in range(20)), ())
             for i in range(9)]
    width, of_task = 32, torch.tensor([i for i in range(9) for _ in range(20)])
    loud = torch.where(torch.arange(width) < width // 2, 3.0, 0.2)    # where the wordings vary
    embeddings = 3 + torch.randn(9, width)[of_task] + loud * torch.randn(180, width)

    def embed(encoder, descriptions, progress) -> torch.Tensor:
        assert [int(text.split()[1]) for text in descriptions] == of_task.tolist()
        return embeddings
    monkeypatch.setattr(train, "embed", embed)
    sizes = T2LConfig("L", width, 2, {"q_proj": (8, 8)})
    usual = T2L(sizes).task_encoder.mlp[0]
    lora_source = TextToLoRA(T2L(sizes), SimpleNamespace(lora=None), tasks)

    def between(outputs) -> torch.Tensor:
        """The tasks' share of the variance, output by output."""
        means = torch.stack([outputs[of_task == i].mean(0) for i in range(9)])
        return (means.var(0, correction=0) / outputs.var(0, correction=0))

    with torch.no_grad():
        started = lora_source.t2l.task_encoder.mlp[0](lora_source.embeddings)
        leading = (started.var(0, correction=0) - 1).abs() < 1e-3
        assert leading.sum() >= 8 and started.mean(0).abs().max() < 1e-3
        assert between(started[:, leading]).max() > 0.8
        assert between(usual(lora_source.embeddings)).max() < 0.6


@pytest.mark.parametrize("mode", ["sft", "mtlora", "recon"])
def test_a_resumed_run_equals_an_uninterrupted_one(mode, tiny_tasks, tmp_path, monkeypatch):
    flags = ["--mode", mode, "--tasks", tiny_tasks, "--steps", 12, "--eval-samples", 0,
             "--save-every", 5]
    if mode == "recon":                                # one of two LoRAs a step
        run("--mode", "lora", "--tasks", tiny_tasks, "--steps", 3, "--lr", 0.01,
            "--batch-size", 16, "--out", tmp_path / "lora")
        assert not (tmp_path / "lora" / "train_state.pt").exists()
        flags += ["--loras", tmp_path / "lora", "--batch-size", 1]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(*flags, "--out", whole)

    save_state = train.save_state

    def save_and_die(out, lora_source, optimizer, step, args):
        save_state(out, lora_source, optimizer, step, args)
        if step == 10:
            raise KeyboardInterrupt
    monkeypatch.setattr(train, "save_state", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(*flags, "--out", broken)
    monkeypatch.setattr(train, "save_state", save_state)
    run(*flags, "--out", broken, "--resume")
    assert (whole / "log.jsonl").read_text() == (broken / "log.jsonl").read_text()
    names = {"sft": "t2l.safetensors", "mtlora": "adapter_model.safetensors",
             "recon": "t2l.safetensors"}
    assert (whole / names[mode]).read_bytes() == (broken / names[mode]).read_bytes()


def test_a_resumed_run_keeps_its_precision_on_another_machine(tiny_tasks, tmp_path, monkeypatch):
    def goes_on(*flags) -> None:
        call("train", *TINY, "--mode", "mtlora", "--tasks", tiny_tasks, "--steps", 1,
             "--eval-samples", 0, "--out", tmp_path / "run", *flags)
    goes_on("--dtype", "float32")
    monkeypatch.setattr("utils.run_folder.usual_dtype", lambda *_: torch.bfloat16)
    goes_on("--resume")
    with pytest.raises(UserError, match="dtype = 'float32', the command line 'bfloat16'"):
        goes_on("--resume", "--dtype", "bfloat16")


@pytest.mark.quick
def test_recon_asks_no_language_model_for_its_precision(tmp_path):
    args = Namespace(mode="recon", model="none/there", device="cpu", dtype=None, resume=False)
    assert run_dtype(args, tmp_path) == usual_dtype("cpu")


@pytest.mark.parametrize("flag", ["--activation-checkpointing", pytest.param("--compile", marks=[
    pytest.mark.slow, pytest.mark.skipif(not shutil.which("c++"),
                                         reason="torch.compile needs a C++ compiler")])])
def test_flags_that_save_time_or_memory_train_alike(flag, tiny_tasks, tmp_path, monkeypatch):
    logs, runs, forward = [], [], mistral.Layer.forward
    monkeypatch.setattr(train, "validation_samples", lambda suite: [])       # steps alone
    if flag != "--compile":                 # count the layers' calls; a compiler must not see that
        monkeypatch.setattr(mistral.Layer, "forward",
                            lambda layer, *args: runs.append(flag) or forward(layer, *args))
    for flags in ([], [flag]):
        run("--mode", "sft", "--tasks", tiny_tasks, "--steps", 4,
            "--eval-samples", 0, "--out", tmp_path / "run", *flags)
        logs.append([row["loss"] for row in log_of(tmp_path / "run")])
        runs.append(None)
    assert logs[0] == pytest.approx(logs[1], abs=1e-3)
    if flag != "--compile":                 # each layer ran once more in the backward pass
        plain = runs.index(None)
        assert len(runs) - plain - 2 == 2 * plain


def test_only_the_optimisers_step_changes_anything_and_only_the_trainee(tiny_tasks, tmp_path,
                                                                        monkeypatch):
    """Hashes around the real loop, and around each optimizer step in it."""
    model = load_model(GOLDEN / "llama", torch.float32)
    tokenizer = load_tokenizer(GOLDEN / "llama")
    encoder, tasks = load_encoder(GOLDEN / "bert"), load_suite(tiny_tasks).train
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, TINY), "--mode", "sft", "--steps", "3",
                                      "--lr", "0.01"])
    args = train_args(train.DEFAULTS, train.HEADS, train.SAMPLES_PER_TASK, train.init_fields)
    args.dtype = torch.bfloat16
    lora_source = TextToLoRA(T2L(t2l_config(model.cfg, "L", encoder)), encoder, tasks)
    frozen, moving = (digest(model), digest(encoder)), [digest(lora_source)]
    step = torch.optim.AdamW.step

    def watched_step(optimizer, *rest):
        assert digest(lora_source) == moving[-1]             # nothing moved since the last step
        step(optimizer, *rest)
        moving.append(digest(lora_source))
    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    before = [p.detach().clone() for p in lora_source.parameters()]
    setup = Setup(lora_source, lambda start: draw_samples(tasks, tokenizer, 4, start=start), model,
                  tokenizer)
    train.train(setup, args, tmp_path / "log.jsonl")
    assert digest(lora_source) == moving[-1] and len(set(moving)) == 4
    assert all((p != old).any() for p, old in zip(lora_source.parameters(), before))
    assert (digest(model), digest(encoder)) == frozen


@pytest.mark.quick
@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_of_the_tables_adapters(name):
    """mtlora: one for all samples; lora: each sample has its own task's; of two modules, of all."""
    model = load_model(GOLDEN / name, torch.float32)
    samples = [Sample(task, "", "", ("",)) for task in ("b", "a", "b")]
    ids = torch.randint(3, 96, (3, 5))
    assert LoRATable(model.cfg).adapters(samples)[0].keys() == set(TARGETS)
    for tasks, lead in ((None, ()), (["a", "b"], (3,))):
        A, B = LoRATable(model.cfg, tasks, MODULES).adapters(samples)
        assert A.keys() == B.keys() == MODULES.keys()
        for m in MODULES:
            d_out, d_in = model.get_parameter(f"{layer_name(0, m)}.weight").shape
            assert A[m].shape == (*lead, 3, T2LConfig.rank, d_in)
            assert B[m].shape == (*lead, 3, d_out, T2LConfig.rank)
        assert model(ids, lora=(A, B)).shape == (3, 5, 96)


@pytest.mark.parametrize("mode", ["sft", "mtlora", "lora"])
def test_other_modules_are_trained_and_recorded(mode, tiny_tasks, tmp_path):
    """In any order on the command line; a run, a library, a start of other modules is one line."""
    out, names = tmp_path / mode, ["k_proj", "down_proj"]
    flags = ["--mode", mode, "--tasks", tiny_tasks, "--steps", 3, "--lr", 0.01, "--batch-size", 16,
             "--eval-samples", 0, "--out", out]
    train_tiny(*flags, "--modules", *names[::-1])
    assert json.loads((out / "config.json").read_text())["modules"] == names
    with pytest.raises(UserError, match=f"says modules = .*k_proj.*the command .*{TARGETS[-1]}"):
        train_tiny(*flags, "--resume")
    if mode != "sft":
        lora = load_peft(out if mode == "mtlora" else out / "beta")
        assert list(lora[0]) == names and all(B.any() for B in lora[1].values())
    other = ["--batch-size", 2, "--steps", 3, "--eval-samples", 0, "--tasks", tiny_tasks,
             "--out", tmp_path / "other"]
    if mode == "sft":
        assert list(load_t2l(out).cfg.modules) == names
        said = f"it adapts k_proj, down_proj, this run {', '.join(TARGETS)}; --modules k_proj down_"
        with pytest.raises(UserError, match=said):
            train_tiny("--mode", "sft", *other, "--init", out)
        train_tiny("--mode", "sft", *other, "--init", out, "--modules", *names)
    if mode == "lora":
        recon = ["--mode", "recon", *other, "--loras", out]
        with pytest.raises(UserError, match="its adapters are of k_proj, down_proj, --modules asks "
                                            "for q_proj; leave it out"):
            train_tiny(*recon, "--modules", "q_proj")
        train_tiny(*recon)                                           # the library's
        assert list(load_t2l(tmp_path / "other").cfg.modules) == names


def test_fewer_tasks_are_trained_on(tiny_tasks, tmp_path):
    """Of a fixed draw, the smaller one within the larger; what is then trained on is known."""
    task_file(tiny_tasks, "delta")
    for n in (1, 2, 3):
        for mode in ("sft", "mtlora"):
            out = tmp_path / f"{mode}{n}"
            train_tiny("--mode", mode, "--tasks", tiny_tasks, "--max-tasks", n, "--steps", 1,
                       "--eval-samples", 0, "--out", out)
            if n < 3:
                with pytest.raises(UserError, match=f"says max_tasks = {n}, the command line 3"):
                    train_tiny("--mode", mode, "--tasks", tiny_tasks, "--max-tasks", 3, "--steps",
                               1, "--eval-samples", 0, "--out", out, "--resume")
    one, two, three = (tasks_of_checkpoint(tmp_path / f"sft{n}") for n in (1, 2, 3))
    assert one < two < three == {"alpha", "beta", "delta"}
    assert [tasks_of_checkpoint(tmp_path / f"mtlora{n}") for n in (1, 2, 3)] == [one, two, three]


@pytest.mark.quick
def test_the_loss_is_the_mean_over_samples_of_the_mean_over_tokens():
    model = load_model(GOLDEN / "llama", torch.float32)
    tokenizer = load_tokenizer(GOLDEN / "llama")
    samples = [Sample("t", "d", "one two", ("ab",)), Sample("t", "d", "x", ("longer answer",))]
    alone = []
    for sample in samples:
        prompt, answer = tokenizer.prompt(sample.input), tokenizer.answer(sample.answers[0])
        logp = model(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        alone.append(-sum(logp[len(prompt) + j - 1, t] for j, t in enumerate(answer)) / len(answer))

    def loss_of(batch) -> torch.Tensor:
        return sft_loss(model(batch.ids, keep=batch.keep), batch)
    loss = loss_of(encode(samples, tokenizer))
    torch.testing.assert_close(loss, sum(alone) / 2)
    shifted = encode(samples, tokenizer)                     # negative control: labels off by one
    shifted.keep[:] = shifted.keep.roll(-1, 1)
    assert (loss_of(shifted) - sum(alone) / 2).abs() > 0.1


@pytest.mark.parametrize("mode", ["sft", "mtlora"])
def test_the_validation_loss_is_logged_and_changes_nothing(mode, tiny_tasks, tmp_path, monkeypatch):
    """The same weights and losses, to the last bit, as without it; it is what it says."""
    (tiny_tasks.parent / "splits.json").write_text('{"unseen": [], "validation": ["gamma"]}')
    flags = ["--mode", mode, "--tasks", tiny_tasks, "--steps", 6, "--lr", 0.01,
             "--eval-samples", 0]
    monkeypatch.setattr(train, "VALIDATE_EVERY", 2)
    run(*flags, "--out", tmp_path / "with")
    with monkeypatch.context() as patch:
        patch.setattr(train, "validation_samples", lambda suite: [])
        run(*flags, "--out", tmp_path / "without")
    logs = [log_of(tmp_path / name) for name in ("with", "without")]
    found = {row["step"]: row.pop("validation_loss") for row in logs[0] if "validation_loss" in row}
    assert list(found) == [1, 3, 5] and logs[0] == logs[1]
    file = "t2l.safetensors" if mode == "sft" else "adapter_model.safetensors"
    assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes()

    model = load_model(GOLDEN / "llama", torch.float32)
    tokenizer = load_tokenizer(GOLDEN / "llama")
    samples = validation_samples(load_suite(tiny_tasks))
    assert {s.task for s in samples} == {"gamma"} and samples == validation_samples(
        load_suite(tiny_tasks))
    lines, encoder = [s.description for s in samples], load_encoder(GOLDEN / "bert")
    lora = load_peft(tmp_path / "with") if mode == "mtlora" else \
        generate_lora(load_t2l(tmp_path / "with"), lines, encoder)
    batch = encode(samples, tokenizer)
    loss = sft_loss(model(batch.ids, lora=lora, keep=batch.keep), batch).item()
    assert loss == pytest.approx(found[5], abs=1e-3) and abs(found[1] - found[5]) > 1e-2


@pytest.mark.parametrize("mode", ["sft", "mtlora", "lora"])
def test_rank_and_alpha(mode, tiny_tasks, tmp_path):
    """They arrive in the adapter and in config.json; a resumed run and --init compare them."""
    rank, alpha = T2LConfig.rank // 2, 3 * T2LConfig.alpha
    out = tmp_path / "run"
    flags = ["--mode", mode, "--tasks", tiny_tasks, "--steps", 2, "--batch-size", 8, "--out", out,
             "--eval-samples", 0]
    run(*flags, "--rank", rank, "--alpha", alpha)
    config = json.loads((out / "config.json").read_text())
    assert (config["rank"], config["alpha"]) == (rank, alpha)
    if mode == "sft":
        t2l = load_t2l(out)
        assert (t2l.cfg.rank, t2l.cfg.alpha) == (rank, alpha)
        more = ["--steps", 1, "--init", out]                        # --init has them
        run(*flags[:4], *flags[6:8], "--eval-samples", 0, "--out", tmp_path / "a", *more)
        again = load_t2l(tmp_path / "a")
        assert (again.cfg.rank, again.cfg.alpha) == (rank, alpha)
        with pytest.raises(UserError, match=f"its rank is {rank}, .*give --rank {rank}"):
            run(*flags[:4], "--out", tmp_path / "b", *more, "--rank", 2 * rank)
        with pytest.raises(UserError, match=f"its alpha is {alpha}, .*give --alpha"):
            run(*flags[:4], "--out", tmp_path / "b", *more, "--alpha", 2 * alpha)
    else:
        A, _ = load_peft(out / "alpha" if mode == "lora" else out)
        assert {w.shape[1] for w in A.values()} == {rank}
    with pytest.raises(UserError, match=f"rank = {rank}, the command line {T2LConfig.rank}"):
        run(*flags, "--alpha", alpha, "--resume")
    with pytest.raises(UserError, match="alpha = "):
        run(*flags, "--rank", rank, "--resume")


@pytest.mark.quick
def test_alpha_is_the_adapters_scale():
    model = load_model(GOLDEN / "llama", torch.float32)
    for r, alpha in ((4, 16.0), (2, 5.0)):
        table = LoRATable(model.cfg, rank=r, alpha=alpha)
        with torch.no_grad():
            [w.fill_(1) for w in table.B[0].values()]
        assert all((w == alpha / r ** 0.5).all() for w in table.adapters([])[1].values())


@pytest.mark.quick
def test_schedule_warms_up_and_falls_to_zero():
    factors = [lr_schedule(step, 100) for step in range(100)]
    assert max(factors) == factors[9] == 1 and factors[0] == 0.1
    assert all(a > b for a, b in zip(factors[10:], factors[11:])) and 0 < factors[-1] < 0.02
