"""What growth costs: a training step by batch, length, layers and size of the model; descriptions
and tasks, embedded, set up, drawn and read from files.

    python -m experiments.speed --growth experiments/results/growth.png

Every point of a step has a process of its own, for its peak memory. A curve that does not rise
costs no more by the unit when there are more: nothing may grow faster than linearly. Reading
order: made-up models and batches, a step, the curves, the picture.
"""
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from data.suite import load_suite
from data.tasks import Batch, Task, draw_samples
from encoder import load_encoder
from experiments.plots import load_matplotlib
from lora import TARGETS
from mistral import Mistral, MistralConfig, load_tokenizer
from t2l import T2L, T2LConfig, adapted_modules
from train import TextToLoRA, sft_loss
from utils.cli import UserError
from utils.files import write_json
from utils.neighbours import find_neighbours
from utils.run_folder import peak_memory
from utils.weights import SMALL_MODEL, usual_dtype

ROOT = Path(__file__).parent.parent              # where `python -m experiments.speed` is run
RUNS = 3
MISTRAL_7B = MistralConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
    num_attention_heads=32, num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-5, rope_theta=1e6,
    sliding_window=None, tie_word_embeddings=False, max_position_embeddings=32768,
    eos_token_id=(2,), name="Mistral-7B")
SMOLLM2_135M = MistralConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, head_dim=64, rms_norm_eps=1e-5, rope_theta=1e5,
    sliding_window=None, tie_word_embeddings=True, max_position_embeddings=8192, eos_token_id=(2,))
SIZES = {576: SMOLLM2_135M,                                  # by width: 135M, 360M, 1.7B, 7B
         960: replace(SMOLLM2_135M, hidden_size=960, intermediate_size=2560,
                      num_attention_heads=15, num_key_value_heads=5),
         2048: replace(SMOLLM2_135M, hidden_size=2048, intermediate_size=8192,
                       num_attention_heads=32, num_key_value_heads=32),
         4096: MISTRAL_7B}


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()                            # else only the start is timed
    return time.perf_counter() - began


def median_seconds(*works: Callable[[], object]) -> list[float]:
    """Of each, in turns: what else the machine does slows all of them."""
    for work in works:
        work()                                              # warm up
    rounds = [[seconds_of(work) for work in works] for _ in range(RUNS)]
    return [statistics.median(times) for times in zip(*rounds)]


# ---------------------------------------------------------------- made-up models, batches, a step

def matmuls(cfg: MistralConfig) -> list[tuple[int, int]]:
    """(d_in, d_out) of a layer's weights, q, k, v and gate, up each as one matmul."""
    d, c, m = cfg.hidden_size, cfg.head_dim, cfg.intermediate_size
    q, kv = cfg.num_attention_heads * c, cfg.num_key_value_heads * c
    return [(d, q + 2 * kv), (d, 2 * m), (q, d), (m, d)]


def layer_weights(cfg: MistralConfig) -> int:
    """How many numbers all layers' matmuls have together."""
    return cfg.num_hidden_layers * sum(d_in * d_out for d_in, d_out in matmuls(cfg))


def dtype_of(cfg: MistralConfig, device: str = "cpu") -> torch.dtype:
    """As load_model chooses, by the layers' weights."""
    return usual_dtype(device) if 2 * layer_weights(cfg) <= SMALL_MODEL else torch.bfloat16


def fresh_t2l(cfg: MistralConfig, arch: str = "L", emb_size: int = 384,
              modules: Iterable[str] = TARGETS) -> T2L:
    """An untrained T2L for time and memory alone, where what the weights say does not matter."""
    return T2L(T2LConfig(arch, emb_size, cfg.num_hidden_layers,
                         adapted_modules(cfg, modules))).eval()


def made_up(cfg: MistralConfig, b: int, t: int) -> tuple[Tensor, Batch]:
    """b embeddings, and b samples of t tokens of which the last four are learnt."""
    keep = (torch.arange(t) >= t - 4).expand(b, t)
    return torch.randn(b, 384), Batch(torch.randint(1, cfg.vocab_size, (b, t)), keep,
                                      torch.randint(1, cfg.vocab_size, (4 * b,)),
                                      torch.full((4 * b,), 1 / (4 * b)))


