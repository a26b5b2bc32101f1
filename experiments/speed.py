"""Speed and memory, against the usual ways to do the same work and against the machine's limit.

    pip install -r requirements-dev.txt
    python -m experiments.speed                      # the table: peers, bound, ratio
    python -m experiments.speed memory oracles       # other parts
    python -m experiments.speed --growth FILE        # what growth costs, see experiments/growth.py

Every step has a process of its own, so that its peak memory is its own, and reuses freed memory as
train.py does. Who does the work of another must show its loss first, and PEFT in fp32 our tokens; a
time is the median of three runs, in turns with the matmuls that bound it. The paper has no such
figures beyond its cost table (experiments/cost.py).
Reading order: the step and its rivals, its bound, compiling, padding, memory, generation, oracles,
adapters, start-up, a model of 7 billion, the command.
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from data.suite import load_suite
from data.tasks import (Batch, Sample, Task, draw_from_each, draw_samples, encode, mean_length)
from encoder import embed, encoder_for, load_encoder
from experiments.growth import step_point                   # noqa: F401, to be run by `alone`
from experiments.growth import (MISTRAL_7B, ROOT, SMOLLM2_135M, alone, autocast, dtype_of,
                                fresh_t2l, layer_weights, made_up, matmuls, measure_growth,
                                median_seconds, our_step, random_model, stepper)
from lora import MODULES, TARGETS, LoRA, map_lora, save_peft
from mistral import (PLAIN_ATTENTION_UP_TO, Mistral, MistralConfig, generate_ids, load_model,
                     load_tokenizer, read_config)
from t2l import T2L, generate_lora, load_t2l
from train import SAMPLES_PER_TASK, LoRATable, Setup, sft_loss, train
from utils.cli import Parser, UserError, run
from utils.download import SMOLLM2, default_model
from utils.files import write_json
from utils.fused import CudaGraphs, compile_layers, lay_together
from utils.run_folder import keep_freed_memory, peak_memory
from utils.weights import usual_dtype

BATCH, NEW_TOKENS = 32, 24


# --------------------------------------------------------- the training step, ours and its rivals

def real_batch() -> tuple[list[Sample], Batch]:
    """32 samples of the default suite, about 40 tokens each with the description in the prompt.

    Of the first eight batches, which hold samples of similar lengths, the one in the middle.
    """
    suite, tokenizer = load_suite(), load_tokenizer()
    batches = draw_samples(suite.train, tokenizer, BATCH, describe="both")
    drawn = [(samples, encode(samples, tokenizer, "both"))
             for samples in (next(batches) for _ in range(8))]
    return sorted(drawn, key=lambda pair: pair[1].ids.shape[1])[4]


def embedded(samples: list[Sample]) -> Tensor:
    """(32, e): each sample's description, as the committed T2L reads it."""
    return embed(encoder_for(load_t2l().cfg), [s.description for s in samples])


def ours(samples: list[Sample], batch: Batch, compiled: bool = False,
         checkpointing: bool = False) -> Callable[[], float]:
    model = load_model()
    model.activation_checkpointing = checkpointing
    if compiled:
        compile_layers(model)
    return our_step(model, load_t2l(), embedded(samples), batch)


def untrained(samples: list[Sample], batch: Batch, arch: str,
              modules: Iterable[str] = TARGETS) -> Callable[[], float]:
    """Another head, or other modules."""
    model, embeddings = load_model(), embed(load_encoder(), [s.description for s in samples])
    return our_step(model, fresh_t2l(model.cfg, arch, modules=modules), embeddings, batch)


def transformers_model(dtype: torch.dtype | None = None) -> nn.Module:
    """In the precision that ours has here; bf16, where the CPU emulates it, is slower there too."""
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(default_model(),
                                                dtype=dtype or usual_dtype("cpu")).eval()


