"""Speed and memory, against the usual ways to do the same work and against the machine's limit.

    pip install -r requirements-dev.txt
    python bench.py                      # every part but `big`, under 15 minutes on two cores
    python bench.py step generation      # some of them

Every contestant has a process of its own, so that its peak memory is its own, and reuses freed
memory as train.py does. It must show our loss or our tokens before it is timed; a time is the
median of five runs. Reading order: the step and its rivals, its limit, what growth costs, memory,
generation, oracles, adapters, start-up, a model of 7 billion, the paper's cost table, the command
line.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import encoder as encoder_ops
import lora as lora_ops
import mistral
import t2l as t2l_ops
import train as train_ops
from data.files import Parser, UserError, run, write_json
from data.suite import load_suite
from data.tasks import Batch, Sample, draw_from_each, draw_samples, encode
from encoder import load_encoder
from lora import LoRA

RUNS = 5
BATCH, PROMPTS, NEW_TOKENS = 32, 32, 24
MISTRAL_7B = mistral.Config(vocab_size=32000, hidden_size=4096, intermediate_size=14336,
                            num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
                            head_dim=128, rms_norm_eps=1e-5, rope_theta=1e6, sliding_window=None,
                            tie_word_embeddings=False, max_position_embeddings=32768,
                            eos_token_id=(2,), name="Mistral-7B")


def median_seconds(work: Callable[[], object]) -> float:
    work()                                                                            # warm up
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


# --------------------------------------------------------- the training step, ours and its rivals

def real_batch() -> tuple[list[Sample], Batch]:
    """32 samples of the default suite, about 40 tokens each with the description in the prompt.

    Of the first eight batches, which hold samples of similar lengths, the one in the middle.
    """
    suite, tokenizer = load_suite(), mistral.load_tokenizer()
    batches = draw_samples(suite.train, tokenizer, BATCH, describe="both")
    drawn = [(samples, encode(samples, tokenizer, "both"))
             for samples in (next(batches) for _ in range(8))]
    return sorted(drawn, key=lambda pair: pair[1].ids.shape[1])[4]


def fresh_t2l(cfg: mistral.Config, arch: str = "L", emb_size: int = 384) -> t2l_ops.T2L:
    """An untrained T2L for time and memory alone, where what the weights say does not matter."""
    return t2l_ops.T2L(t2l_ops.Config(arch, emb_size, cfg.num_hidden_layers,
                                      t2l_ops.adapted_modules(cfg))).eval()


def embedded(samples: list[Sample]) -> Tensor:
    return t2l_ops.embed(load_encoder(), [s.description for s in samples])


def stepper(loss: Callable[[], Tensor], trained: nn.Module) -> Callable[[], float]:
    """One whole step of AdamW; a rate of 0 keeps every step the same work on the same weights."""
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=0.0)

    def step() -> float:
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.item()
    return step


def our_step(model: mistral.Mistral, t2l: t2l_ops.T2L, embeddings: Tensor,
             batch: Batch) -> Callable[[], float]:
    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            lora = t2l.adapters(embeddings)
        return train_ops.answer_loss(model, batch, lora)
    return stepper(loss, t2l)


def ours(samples: list[Sample], batch: Batch, flag: str = "") -> Callable[[], float]:
    model = mistral.load_model()
    model.recompute = flag == "--recompute"
    if flag == "--compile":
        train_ops.compile_layers(model)
    return our_step(model, t2l_ops.load_t2l(), embedded(samples), batch)


def transformers_model(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(mistral.default_model(), dtype=dtype).eval()


def hooks(samples: list[Sample], batch: Batch) -> Callable[[], float]:
    """The obvious way to give each sample its adapter: hooks repeat A and B for every token."""
    model, pairs = transformers_model().requires_grad_(False), {}
    t2l, embeddings = t2l_ops.load_t2l(), embedded(samples)

    def hook(i: int, module: str) -> Callable:
        def add(layer, inputs, output):
            b, t, d = inputs[0].shape
            A, B = (side[i].repeat_interleave(t, 0) for side in pairs[module])
            return output + (B @ (A @ inputs[0].reshape(b * t, d, 1))).view(b, t, -1)
        return add

    for i, layer in enumerate(model.model.layers):
        for module in lora_ops.TARGETS:
            getattr(layer.self_attn, module).register_forward_hook(hook(i, module))

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            A, B = t2l.adapters(embeddings)
            pairs.update({m: (A[m].unbind(1), B[m].unbind(1)) for m in A})
            logits = model(batch.ids, use_cache=False).logits
        return train_ops.weighted_loss(logits[batch.keep], batch)
    return stepper(loss, t2l)


@torch.no_grad()
def plain_adapter(samples: list[Sample]) -> LoRA:
    """One adapter for the whole batch."""
    A, B = t2l_ops.load_t2l().adapters(embedded(samples[:1]))
    return lora_ops.mapped((A, B), lambda w: w[0])


def ours_plain(samples: list[Sample], batch: Batch) -> Callable[[], float]:
    A, B = (nn.ParameterDict(side) for side in plain_adapter(samples))
    model = mistral.load_model()
    return stepper(lambda: train_ops.answer_loss(model, batch, (dict(A), dict(B))),
                   nn.ModuleList([A, B]))


def peft_plain(samples: list[Sample], batch: Batch) -> Callable[[], float]:
    from peft import PeftModel
    with tempfile.TemporaryDirectory() as folder:
        lora_ops.save_peft(f"{folder}/adapter", *plain_adapter(samples))
        model = PeftModel.from_pretrained(transformers_model(), f"{folder}/adapter",
                                          is_trainable=True)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch.ids, use_cache=False).logits
        return train_ops.weighted_loss(logits[batch.keep], batch)
    return stepper(loss, model)


# name → (contestant, the one whose loss it must show)
STEPS = {"T2L: ours": (ours, ""),
         "T2L: ours, --compile": (partial(ours, flag="--compile"), "T2L: ours"),
         "T2L: ours, --recompute": (partial(ours, flag="--recompute"), "T2L: ours"),
         "T2L: transformers, hooks": (hooks, "T2L: ours"),
         "one LoRA: ours": (ours_plain, ""),
         "one LoRA: transformers, PEFT": (peft_plain, "one LoRA: ours")}


def time_step(name: str, expected: str) -> dict:
    samples, batch = real_batch()
    step = STEPS[name][0](samples, batch)
    began = time.perf_counter()
    loss = step()
    first = time.perf_counter() - began
    if expected and not math.isclose(loss, float(expected), rel_tol=1e-2):
        raise UserError(f"{name}: loss {loss:.4f}, ours {expected}: not the same work")
    seconds = median_seconds(step)
    return {"loss": loss, "first": first, "seconds": seconds, "peak": train_ops.peak_memory(),
            "rate": int((batch.ids != 0).sum()) / seconds}


def part_step() -> str:
    """One training step, 32 samples of about 40 tokens: tokens/s and peak memory."""
    found: dict[str, dict] = {}
    print(f"{'':30}{'tokens/s':>9}{'s/step':>8}{'first s':>9}{'GiB':>6}{'loss':>9}")
    for name, (_, like) in STEPS.items():
        row = found[name] = alone("time_step", name, str(found[like]["loss"]) if like else "")
        print(f"{name:30}{row['rate']:9.0f}{row['seconds']:8.2f}{row['first']:9.1f}"
              f"{row['peak']:6.1f}{row['loss']:9.4f}", flush=True)
    mine, fast, lean, hook, _, peft = found.values()
    compiling, gain = fast["first"] - mine["first"], mine["seconds"] - fast["seconds"]
    print(f"--compile costs {compiling:.0f} s, which "
          + (f"step {compiling / gain:.0f} has earned" if gain > 0 else "is never earned back"))
    ratios = [row["rate"] / rival["rate"] for row in (mine, fast) for rival in (hook, peft)]
    return ("step {:.1f} x hooks and {:.1f} x PEFT (--compile {:.1f} and {:.1f}), ".format(*ratios)
            + f"memory {mine['peak'] / hook['peak']:.2f} of hooks' "
            f"(--recompute {lean['peak'] / hook['peak']:.2f})")


# --------------------------------------------------------------------- how close to the machine

def matmuls(cfg: mistral.Config, fused: bool) -> list[tuple[int, int]]:
    """(d_in, d_out) of a layer's weights; `fused`: q, k, v and gate, up each as one matmul."""
    d, c, m = cfg.hidden_size, cfg.head_dim, cfg.intermediate_size
    q, kv = cfg.num_attention_heads * c, cfg.num_key_value_heads * c
    first = [(d, q + 2 * kv), (d, 2 * m)] if fused else [(d, q), (d, kv), (d, kv), (d, m), (d, m)]
    return [*first, (q, d), (m, d)]