def random_model(cfg: MistralConfig, device: str = "cpu",
                 dtype: torch.dtype | None = None) -> Mistral:
    """An untrained one, for time and memory alone."""
    with torch.device("meta"):
        model = Mistral(cfg).to(dtype or dtype_of(cfg, device))
    pool = 0.02 * torch.randn(1 << 20)                      # repeated: drawing 7 billion is slow
    for weight in model.to_empty(device=device).parameters():
        for part in weight.view(-1).split(len(pool)):
            part.copy_(pool[:len(part)])
    return model


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


def autocast(model: nn.Module) -> torch.autocast:
    """What a T2L or PEFT's LoRA, which are fp32, run under, as in train.py."""
    weight = next(model.parameters())
    return torch.autocast(weight.device.type, torch.bfloat16,
                          enabled=weight.dtype == torch.bfloat16)


def our_step(model: Mistral, t2l: T2L, embeddings: Tensor, batch: Batch) -> Callable[[], float]:
    """A step of --mode sft, as train.py does it."""
    def loss() -> Tensor:
        with autocast(model):
            lora = t2l.adapters(embeddings)
        return sft_loss(model(batch.ids, lora=lora, keep=batch.keep), batch)
    return stepper(loss, t2l)


def alone(function: str, *arguments: str) -> dict | list:
    """function(*arguments) in a process of its own, which prints its result as a line of JSON.

    It finds no code that torch.compile left behind in an earlier run.
    """
    command = [sys.executable, "-m", "experiments.speed", "--run", function, *arguments]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                              env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache})
    if done.returncode:
        raise UserError(f"{function} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# --------------------------------------------------------------------------------- the curves

Curve = list[dict]                    # {"n": how many, "cost": by the unit, "peak": GiB or 0}


def step_point(b: str, t: str, layers: str, width: str) -> dict:
    """A step of b samples of t tokens, as many layers, of SmolLM2's shapes or wider ones, in bf16
    whatever its size: ms a position, GiB."""
    cfg = replace(SIZES[int(width)], num_hidden_layers=int(layers))
    model, t2l = random_model(cfg, dtype=torch.bfloat16), fresh_t2l(cfg)
    [seconds] = median_seconds(our_step(model, t2l, *made_up(cfg, int(b), int(t))))
    return {"cost": 1000 * seconds / (int(b) * int(t)), "peak": peak_memory(),
            "weights": layer_weights(cfg)}


def step_curves() -> dict[str, Curve]:
    def points(of: dict[int, tuple]) -> Curve:
        return [{"n": n} | alone("step_point", *map(str, point)) for n, point in of.items()]
    models = {576: 30, 960: 32, 2048: 24, 4096: 32}                     # width: layers
    curves = {
        "batch, ms a position": points({b: (b, 40, 30, 576) for b in (4, 8, 16, 32, 64, 128)}),
        "tokens, ms a position": points({t: (8, t, 30, 576) for t in (20, 40, 80, 160, 320, 640)}),
        "layers, ms a position, layer": points({n: (16, 40, n, 576) for n in (8, 15, 30, 60, 120)}),
        "weights, ms a position, 100 M": points({w: (8, 40, n, w) for w, n in models.items()})}
    for point in curves["layers, ms a position, layer"]:
        point["cost"] /= point["n"]
    for point in curves["weights, ms a position, 100 M"]:
        point["n"] = point["weights"]
        point["cost"] /= point["weights"] / 1e8
    return curves


def made_up_tasks(n: int) -> list[Task]:
    return [Task(f"task{i}", tuple((f"{i} {j}", (f"{j}",)) for j in range(8)), (("a", ("b",)),),
                 tuple(f"Wording {j} of what {i} asks." for j in range(20)), ("Other.",))
            for i in range(n)]


def set_up(tasks: list[Task]) -> None:
    """What train.py does with the descriptions beside embedding them; vectors are drawn."""
    def drawn(texts: list[str], **_) -> Tensor:
        return torch.randn(len(texts), 384)
    encoder = SimpleNamespace(lora=None, parts=None, embed=drawn)
    t2l = T2L(T2LConfig("bank", 384, 2, {"q_proj": (64, 64)}))
    source = TextToLoRA(t2l, encoder, tasks)
    find_neighbours(source.by_task(), source.wordings)


def read_folder(n: int) -> float:
    """Seconds to read n task files."""
    with tempfile.TemporaryDirectory() as scratch:
        (folder := Path(scratch) / "tasks").mkdir()
        (Path(scratch) / "splits.json").write_text('{"unseen": ["task0"]}')
        for task in made_up_tasks(n):
            write_json(folder / f"{task.name}.json", {
                "Definition": ["Do it."], "Descriptions": list(task.descriptions),
                "Instances": [{"input": text, "output": list(out)} for text, out in task.train]})
        began = time.perf_counter()
        load_suite([folder])
        return time.perf_counter() - began


def data_curves() -> dict[str, Curve]:
    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    curves: dict[str, Curve] = {
        "descriptions, ms to embed one": [], "descriptions, ms to set one up": [],
        "tasks, ms to draw a batch": [], "task files, ms to read one": []}
    to_embed, to_set_up, to_draw, to_read = curves.values()
    encoder, tokenizer = load_encoder(), load_tokenizer()
    for n in (500, 1000, 2000, 4000):
        texts = [text for task in made_up_tasks(n // 20) for text in task.descriptions]
        to_embed.append({"n": n, "cost": 1000 * timed(lambda: encoder.embed(texts)) / n})
    for n in (100, 1000, 10_000):
        tasks = made_up_tasks(n)
        to_set_up.append({"n": 20 * n, "cost": 1000 * timed(lambda: set_up(tasks)) / (20 * n)})
        batches = draw_samples(tasks, tokenizer, 32)
        to_draw.append({"n": n, "cost": 1000 / 8 * median_seconds(
            lambda: [next(batches) for _ in range(8)])[0]})
        to_read.append({"n": n, "cost": 1000 * read_folder(n) / n})
    return curves


def exponent(curve: Curve) -> float:
    """By which power of n the whole grows over the curve's last step; 1 is linear."""
    a, b = curve[-2:]
    return 1 + math.log(b["cost"] / a["cost"]) / math.log(b["n"] / a["n"])


# -------------------------------------------------------------------------------- the picture

def measure_growth(picture: Path) -> str:
    """Every curve as it is measured, then the picture; the curve that rises most."""
    load_matplotlib()
    picture.parent.mkdir(parents=True, exist_ok=True)
    curves = {}
    for measured in (step_curves, data_curves):
        found = measured()
        for name, curve in found.items():
            print(f"{name}: " + ", ".join(
                f"{p['n']:,}: {p['cost']:.3g}" + (f" ({p['peak']:.1f} GiB)" if "peak" in p else "")
                for p in curve) + f"; the last step grows as n^{exponent(curve):.2f}", flush=True)
        curves |= found
    draw_growth(curves, picture)
    worst = max(curves, key=lambda name: exponent(curves[name]))
    return f"{picture}: the steepest is {worst}, n^{exponent(curves[worst]):.2f}"


def short(n: float) -> str:
    """640, 20 k, 106 M, 7 B."""
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if n >= unit:
            return f"{n / unit:.0f}{name}"
    return f"{n}"


def draw_growth(curves: dict[str, Curve], picture: Path) -> None:
    from matplotlib.figure import Figure
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(2, 4).flat, curves.items()):
        what, unit = name.split(", ", 1)
        n = [point["n"] for point in curve]
        axes.plot(n, [point["cost"] for point in curve], marker="o", ms=4)
        axes.set(xscale="log", xlabel=what, title=unit,
                 ylim=(0, 1.3 * max(point["cost"] for point in curve)))
        axes.set_xticks(n, [short(x) for x in n])
        axes.minorticks_off()
        if "peak" in curve[0]:
            memory = axes.twinx()
            memory.plot(n, [point["peak"] for point in curve], color="gray", ls=":", lw=1)
            memory.set(ylim=(0, None))
            memory.tick_params(labelsize=7, labelcolor="gray")
    figure.suptitle("Cost by the unit: what does not rise grows linearly. Dotted: peak memory, GiB")
    figure.savefig(picture, dpi=110)