def hooks(samples: list[Sample], batch: Batch) -> Callable[[], float]:
    """The obvious way to give each sample its adapter: hooks repeat A and B for every token."""
    model, pairs = transformers_model().requires_grad_(False), {}
    t2l, embeddings = load_t2l(), embedded(samples)

    # A hook on every adapted module; `pairs` holds the adapters of the step.
    def hook(i: int, module: str) -> Callable:
        def add(layer, inputs, output):
            b, t, d = inputs[0].shape
            A, B = (side[i].repeat_interleave(t, 0) for side in pairs[module])
            return output + (B @ (A @ inputs[0].reshape(b * t, d, 1))).view(b, t, -1)
        return add

    for i, layer in enumerate(model.model.layers):
        for module in TARGETS:
            getattr(layer.self_attn, module).register_forward_hook(hook(i, module))

    # The step.
    def loss() -> Tensor:
        with autocast(model):
            A, B = t2l.adapters(embeddings)
            pairs.update({m: (A[m].unbind(1), B[m].unbind(1)) for m in A})
            logits = model(batch.ids, use_cache=False).logits
        return sft_loss(logits[batch.keep], batch)
    return stepper(loss, t2l)


@torch.no_grad()
def plain_adapter(samples: list[Sample]) -> LoRA:
    """One adapter for the whole batch."""
    A, B = load_t2l().adapters(embedded(samples[:1]))
    return map_lora((A, B), lambda w: w[0])


def ours_plain(samples: list[Sample], batch: Batch) -> Callable[[], float]:
    A, B = (nn.ParameterDict(side) for side in plain_adapter(samples))
    model = load_model()

    def loss() -> Tensor:
        return sft_loss(model(batch.ids, lora=(dict(A), dict(B)), keep=batch.keep), batch)
    return stepper(loss, nn.ModuleList([A, B]))


def peft_plain(samples: list[Sample], batch: Batch) -> Callable[[], float]:
    from peft import PeftModel
    with tempfile.TemporaryDirectory() as folder:
        save_peft(f"{folder}/adapter", *plain_adapter(samples), base_model=SMOLLM2.model)
        model = PeftModel.from_pretrained(transformers_model(), f"{folder}/adapter",
                                          is_trainable=True)
    return peft_step(model, batch)


def peft_step(model: nn.Module, batch: Batch) -> Callable[[], float]:
    def loss() -> Tensor:
        with autocast(model):
            logits = model(batch.ids, use_cache=False).logits
        return sft_loss(logits[batch.keep], batch)
    return stepper(loss, model)


# name → (contestant, the one whose loss it must show)
STEPS = {"one LoRA: ours": (ours_plain, ""),
         "one LoRA: transformers, PEFT": (peft_plain, "one LoRA: ours"),
         "T2L: ours": (ours, ""),
         "T2L: transformers, hooks": (hooks, "T2L: ours"),
         "T2L: ours, --compile": (partial(ours, compiled=True), "T2L: ours"),
         "T2L: ours, checkpointing": (partial(ours, checkpointing=True), "T2L: ours"),
         "T2L: ours, head L": (partial(untrained, arch="L"), ""),
         "T2L: ours, seven modules": (partial(untrained, arch="bank", modules=tuple(MODULES)), "")}
SAME = 0.02                   # relative, of losses: every program rounds bf16 elsewhere


def time_step(name: str, expected: str) -> dict:
    """One contestant's times, memory and FLOPs; UserError where its loss is not `expected`."""
    samples, batch = real_batch()
    step = STEPS[name][0](samples, batch)

    # The first step: is it the same work?
    began = time.perf_counter()
    loss = step()
    first = time.perf_counter() - began
    if expected and not math.isclose(loss, float(expected), rel_tol=SAME):
        raise UserError(f"{name}: loss {loss:.4f}, ours {expected}: not the same work")

    # Those that count. FLOPs: of the one whose loss it is, not of what another does twice.
    seconds, bound = median_seconds(step, frozen_matmuls(read_config(), batch.ids.numel()))
    peak, flops = peak_memory(), 0
    if not expected:
        with FlopCounterMode(display=False) as counter:
            step()
        flops = counter.get_total_flops()
    return {"loss": loss, "first": first, "seconds": seconds, "matmuls": bound, "peak": peak,
            "flops": flops, "rate": int((batch.ids != 0).sum()) / seconds}