def matmul_seconds(cfg: mistral.Config, tokens: int, fused: bool) -> float:
    """The frozen weights' matmuls of one step: forward, and the gradient of their inputs."""
    seconds = 0.0
    for d_in, d_out in matmuls(cfg, fused):
        x, y = torch.randn(tokens, d_in).bfloat16(), torch.randn(tokens, d_out).bfloat16()
        w = torch.randn(d_out, d_in).bfloat16()
        seconds += median_seconds(lambda: F.linear(x, w)) + median_seconds(lambda: y @ w)
    return cfg.num_hidden_layers * seconds


def part_limit() -> str:
    """The step's FLOP/s beside the machine's own, and where the rest goes."""
    samples, batch = real_batch()
    step, tokens = ours(samples, batch), batch.ids.numel()
    cfg = mistral.read_config()
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()                   # of all matmuls, the hypernetwork's as well
    frozen = 4 * tokens * cfg.num_hidden_layers * sum(a * b for a, b in matmuls(cfg, fused=False))
    rates = {name: frozen / matmul_seconds(cfg, tokens, fused) for name, fused in
             (("the layers' matmuls alone", False), ("… q/k/v and gate/up fused", True))}
    seconds = median_seconds(step)
    for name, rate in (("the whole step", flops / seconds), *rates.items()):
        print(f"{name:28}{rate / 1e9:6.0f} GFLOP/s")
    bound = flops / rates["… q/k/v and gate/up fused"]
    print(f"the step's {flops / 1e9:.0f} GFLOP at the last rate would take {bound:.2f} s; it takes "
          f"{seconds:.2f} s")
    with torch.profiler.profile() as profile:
        step()
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    for row in rows[:12]:
        print(f"    {100 * row.self_cpu_time_total / total:5.1f} %  {row.key}, {row.count} calls")
    tokens = int((batch.ids != 0).sum())
    return (f"{100 * bound / seconds:.0f} % of the fused-matmul bound of {tokens / bound:.0f} "
            "tokens/s")


