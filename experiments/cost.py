"""What a query costs with Mistral-7B, in TFLOPs: the paper's table, and every matmul counted
(arXiv 2506.06105, the cost of a query against in-context learning); and with the default model in
milliseconds, too: after how many queries an adapter is cheaper than a longer prompt.

    python -m experiments.cost           # a minute; Mistral-7B has no weights here

The paper states no lengths. 36 tokens of description, 58 of prompt and 293 with three examples make
three of its rows agree; the hypernetwork's does not, and depends on no length.
"""
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from data.suite import load_suite
from data.tasks import message, test_samples
from encoder import Encoder, EncoderConfig, encoder_for
from experiments.baselines import with_examples
from experiments.speed import MISTRAL_7B, fresh_t2l
from lora import LoRA
from mistral import Mistral, load_model, load_tokenizer
from t2l import HEADS, apply_lora, generate_lora, load_t2l
from utils.cli import Parser, run

PAPER_COST = {"description's embedding": 0.029, "hypernetwork": 0.000005, "language model": 0.827,
              "… with three examples in the prompt": 4.177}           # TFLOPs, Mistral-7B
DESCRIPTION, PROMPT, EXAMPLES = 36, 58, 293                           # tokens
ADAPTER = "one adapter: reading, T2L"
GTE_LARGE = EncoderConfig(
    vocab_size=30528, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
    intermediate_size=4096, max_position_embeddings=8192, type_vocab_size=2, layer_norm_eps=1e-12,
    rope_theta=160_000.0, rope_factor=2.0)


def query_cost(arch: str, description: int, prompt: int, examples: int) -> dict[str, float]:
    """TFLOPs of one query by counting every matmul of our modules, on no memory ("meta"): gte-large
    on `description` tokens, T2L, Mistral-7B on `prompt` tokens, and on `examples` tokens."""
    with torch.device("meta"):
        # What runs.
        gte, model = Encoder(GTE_LARGE), Mistral(MISTRAL_7B)
        t2l = fresh_t2l(MISTRAL_7B, arch, GTE_LARGE.hidden_size)

        def ids(n: int) -> Tensor:
            return torch.zeros(1, n, dtype=torch.long)
        work = [lambda: gte(ids(description), torch.ones(1, description, dtype=torch.bool)),
                lambda: t2l(torch.zeros(1, GTE_LARGE.hidden_size)),
                lambda: model(ids(prompt)), lambda: model(ids(examples))]

        # What it costs.
        found = []
        for forward in work:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                forward()
            found.append(counter.get_total_flops() / 1e12)
    return dict(zip(PAPER_COST, found))


def counted(work: Callable[[], object], runs: int = 5) -> tuple[float, float]:
    """(GFLOP, median ms) of some work. On a CPU PyTorch's counter leaves out the fused kernel that
    MiniLM's attention calls: a thousandth of what an adapter takes."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        with torch.inference_mode():
            work()
        seconds.append(time.perf_counter() - start)
    return counter.get_total_flops() / 1e9, 1000 * statistics.median(seconds)


def default_costs(tasks: int = 24) -> dict[str, tuple[float, float]]:
    """{what: (GFLOP, ms)}, means over unseen tasks, with the committed T2L: an adapter, and what a
    query costs until its answer's first token, by what stands in its prompt; one at a time."""
    model, tokenizer, t2l, suite = load_model(), load_tokenizer(), load_t2l(), load_suite()
    encoder, costs = encoder_for(t2l.cfg, model), {}
    for task in suite.unseen[::len(suite.unseen) // tasks][:tasks]:
        sample = test_samples([task], 1, lambda t: t.held_out)[0]
        lora = generate_lora(t2l, sample.description, encoder)
        merged = apply_lora(model, lora)

        def query(ids: list[int], model: Mistral, lora: LoRA | None = None):
            ids = torch.tensor([ids])
            keep = torch.zeros_like(ids, dtype=torch.bool)
            keep[:, -1] = True
            return counted(lambda: model(ids, lora=lora, keep=keep))
        bare = tokenizer.prompt(message(sample, "lora"))
        shown = with_examples(sample, task, "lora", tokenizer, math.inf)
        for what, cost in {
                ADAPTER: counted(lambda: generate_lora(t2l, sample.description, encoder)),
                "merging it into the model": counted(lambda: apply_lora(model, lora)),
                "query: the input, with the adapter": query(bare, model, lora),
                "query: the input, adapter merged": query(bare, merged),
                "query: description and input": query(
                    tokenizer.prompt(message(sample, "prompt")), model),
                "query: three examples and input": query(shown, model)}.items():
            costs.setdefault(what, []).append(cost)
    return {what: tuple(map(statistics.fmean, zip(*found))) for what, found in costs.items()}


def print_default_costs(costs: dict[str, tuple[float, float]]) -> None:
    """Each cost, and after how many queries with a short prompt the adapter has paid."""
    print(f"\n{'SmolLM2-135M, one query at a time':38}{'GFLOP':>10}{'ms':>10}")
    for what, (flops, ms) in costs.items():
        print(f"{what:38}{flops:10.2f}{ms:10.1f}")
    (_, adapter), (_, merging), (_, live), (_, merged), *longer = costs.items()
    both = [a + b for a, b in zip(adapter, merging)]
    for what, long in longer:
        for name, once, short in (("", adapter, live), (" merged", both, merged)):
            said = [f"{math.ceil(made / (b - a)):,} by {unit}" if b > a else f"never by {unit}"
                    for made, a, b, unit in zip(once, short, long, ("FLOPs", "time"))]
            print(f"an adapter{name} pays against {what.removeprefix('query: ')} after how many "
                  f"queries: {', '.join(said)}")


def main() -> None:
    parser = Parser("The paper's cost of a query, and every matmul counted.")
    parser.prog = "python -m experiments.cost"
    parser.parse_args()

    found = {arch: query_cost(arch, DESCRIPTION, PROMPT, EXAMPLES) for arch in HEADS}
    print(f"{'TFLOPs':38}{'paper':>10}" + "".join(f"{'with ' + arch:>10}" for arch in found))
    for name, paper in PAPER_COST.items():
        print(f"{name:38}{paper:10.6f}" + "".join(f"{row[name]:10.6f}" for row in found.values()))
    gflops = ", ".join(f"{arch} {1000 * row['hypernetwork']:.1f}" for arch, row in found.items())
    print(f"hypernetwork {gflops} GFLOP, not the paper's 0.005")
    print_default_costs(default_costs())


if __name__ == "__main__":
    run(main)