def part_step() -> str:
    """One training step, 32 samples of about 40 tokens: tokens/s; of what it would do if all its
    FLOPs took as long as the frozen matmuls' do, GFLOP/s of these; times PEFT's, both in units of
    the matmuls beside them; peak memory."""
    print(f"{'':30}{'tokens/s':>9}{'of bound':>10}{'GFLOP/s':>9}{'x PEFT':>8}{'x hooks':>9}"
          f"{'GiB':>6}{'loss':>9}{'first s':>9}")
    found: dict[str, dict] = {}
    cfg, positions = read_config(), real_batch()[1].ids.numel()
    for name, (_, like) in STEPS.items():
        row = found[name] = alone("time_step", name, str(found[like]["loss"]) if like else "")
        rate = 4 * positions * layer_weights(cfg) / row["matmuls"]
        row["bound"] = 100 * found[like or name]["flops"] / rate / row["seconds"]
        row["in matmuls"] = row["seconds"] / row["matmuls"]
        ratios = [f"{found[peer]['in matmuls'] / row['in matmuls']:.2f}" if peer in found else ""
                  for peer in ("one LoRA: transformers, PEFT", "T2L: transformers, hooks")]
        print(f"{name:30}{row['rate']:9.0f}{row['bound']:8.0f} %{rate / 1e9:9.0f}{ratios[0]:>8}"
              f"{ratios[1]:>9}{row['peak']:6.1f}{row['loss']:9.4f}{row['first']:9.1f}", flush=True)

    mine, fast = found["T2L: ours"], found["T2L: ours, --compile"]
    compiling = fast["first"] - mine["first"]
    gain = (mine["in matmuls"] - fast["in matmuls"]) * mine["matmuls"]
    print(f"--compile costs {compiling:.0f} s, which "
          + (f"step {compiling / gain:.0f} has earned" if gain > 0 else "is never earned back"))
    return f"a step is at {mine['bound']:.0f} % of the bound, with --compile {fast['bound']:.0f} %"


# --------------------------------------------------------------------- how close to the machine

def frozen_matmuls(cfg: MistralConfig, tokens: int, device: str = "cpu") -> Callable[[], None]:
    """The layers' matmuls of one step alone: forward, and the gradient of their inputs; q, k and v
    in one, gate and up in one."""
    sizes = [[torch.randn(*size, device=device, dtype=dtype_of(cfg, device))
              for size in ((tokens, d_in), (tokens, d_out), (d_out, d_in))]
             for d_in, d_out in matmuls(cfg)]

    def multiply() -> None:
        for _ in range(cfg.num_hidden_layers):
            for x, y, w in sizes:
                F.linear(x, w)
                y @ w
    return multiply


def part_profile() -> str:
    """Where the time of a step goes."""
    step = ours(*real_batch())
    step()
    with torch.profiler.profile() as profile:
        step()
    ops = sorted(profile.key_averages(), key=lambda op: -op.self_cpu_time_total)
    total = sum(op.self_cpu_time_total for op in ops)
    for op in ops[:12]:
        print(f"    {100 * op.self_cpu_time_total / total:5.1f} %  {op.key}, {op.count} calls")
    return f"most of a step: {ops[0].key}"


# ----------------------------------------------------------------------- compiling, padding

def compile_shapes() -> dict:
    """The first step of batches of six shapes with --compile."""
    model = load_model()
    compile_layers(model)
    t2l, shapes = fresh_t2l(model.cfg), ((32, 40), (32, 23), (16, 61), (31, 9), (8, 150), (2, 300))
    seconds = {}
    for b, t in shapes:
        began = time.perf_counter()
        our_step(model, t2l, *made_up(model.cfg, b, t))()
        seconds[f"{b} x {t} tokens"] = time.perf_counter() - began
    return {"seconds": seconds, "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"]}


def part_compile() -> str:
    """Seconds of the first step of each batch shape, and how many graphs --compile made for all;
    generation with it, times transformers without adapters."""
    found = alone("compile_shapes")
    for shape, seconds in found["seconds"].items():
        print(f"{shape:16}{seconds:6.1f} s")
    for n in (1, 8, 64):
        print_generation(n, "cpu", ("ours", "ours, --compile", "transformers, no adapter"))
    return f"{found['graphs']} graphs compiled for {len(found['seconds'])} shapes"


def part_padding() -> str:
    """The share of positions that are padding, over 80 batches of the default suite."""
    suite, tokenizer = load_suite(), load_tokenizer()
    shares = []
    for describe in ("lora", "both"):
        batches = draw_samples(suite.train, tokenizer, BATCH, describe=describe)
        drawn = [encode(next(batches), tokenizer, describe).ids for _ in range(80)]
        shares.append(100 * sum(int((ids == 0).sum()) for ids in drawn)
                      / sum(ids.numel() for ids in drawn))
    print(f"{shares[0]:.1f} %, with the description in the prompt {shares[1]:.1f} %")
    return f"padding {shares[0]:.1f} %"