# ----------------------------------------------------------------------------- what growth costs

def made_up(cfg: mistral.Config, b: int, t: int) -> tuple[Tensor, Batch]:
    """b embeddings, and b samples of t tokens of which the last four are learnt."""
    keep = (torch.arange(t) >= t - 4).expand(b, t)
    return torch.randn(b, 384), Batch(torch.randint(1, cfg.vocab_size, (b, t)), keep,
                                      torch.randint(1, cfg.vocab_size, (4 * b,)),
                                      torch.full((4 * b,), 1 / (4 * b)))


def random_model(cfg: mistral.Config) -> mistral.Mistral:
    """Also for time and memory alone."""
    model = mistral.Mistral(cfg).to(torch.bfloat16)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.02)
    return model


def part_scale() -> str:
    """Milliseconds a position of one step, by batch, length and model; and of a draw, by tasks."""
    cfg, costs = mistral.read_config(), {}
    half, double = replace(cfg, num_hidden_layers=15), replace(cfg, num_hidden_layers=60)
    wide = replace(cfg, hidden_size=960, intermediate_size=2560, num_attention_heads=15,
                   num_key_value_heads=5)
    for b, t, size in ((8, 40, cfg), (16, 40, cfg), (32, 40, cfg), (64, 40, cfg), (32, 20, cfg),
                       (32, 80, cfg), (32, 160, cfg), (32, 40, half), (32, 40, double),
                       (32, 40, wide)):
        step = our_step(random_model(size), fresh_t2l(size), *made_up(size, b, t))
        cost = 1000 * median_seconds(step) / (b * t)
        costs[b, t, size.hidden_size, size.num_hidden_layers] = cost
        weights = size.num_hidden_layers * sum(i * o for i, o in matmuls(size, fused=False)) / 1e6
        print(f"batch {b:3}, {t:4} tokens, {weights:4.0f} M weights in the layers: {cost:5.2f} ms "
              f"a position, {100 * cost / weights:5.2f} for each 100 M", flush=True)
    suite, tokenizer = load_suite(), mistral.load_tokenizer()
    for n in (6, 60, len(suite.train)):
        batches = draw_samples(suite.train[:n], tokenizer, BATCH)
        seconds = median_seconds(lambda: [next(batches) for _ in range(8)]) / 8
        print(f"{n:4} tasks: {1000 * seconds:.1f} ms to draw a batch")
    long, short = (costs[32, t, cfg.hidden_size, cfg.num_hidden_layers] for t in (160, 40))
    return f"a position of 160 costs {long / short:.2f} x one of 40"


