"""What a query costs with Mistral-7B, in TFLOPs: the paper's table, and every matmul counted
(arXiv 2506.06105, the cost of a query against in-context learning).

    python -m experiments.cost           # seconds; the models have no weights

The paper states no lengths. 36 tokens of description, 58 of prompt and 293 with three examples make
three of its rows agree; the hypernetwork's does not, and depends on no length.
"""
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from encoder import Encoder, EncoderConfig
from experiments.speed import MISTRAL_7B, fresh_t2l
from mistral import Mistral
from t2l import HEADS
from utils.cli import Parser, run

PAPER_COST = {"description's embedding": 0.029, "hypernetwork": 0.000005, "language model": 0.827,
              "… with three examples in the prompt": 4.177}           # TFLOPs, Mistral-7B
DESCRIPTION, PROMPT, EXAMPLES = 36, 58, 293                           # tokens
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


if __name__ == "__main__":
    run(main)