# ---------------------------------------------------------------------------------------- memory

def step_memory(cfg: MistralConfig, t2l: T2L, b: int, t: int, learnt: int,
                checkpointing: bool) -> dict[str, int]:
    """Bytes by component where a step of --mode sft needs most: as the backward pass begins.

    b samples of t positions, `learnt` answer tokens in all; the model in bf16, the hypernetwork
    (on the meta device will do) in fp32 under autocast. What autograd keeps of a layer is counted
    in the order of mistral.Layer: frozen weights keep none of their inputs.
    """
    # Weights, and the adapters' sizes.
    d, m, n = cfg.hidden_size, cfg.intermediate_size, cfg.num_hidden_layers
    q, kv = cfg.num_attention_heads * cfg.head_dim, cfg.num_key_value_heads * cfg.head_dim
    r, rows, z = t2l.cfg.rank, b * n * len(t2l.cfg.modules), t2l.cfg.latent
    vocabulary = cfg.vocab_size * d * (1 if cfg.tie_word_embeddings else 2)
    weights = vocabulary + layer_weights(cfg)
    trained = sum(w.numel() for w in t2l.parameters())
    size_A, size_B = (b * n * r * sum(sizes) for sizes in zip(*t2l.cfg.modules.values()))

    # What a layer keeps for the backward pass.
    fused = t > PLAIN_ATTENTION_UP_TO
    attention = (2 * b * t * q if fused else 2 * b * cfg.num_attention_heads * t * t) \
        + b * t * (2 * q + 4 * kv)                            # scores or output; q, k, v
    layer = b * t * (2 * 4 * d                                # both norms, in fp32
                     + 2 * (d + 2 * r)                        # what A and B of q and v read
                     + 3 * 2 * m) + attention                 # gate, silu(gate), up
    kept = n * b * t * 2 * d + layer if checkpointing else n * layer

    return {"the model, bf16": 2 * weights,
            "the hypernetwork, fp32": 4 * trained,
            "AdamW's two moments": 8 * trained,
            "the hypernetwork's bf16 copy": 2 * trained,
            "its activations": 2 * rows * (12 * z + 5 * 4 * z + 4 * t2l.cfg.head_in),
            "the adapters, B scaled, by layer": 2 * (2 * size_A + 3 * size_B),
            "the layers' activations": kept,
            "logits and their gradients": 12 * learnt * cfg.vocab_size}


def part_memory() -> str:
    """GiB by component: SmolLM2 here, Mistral-7B on one GPU, without and with activation
    checkpointing."""
    # Counted.
    columns, small = {}, read_config()
    for name, cfg, b, t, checkpointing in (
            ("SmolLM2 32 x 40", small, 32, 40, False),
            ("7B 8 x 512", MISTRAL_7B, 8, 512, False),
            ("… checkpointing", MISTRAL_7B, 8, 512, True)):
        with torch.device("meta"):
            columns[name] = step_memory(cfg, fresh_t2l(cfg), b, t, 8 * b, checkpointing)

    # Printed.
    print(f"{'':33}" + "".join(f"{name:>17}" for name in columns))
    for part in next(iter(columns.values())):
        print(f"{part:33}"
              + "".join(f"{found[part] / 2 ** 30:17.2f}" for found in columns.values()))
    totals = {name: sum(found.values()) / 2 ** 30 for name, found in columns.items()}
    print(f"{'together':33}" + "".join(f"{total:17.2f}" for total in totals.values()))
    return f"7B needs {totals['… checkpointing']:.1f} GiB"


# ------------------------------------------------------------------------------------ generation