def compile_shapes() -> dict:
    model = mistral.load_model()
    train_ops.compile_layers(model)
    t2l, shapes = fresh_t2l(model.cfg), ((32, 40), (32, 23), (16, 61), (31, 9), (8, 150), (2, 300))
    seconds = {}
    for b, t in shapes:
        began = time.perf_counter()
        our_step(model, t2l, *made_up(model.cfg, b, t))()
        seconds[f"{b} x {t} tokens"] = time.perf_counter() - began
    return {"seconds": seconds, "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"]}


def part_compile() -> str:
    """Seconds of the first step of each batch shape, and how many graphs --compile made for all."""
    found = alone("compile_shapes")
    for shape, seconds in found["seconds"].items():
        print(f"{shape:16}{seconds:6.1f} s")
    return f"{found['graphs']} graphs compiled for {len(found['seconds'])} shapes"


def part_padding() -> str:
    """The share of positions that are padding, over 80 batches of the default suite."""
    suite, tokenizer = load_suite(), mistral.load_tokenizer()
    shares = []
    for describe in ("lora", "both"):
        batches = draw_samples(suite.train, tokenizer, BATCH, describe=describe)
        drawn = [encode(next(batches), tokenizer, describe).ids for _ in range(80)]
        shares.append(100 * sum(int((ids == 0).sum()) for ids in drawn)
                      / sum(ids.numel() for ids in drawn))
    print(f"{shares[0]:.1f} %, with the description in the prompt {shares[1]:.1f} %")
    return f"padding {shares[0]:.1f} %"


# ---------------------------------------------------------------------------------------- memory

def step_memory(cfg: mistral.Config, t2l: t2l_ops.T2L, b: int, t: int, learnt: int,
                recompute: bool) -> dict[str, int]:
    """Bytes by component where a step of --mode sft needs most: as the backward pass begins.

    b samples of t positions, `learnt` answer tokens in all; the model in bf16, the hypernetwork
    (on the meta device will do) in fp32 under autocast. What autograd keeps of a layer is counted
    in the order of mistral.Layer: frozen weights keep none of their inputs.
    """
    d, m, n = cfg.hidden_size, cfg.intermediate_size, cfg.num_hidden_layers
    q, kv = cfg.num_attention_heads * cfg.head_dim, cfg.num_key_value_heads * cfg.head_dim
    r, rows, z = t2l.cfg.rank, b * n * len(t2l.cfg.modules), t2l.cfg.latent
    vocabulary = cfg.vocab_size * d * (1 if cfg.tie_word_embeddings else 2)
    weights = vocabulary + n * sum(i * o for i, o in matmuls(cfg, fused=False))
    trained = sum(w.numel() for w in t2l.parameters())
    size_A, size_B = (b * n * r * sum(sizes) for sizes in zip(*t2l.cfg.modules.values()))
    fused = t > mistral.PLAIN_ATTENTION_UP_TO
    attention = (2 * b * t * q if fused else 2 * b * cfg.num_attention_heads * t * t) \
        + b * t * (2 * q + 4 * kv)                            # scores or output; q, k, v
    layer = b * t * (2 * 4 * d                                # both norms, in fp32
                     + 2 * (d + 2 * r)                        # what A and B of q and v read
                     + 3 * 2 * m) + attention                 # gate, silu(gate), up
    kept = n * b * t * 2 * d + layer if recompute else n * layer
    return {"the model, bf16": 2 * weights,
            "the hypernetwork, fp32": 4 * trained,
            "AdamW's two moments": 8 * trained,
            "the hypernetwork's bf16 copy": 2 * trained,
            "its activations": 2 * rows * (12 * z + 5 * 4 * z + 4 * t2l.cfg.head_in),
            "the adapters, B scaled, by layer": 2 * (2 * size_A + 3 * size_B),
            "the layers' activations": kept,
            "logits and their gradients": 12 * learnt * cfg.vocab_size}


def part_memory() -> str:
    """GiB by component, as tests/test_bench.py checks it: SmolLM2 here, Mistral-7B on one GPU."""
    columns, small = {}, mistral.read_config()
    for name, cfg, b, t, recompute in (
            ("SmolLM2 32 x 40", small, 32, 40, False),
            ("7B 8 x 512", MISTRAL_7B, 8, 512, False),
            ("… --recompute", MISTRAL_7B, 8, 512, True)):
        with torch.device("meta"):
            columns[name] = step_memory(cfg, fresh_t2l(cfg), b, t, 8 * b, recompute)
    print(f"{'':33}" + "".join(f"{name:>17}" for name in columns))
    for part in next(iter(columns.values())):
        print(f"{part:33}"
              + "".join(f"{found[part] / 2 ** 30:17.2f}" for found in columns.values()))
    totals = {name: sum(found.values()) / 2 ** 30 for name, found in columns.items()}
    print(f"{'together':33}" + "".join(f"{total:17.2f}" for total in totals.values()))
    return f"7B needs {totals['… --recompute']:.1f} GiB"


# ------------------------------------------------------------------------------------ generation

def prompts_and_adapters() -> tuple[list[str], LoRA]:
    """32 inputs of 32 tasks, and for each the adapter of its task's first wording."""
    tasks = load_suite().train
    tasks = tasks[::len(tasks) // PROMPTS][:PROMPTS]
    return ([task.test[0][0] for task in tasks],
            t2l_ops.generate_lora(t2l_ops.load_t2l(), [task.descriptions[0] for task in tasks]))


def timed_tokens(run: Callable[[], list], dtype: torch.dtype) -> dict:
    """fp32 shows the tokens; bf16, where ties break differently in every program, is timed."""
    if dtype == torch.float32:
        return {"ids": run()}
    return {"rate": PROMPTS * NEW_TOKENS / median_seconds(run), "peak": train_ops.peak_memory()}


def generate_ours(dtype: torch.dtype) -> dict:
    prompts, lora = prompts_and_adapters()
    model, tokenizer = mistral.load_model(dtype=dtype), mistral.load_tokenizer()
    ids = [tokenizer.prompt(p) for p in prompts]
    return timed_tokens(lambda: mistral.generate_ids(model, ids, lora, NEW_TOKENS, stop=()), dtype)


def generate_transformers(dtype: torch.dtype, adapters: bool) -> dict:
    prompts, (A, B) = prompts_and_adapters()
    tokenizer, model, extra = mistral.load_tokenizer(), transformers_model(dtype), {}
    model.generation_config.eos_token_id = None            # 24 tokens each, as ours are told to
    ids = [tokenizer.prompt(p) for p in prompts]
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids])        # at the left
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    if adapters:
        from peft import PeftModel
        extra["adapter_names"] = [f"task{i}" for i in range(PROMPTS)]
        with tempfile.TemporaryDirectory() as folder:
            for i, name in enumerate(extra["adapter_names"]):
                lora_ops.save_peft(f"{folder}/{name}",
                                   *lora_ops.mapped((A, B), lambda w, i=i: w[i]))
                if i:
                    model.load_adapter(f"{folder}/{name}", name, autocast_adapter_dtype=False)
                else:
                    model = PeftModel.from_pretrained(model, f"{folder}/{name}", name,
                                                      autocast_adapter_dtype=False).eval()

    @torch.inference_mode()
    def run() -> list:
        out = model.generate(input_ids=padded, attention_mask=mask, do_sample=False,
                             max_new_tokens=NEW_TOKENS, pad_token_id=0, **extra)
        return out[:, width:].tolist()
    return timed_tokens(run, dtype)