def prompts_and_adapters(n: int) -> tuple[list[str], LoRA]:
    """n inputs of n tasks, and for each the adapter of its task's first wording."""
    tasks = load_suite().train
    tasks = tasks[::len(tasks) // n][:n]
    return ([task.test[0][0] for task in tasks],
            generate_lora(load_t2l(), [task.descriptions[0] for task in tasks]))


def generate_ours(n: int, dtype: torch.dtype, device: str,
                  compiled: bool = False) -> Callable[[], list]:
    prompts, lora = prompts_and_adapters(n)
    model, tokenizer = load_model(dtype=dtype, device=device), load_tokenizer()
    if compiled:
        compile_layers(model)
    ids = [tokenizer.prompt(p) for p in prompts]
    return lambda: generate_ids(model, ids, lora, NEW_TOKENS, stop=())


def with_peft_adapters(model: nn.Module, lora: LoRA, names: list[str]) -> nn.Module:
    """A transformers model that knows adapter i of a batch by the name i."""
    from peft import PeftModel
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(names):
            save_peft(f"{folder}/{name}", *map_lora(lora, lambda w, i=i: w[i]),
                      base_model=SMOLLM2.model)
            if i:
                model.load_adapter(f"{folder}/{name}", name, autocast_adapter_dtype=False)
            else:
                model = PeftModel.from_pretrained(model, f"{folder}/{name}", name,
                                                  autocast_adapter_dtype=False)
    return model.eval()


def generate_transformers(n: int, dtype: torch.dtype, device: str,
                          adapters: bool) -> Callable[[], list]:
    # The prompts, padded at the left.
    prompts, lora = prompts_and_adapters(n)
    tokenizer, model, extra = load_tokenizer(), transformers_model(dtype).to(device), {}
    ids = [tokenizer.prompt(p) for p in prompts]
    width = max(map(len, ids))
    padded, mask = torch.tensor([([0] * (width - len(row)) + row,
                                  [0] * (width - len(row)) + [1] * len(row)) for row in ids],
                                device=device).unbind(1)

    # The model.
    model.generation_config.eos_token_id = None            # 24 tokens each, as ours are told to
    if adapters:
        extra["adapter_names"] = [f"task{i}" for i in range(n)]
        model = with_peft_adapters(model, lora, extra["adapter_names"])

    @torch.inference_mode()
    def generate_all() -> list:
        out = model.generate(input_ids=padded, attention_mask=mask, do_sample=False,
                             max_new_tokens=NEW_TOKENS, pad_token_id=0, **extra)
        return out[:, width:].tolist()
    return generate_all


def generate_matmuls(n: int, dtype: torch.dtype, device: str) -> Callable[[], None]:
    """The frozen matmuls of the prompts, then those of every token, as F.linear does them."""
    model, tokenizer = load_model(dtype=dtype, device=device), load_tokenizer()
    width = max(len(tokenizer.prompt(prompt)) for prompt in prompts_and_adapters(n)[0])
    weights = [part.weight for part in model.modules() if isinstance(part, nn.Linear)]
    head = model.model["embed_tokens"].weight
    inputs = {(rows, d): torch.randn(rows, d, dtype=dtype, device=device)
              for rows in (n, n * width) for d in {w.shape[1] for w in [*weights, head]}}

    @torch.inference_mode()
    def multiply() -> None:
        for rows in (n * width, *[n] * (NEW_TOKENS - 1)):
            for w in weights:
                F.linear(inputs[rows, w.shape[1]], w)
            F.linear(inputs[n, head.shape[1]], head)
    return multiply


GENERATE = {"ours": generate_ours,
            "ours, --compile": partial(generate_ours, compiled=True),
            "transformers, no adapter": partial(generate_transformers, adapters=False),
            "transformers, PEFT": partial(generate_transformers, adapters=True),
            "its matmuls alone": generate_matmuls}
UNCOMPILED = [name for name in GENERATE if name != "ours, --compile"]


def fp32_answers(name: str) -> list:
    """Token ids of 8 prompts; in bf16 ties break differently in every program."""
    return GENERATE[name](8, torch.float32, "cpu")()


def time_generation(n: str, device: str, *names: str) -> dict:
    """{name: tokens/s}, timed in turns."""
    works = [GENERATE[name](int(n), usual_dtype(device), device) for name in names]
    return {name: int(n) * NEW_TOKENS / seconds
            for name, seconds in zip(names, median_seconds(*works))}


def print_generation(n: int, device: str, names: Iterable[str]) -> float:
    """A line for each; ours times transformers without adapters."""
    found = alone("time_generation", str(n), device, *names)
    peer = found["transformers, no adapter"]
    for name, rate in found.items():
        print(f"{f'{n:2} prompts: {name}':40}{rate:9.0f}{rate / peer:16.2f}", flush=True)
    return found["ours"] / peer


def part_generation() -> str:
    """Greedy tokens/s, an adapter for each prompt, 24 new tokens each; times transformers without
    any adapter."""
    # The same work?
    if alone("fp32_answers", "ours") != alone("fp32_answers", "transformers, PEFT"):
        raise UserError("in fp32 the answers are not PEFT's: not the same work")

    # How fast? PEFT's takes minutes for 64 prompts, compiling another.
    print(f"{'':40}{'tokens/s':>9}{'x transformers':>16}")
    fast = [name for name in UNCOMPILED if name != "transformers, PEFT"]
    ratios = [print_generation(n, "cpu", names)
              for n, names in ((1, UNCOMPILED), (8, UNCOMPILED), (64, fast))]
    return "generation at {:.2f}, {:.2f}, {:.2f} x transformers without an adapter, for 1, 8 and " \
        "64 prompts".format(*ratios)


# --------------------------------------------------------------------------------------- a GPU

GPU_STEPS = {"7B": (MISTRAL_7B, 32, 128), "135M": (SMOLLM2_135M, 32, 40)}    # samples, tokens
GRAPHS = ["--cuda-graphs"]
GPU_RIVALS = {"7B": ("ours", "transformers, PEFT"),
              "135M": ("ours", "ours, --cuda-graphs", "transformers, PEFT")}
CURVE = ["--steps", "20", "--eval-samples", "0", "--save-every", "0", "--dtype", "float32"]


def time_gpu_step(who: str, size: str, device: str) -> dict:
    """A step on random weights, T2L-L through our model or PEFT's one LoRA through transformers;
    and the matmuls alone, which for a small model wait for Python, too."""
    cfg, b, t = GPU_STEPS[size]
    embeddings, batch = made_up(cfg, b, t)
    batch = batch.to(device)
    if who.startswith("ours"):
        model = random_model(cfg, device)
        model.fused = lay_together(model)
        model.graphs = CudaGraphs(model) if "--cuda-graphs" in who else None
        step = our_step(model, fresh_t2l(cfg).to(device), embeddings.to(device), batch)
    else:
        step = peft_random(cfg, batch, device)
    [seconds] = median_seconds(step)
    peak = torch.cuda.max_memory_allocated() / 2 ** 30 if device != "cpu" else peak_memory()
    [bound] = median_seconds(frozen_matmuls(cfg, b * t, device))
    return {"seconds": seconds, "matmuls": bound, "rate": b * t / seconds, "peak": peak}


def peft_random(cfg: MistralConfig, batch: Batch, device: str) -> Callable[[], float]:
    """One LoRA on q and v of an untrained transformers model of these shapes."""
    import transformers
    from peft import LoraConfig, get_peft_model
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rope_theta",
             "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window",
             "tie_word_embeddings", "max_position_embeddings")
    config = transformers.MistralConfig(**{name: getattr(cfg, name) for name in names})
    with torch.device(device):
        model = transformers.MistralForCausalLM(config).to(dtype_of(cfg, device))
    return peft_step(get_peft_model(model, LoraConfig(r=8, target_modules=list(TARGETS))), batch)