GENERATE = {"32 adapters: ours": generate_ours,
            "32 adapters: transformers, PEFT": lambda dtype: generate_transformers(dtype, True),
            "no adapter: transformers": lambda dtype: generate_transformers(dtype, False)}


def time_generation(name: str, dtype: str) -> dict:
    return GENERATE[name](getattr(torch, dtype))


def part_generation() -> str:
    """Greedy tokens/s: 32 prompts, each under an adapter of its own, 24 new tokens each."""
    mixed = list(GENERATE)[:2]
    answers = [alone("time_generation", name, "float32")["ids"] for name in mixed]
    equal = sum(a == b for a, b in zip(*answers))
    if equal < PROMPTS:
        raise UserError(f"only {equal} of {PROMPTS} answers equal PEFT's: not the same work")
    found = {name: alone("time_generation", name, "bfloat16") for name in GENERATE}
    for name, row in found.items():
        print(f"{name:34}{row['rate']:7.0f} tokens/s {row['peak']:6.1f} GiB")
    mine, peft, plain = (row["rate"] for row in found.values())
    return f"generation {mine / peft:.1f} x PEFT, {mine / plain:.1f} x transformers without adapter"


# ------------------------------------------------------------------------------------- oracles

def part_oracles() -> str:
    """Samples/s of `train.py --mode lora`: eight tasks side by side, and one after another."""
    model, tokenizer, suite = mistral.load_model(), mistral.load_tokenizer(), load_suite()
    objective = train_ops.Answers(model, tokenizer, "lora")
    tasks = sorted(suite.train, key=train_ops.mean_length)
    tasks = tasks[len(tasks) // 2:][:8]                     # of usual and similar length
    args = argparse.Namespace(mode="lora", dtype=torch.bfloat16, device="cpu", lr=1e-3, seed=0,
                              steps=4, save_every=0)

    def learn(tasks: list) -> None:
        trainee = train_ops.PlainLoRAs(model.cfg, [task.name for task in tasks])
        with tempfile.TemporaryDirectory() as folder:
            train_ops.train(trainee, train_ops.new_optimizer(trainee, args),
                            draw_from_each(tasks, train_ops.PER_TASK), objective, args,
                            Path(folder) / "log.jsonl")
    samples = args.steps * train_ops.PER_TASK * len(tasks)
    fused = samples / median_seconds(lambda: learn(tasks))
    alone = samples / median_seconds(lambda: [learn([task]) for task in tasks])
    print(f"{fused:.1f} samples/s side by side, {alone:.1f} one after another")
    return f"oracles side by side {fused / alone:.1f} x one after another"


# ---------------------------------------------------------------------------- adapters, start-up

def part_adapters() -> str:
    """From description to adapter; for Mistral-7B beside one read of the heads from memory."""
    t2l, encoder = t2l_ops.load_t2l(), load_encoder()
    lines = [d for task in load_suite().train[:10] for d in task.descriptions[:10]]
    one, hundred = (median_seconds(lambda: t2l_ops.generate_lora(t2l, lines[:n], encoder))
                    for n in (1, 100))
    print(f"SmolLM2-135M: {1000 * one:.0f} ms for one description, {10 * hundred:.1f} ms each for "
          "100 at once")
    ratios = []
    for dtype in (torch.float32, torch.bfloat16):
        big = fresh_t2l(MISTRAL_7B).to(dtype)
        n_bytes = sum(w.nbytes for w in big.heads.parameters())
        stream = median_seconds(torch.ones(n_bytes // 4).sum)
        with torch.no_grad():
            single, many = (median_seconds(lambda: big.adapters(emb)) / len(emb)
                            for emb in (torch.randn(n, 384, dtype=dtype) for n in (1, 100)))
        print(f"Mistral-7B, L, {str(dtype)[6:]}: {1000 * single:.0f} ms for one, "
              f"{1000 * many:.0f} ms each for 100; the heads' {n_bytes / 1e6:.0f} MB are read in "
              f"{1000 * stream:.0f} ms")
        ratios.append(f"{single / stream:.0f}")
    return (f"adapter {1000 * one:.0f} ms, 100 in {1000 * hundred:.0f} ms; 7B's "
            f"{' x (bf16: '.join(ratios)} x) the time to read its heads")


def part_startup() -> str:
    """`t2l.py` from a warm cache to the written adapter, the whole command."""
    def command() -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "t2l.py", "Write the word in capital letters.",
                            "--out", f"{folder}/adapter"], check=True, capture_output=True)
    seconds = median_seconds(command)
    print(f"{seconds:.1f} s")
    return f"t2l.py {seconds:.1f} s"


# ------------------------------------------------------------------------- a model of 7 billion

def write_random_model(cfg: mistral.Config, folder: Path, shard_bytes: int = 2 << 30) -> int:
    """A Hugging Face folder with random bf16 weights, in shards; returns their bytes."""
    with torch.device("meta"):
        shapes = {k: w.shape for k, w in mistral.Mistral(cfg).state_dict().items()}
    pool = (0.02 * torch.randn(1 << 24)).bfloat16()            # repeated: drawing 7 billion is slow
    index, shard, total = {}, {}, 0

    def flush() -> None:
        name = f"model-{len(set(index.values())) + 1:05}.safetensors"
        save_file(shard, folder / name)
        index.update(dict.fromkeys(shard, name))
        shard.clear()
    for key, shape in shapes.items():
        n = shape.numel()
        shard[key] = pool.repeat(-(-n // len(pool)))[:n].view(shape) if len(shape) > 1 else \
            torch.ones(shape, dtype=torch.bfloat16)
        total += 2 * n
        if sum(w.nbytes for w in shard.values()) > shard_bytes:
            flush()
    flush()
    write_json(folder / "model.safetensors.index.json", {"weight_map": index})
    ours = ("name", "gemma", "windowed", "llama3")                  # not fields of a config.json
    write_json(folder / "config.json", {"model_type": "mistral"} | {
        k: v for k, v in asdict(cfg).items() if k not in ours})
    return total


def time_big(folder: str) -> dict:
    """Load, make one L adapter, produce 8 tokens with it; the peak includes all of that."""
    began = time.perf_counter()
    model = mistral.load_model(folder)
    loaded = time.perf_counter() - began
    t2l, emb = fresh_t2l(model.cfg, emb_size=1024), torch.randn(1, 1024)        # as gte-large's
    began = time.perf_counter()
    with torch.no_grad():
        A, B = t2l.adapters(emb)
    adapter = time.perf_counter() - began
    began = time.perf_counter()
    ids = mistral.generate_ids(model, [list(range(3, 19))], (A, B), 8, stop=())
    return {"load": loaded, "adapter": adapter, "tokens": time.perf_counter() - began,
            "made": len(ids[0]), "peak": train_ops.peak_memory()}


def part_big() -> str:
    """Mistral-7B's size with random weights (only by name: 14.5 GB of disk, some minutes)."""
    with tempfile.TemporaryDirectory() as folder:
        size = write_random_model(MISTRAL_7B, Path(folder)) / 2 ** 30
        found = alone("time_big", folder)
    print(f"{size:.1f} GiB of weights loaded in {found['load']:.1f} s; an L adapter in "
          f"{found['adapter']:.2f} s; {found['made']} tokens in {found['tokens']:.0f} s; peak "
          f"{found['peak']:.1f} GiB, {found['peak'] / size:.2f} x the weights")
    return f"7B: adapter {found['adapter']:.2f} s, peak {found['peak'] / size:.2f} x the weights"


# ------------------------------------------------------------------------ the paper's cost table

PAPER_COST = {"description's embedding": 0.029, "hypernetwork": 0.000005, "language model": 0.827,
              "… with three examples in the prompt": 4.177}           # TFLOPs, Mistral-7B


def query_cost(arch: str, description: int, prompt: int, examples: int) -> dict[str, float]:
    """TFLOPs of one query by counting every matmul of our modules, on no memory ("meta"): gte-large
    on `description` tokens, T2L, Mistral-7B on `prompt` tokens, and on `examples` tokens."""
    with torch.device("meta"):
        gte = encoder_ops.Encoder(encoder_ops.Config(30528, 1024, 24, 16, 4096, 8192, 2, 1e-12,
                                                     rope_theta=160_000.0, rope_factor=2.0))
        t2l = fresh_t2l(MISTRAL_7B, arch, 1024)
        model = mistral.Mistral(MISTRAL_7B)

        def ids(n: int) -> Tensor:
            return torch.zeros(1, n, dtype=torch.long)
        work = [lambda: gte(ids(description), torch.ones(1, description, dtype=torch.bool)),
                lambda: t2l(torch.zeros(1, 1024)),
                lambda: model(ids(prompt)), lambda: model(ids(examples))]
        found = []
        for run_it in work:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                run_it()
            found.append(counter.get_total_flops() / 1e12)
    return dict(zip(PAPER_COST, found))


def part_cost() -> str:
    """TFLOPs of one query for Mistral-7B: the paper's figure, and every matmul counted.

    The paper does not state the lengths; 36, 58 and 293 tokens make the other three rows agree.
    """
    found = {arch: query_cost(arch, 36, 58, 293) for arch in "LMS"}
    print(f"{'':38}{'paper':>10}" + "".join(f"{'with ' + arch:>10}" for arch in found))
    for name, paper in PAPER_COST.items():
        print(f"{name:38}{paper:10.6f}" + "".join(f"{row[name]:10.6f}" for row in found.values()))
    said = ", ".join(f"{arch} {1000 * row['hypernetwork']:.1f}" for arch, row in found.items())
    return f"hypernetwork {said} GFLOP, not the paper's 0.005"


# ---------------------------------------------------------------------------------- command line

PARTS = {"step": part_step, "limit": part_limit, "scale": part_scale,
         "compile": part_compile, "padding": part_padding, "memory": part_memory,
         "generation": part_generation, "oracles": part_oracles, "adapters": part_adapters,
         "startup": part_startup, "cost": part_cost, "big": part_big}


def alone(function: str, *arguments: str) -> dict:
    """function(*arguments) in a process of its own, which prints its result as a line of JSON.

    It finds no code that torch.compile left behind in an earlier run.
    """
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run([sys.executable, "bench.py", "--run", function, *arguments],
                              env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache},
                              capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{function} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = Parser("Measure speed and memory.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.chdir(Path(__file__).parent)
    train_ops.keep_freed_memory()
    if args.run:
        function, *arguments = args.run
        print(json.dumps(globals()[function](*arguments)))
        return
    if odd := set(args.parts) - set(PARTS):
        raise UserError(f"no such part: {', '.join(sorted(odd))}; choose from {', '.join(PARTS)}")
    said, failed, began = [], [], time.perf_counter()
    for name in args.parts or [part for part in PARTS if part != "big"]:
        print(f"\n{name}. {PARTS[name].__doc__}", flush=True)
        try:
            said.append(PARTS[name]())
        except UserError as error:                                  # the other parts still run
            failed.append(name)
            print(error)
    print(f"\n{torch.get_num_threads()} threads, {(time.perf_counter() - began) / 60:.0f} min: "
          + "; ".join(said))
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    run(main)