def losses_of_training(*flags: str) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *map(str, CURVE), *flags, "--out", f"{folder}/run"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"train.py {' '.join(flags)} failed:\n{done.stderr[-2000:]}")
        rows = (Path(folder) / "run/log.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


def check_same_losses(flags: list[str], others: list[str]) -> None:
    """UserError unless 20 steps of fp32 training have the same losses to 1e-2 with either flags."""
    gap = max(abs(a - b) / a for a, b in zip(losses_of_training(*flags),
                                             losses_of_training(*others), strict=True))
    text = f"losses with {' '.join(others)} differ from those with {' '.join(flags)} by {gap:.1e}"
    if gap > 1e-2:
        raise UserError(text)
    print(text, flush=True)


def part_gpu(device: str = "cuda") -> str:
    """On a CUDA GPU (only by name): a step of Mistral-7B's shapes and of SmolLM2's, random weights;
    64 prompts under 64 adapters; SmolLM2's losses over 20 steps beside those of the CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("the part gpu needs a CUDA device; PyTorch finds none")
    print(f"{'':34}{'s/step':>8}{'tokens/s':>10}{'of bound':>10}{'GiB':>6}")
    ours = {}
    for size in GPU_STEPS:
        for who in GPU_RIVALS[size]:
            row = alone("time_gpu_step", who, size, device)
            share = 100 * row["matmuls"] / row["seconds"]
            ours.setdefault(size, share)
            print(f"{f'{size}: {who}':34}{row['seconds']:8.3f}{row['rate']:10.0f}{share:8.0f} %"
                  f"{row['peak']:6.1f}", flush=True)
    print_generation(64, device, UNCOMPILED)

    # The same curve? Without dropout, which every device draws otherwise; with it on one device.
    check_same_losses(["--mode", "mtlora"], ["--mode", "mtlora", "--device", device])
    on_device = ["--mode", "sft", "--device", device]
    check_same_losses(on_device, [*on_device, *GRAPHS])
    return "a step at " + ", ".join(f"{share:.0f} % of the bound ({size})"
                                    for size, share in ours.items())


# --------------------------------------------------------------------------------------- oracles

def part_oracles() -> str:
    """Samples/s of `train.py --mode lora`: eight tasks side by side, and one after another."""
    # Eight tasks of usual and similar length.
    model, tokenizer = load_model(), load_tokenizer()
    by_length = sorted(load_suite().train, key=mean_length)
    tasks = by_length[len(by_length) // 2:][:8]
    args = argparse.Namespace(dtype=usual_dtype("cpu"), device="cpu", lr=1e-3, seed=0, steps=4,
                              save_every=0, describe="lora", accumulate=1)

    def learn(some: list[Task]) -> None:
        def draw(start: int) -> Iterator[list[Sample]]:
            return draw_from_each(some, SAMPLES_PER_TASK)
        table = LoRATable(model.cfg, [task.name for task in some])
        with tempfile.TemporaryDirectory() as folder:
            train(Setup(table, draw, model, tokenizer), args, Path(folder) / "log.jsonl")

    # Both ways.
    samples = args.steps * SAMPLES_PER_TASK * len(tasks)
    together, one_by_one = (samples / seconds for seconds in median_seconds(
        lambda: learn(tasks), lambda: [learn([task]) for task in tasks]))
    print(f"{together:.1f} samples/s side by side, {one_by_one:.1f} one after another")
    return f"oracles side by side {together / one_by_one:.1f} x one after another"


# ---------------------------------------------------------------------------- adapters, start-up

def part_adapters() -> str:
    """From description to adapter; for Mistral-7B beside one read of the heads from memory."""
    # The default model.
    t2l = load_t2l()
    encoder = encoder_for(t2l.cfg)
    lines = [d for task in load_suite().train[:10] for d in task.descriptions[:10]]
    one, hundred = median_seconds(*(partial(generate_lora, t2l, lines[:n], encoder)
                                    for n in (1, 100)))
    print(f"SmolLM2-135M: {1000 * one:.0f} ms for one description, {10 * hundred:.1f} ms each for "
          "100 at once")

    # Mistral-7B.
    ratios = []
    for dtype in (torch.float32, torch.bfloat16):
        big = fresh_t2l(MISTRAL_7B).to(dtype)
        n_bytes = sum(w.nbytes for w in big.heads.parameters())
        with torch.no_grad():
            stream, single, many = median_seconds(
                torch.ones(n_bytes // 4).sum,
                *(partial(big.adapters, torch.randn(n, 384, dtype=dtype)) for n in (1, 100)))
        print(f"Mistral-7B, L, {str(dtype)[6:]}: {1000 * single:.0f} ms for one, "
              f"{10 * many:.0f} ms each for 100; the heads' {n_bytes / 1e6:.0f} MB are read in "
              f"{1000 * stream:.0f} ms")
        ratios.append(f"{single / stream:.0f}")
    return (f"adapter {1000 * one:.0f} ms, 100 in {1000 * hundred:.0f} ms; 7B's "
            f"{' x (bf16: '.join(ratios)} x) the time to read its heads")


def part_startup() -> str:
    """`t2l.py` from a warm cache to the written adapter, the whole command."""
    def command() -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "t2l.py", "Write the word in capital letters.",
                            "--out", f"{folder}/adapter"], cwd=ROOT, check=True,
                           capture_output=True)

    [seconds] = median_seconds(command)
    print(f"{seconds:.1f} s")
    return f"t2l.py {seconds:.1f} s"


# ------------------------------------------------------------------------- a model of 7 billion

def write_random_model(cfg: MistralConfig, folder: Path, shard_bytes: int = 2 << 30) -> int:
    """A Hugging Face folder with random bf16 weights, in shards; returns their bytes."""
    with torch.device("meta"):
        shapes = {k: w.shape for k, w in Mistral(cfg).state_dict().items()}
    pool = (0.02 * torch.randn(1 << 24)).bfloat16()            # repeated: drawing 7 billion is slow
    index, shard, total = {}, {}, 0

    # Weights, a shard at a time.
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

    # Index and config.
    write_json(folder / "model.safetensors.index.json", {"weight_map": index})
    derived = ("name", "source", "gemma", "windowed", "llama3", "biases", "qk_norm")   # no fields
    write_json(folder / "config.json", {"model_type": "mistral"} | {
        k: v for k, v in asdict(cfg).items() if k not in derived})
    return total


def time_big(folder: str) -> dict:
    """Load, make one L adapter, produce 8 tokens with it; the peak includes all of that."""
    began = time.perf_counter()
    model = load_model(folder)
    loaded = time.perf_counter()

    t2l, emb = fresh_t2l(model.cfg, emb_size=1024), torch.randn(1, 1024)        # as gte-large's
    ready = time.perf_counter()
    with torch.no_grad():
        lora = t2l.adapters(emb)
    adapted = time.perf_counter()

    ids = generate_ids(model, [list(range(3, 19))], lora, 8, stop=())
    return {"load": loaded - began, "adapter": adapted - ready,
            "tokens": time.perf_counter() - adapted, "made": len(ids[0]), "peak": peak_memory()}


def part_big() -> str:
    """Mistral-7B's size with random weights (only by name: 14.5 GB of disk, some minutes)."""
    with tempfile.TemporaryDirectory() as folder:
        size = write_random_model(MISTRAL_7B, Path(folder)) / 2 ** 30
        found = alone("time_big", folder)
    print(f"{size:.1f} GiB of weights loaded in {found['load']:.1f} s; an L adapter in "
          f"{found['adapter']:.2f} s; {found['made']} tokens in {found['tokens']:.0f} s; peak "
          f"{found['peak']:.1f} GiB, {found['peak'] / size:.2f} x the weights")
    return f"7B: adapter {found['adapter']:.2f} s, peak {found['peak'] / size:.2f} x the weights"


# ------------------------------------------------------------------------------- the command

PARTS = {"step": part_step, "profile": part_profile,
         "compile": part_compile, "padding": part_padding, "memory": part_memory,
         "generation": part_generation, "oracles": part_oracles, "adapters": part_adapters,
         "startup": part_startup, "big": part_big, "gpu": part_gpu}
TABLE = ("step", "generation", "adapters", "startup")


def main() -> None:
    parser = Parser("Measure speed and memory.")
    parser.prog = "python -m experiments.speed"
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help=f"of {', '.join(PARTS)} (default: {' '.join(TABLE)})%(default).0s")
    parser.add_argument("--growth", metavar="FILE", help="measure only what growth costs, and draw "
                        "it into this picture (default: not)%(default).0s")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory()

    # One contestant, in a process that `alone` started.
    if args.run:
        function, *arguments = args.run
        print(json.dumps(globals()[function](*arguments)))
        return

    if args.growth:
        return print(measure_growth(Path(args.growth)))

    # The parts; one that fails does not stop the others.
    if odd := set(args.parts) - set(PARTS):
        raise UserError(f"no such part: {', '.join(sorted(odd))}; choose from {', '.join(PARTS)}")
    lines, failed, began = [], [], time.perf_counter()
    for name in args.parts or TABLE:
        print(f"\n{name}. {PARTS[name].__doc__}", flush=True)
        try:
            lines.append(PARTS[name]())
        except UserError as error:
            failed.append(name)
            print(error)

    print(f"\n{torch.get_num_threads()} threads, {(time.perf_counter() - began) / 60:.0f} min: "
          + "; ".join(lines))
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    run(main)
