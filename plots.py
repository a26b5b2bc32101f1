"""Reconstruction runs as one table and one picture (arXiv 2506.06105, Table 1 and Figure 3).

    python plots.py out/table1/*                                     # medians over seeds
    python plots.py out/figure3/* --figure results/compression.png   # needs matplotlib

Reads what `train.py --mode recon` leaves in its folder: config.json, results_library.json and the
size of t2l.safetensors.
"""
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from data.files import Parser, UserError, read_json, run


@dataclass(frozen=True)
class Run:
    """One recon run: what was varied, and what came out. Scores in %, means over the tasks."""
    variant: str                     # such as "L, one-hot" or "S, canonical"
    loras: int                       # how many were to be reconstructed
    library_bytes: int
    t2l_bytes: int
    base: float
    oracle: float
    average: float
    own: float                       # with training wordings
    held_out: float                  # with held-out wordings; one-hot: nan
    another: float
    error: float                     # ‖ΔW - ΔW*‖ / ‖ΔW*‖
    average_error: float


def read_run(folder: Path) -> Run:
    config, found = read_json(folder / "config.json"), read_json(folder / "results_library.json")
    if "library" not in config or f"T2L {folder.name}" not in found["distances"]:
        raise UserError(f"{folder} is not as train.py --mode recon left it (other mode? renamed?)")
    t2l, scores = config["t2l"], found["scores"]
    means = {label: statistics.mean(score.values()) for label, score in scores.items()}
    name = f"T2L {folder.name}"
    flags = [config["arch"], *(["one-hot"] if config["one_hot"] else []),
             *(["canonical"] if config["canonical"] else []),
             *(["ΔW"] if config["recon_space"] == "delta" else []),
             *(["from another T2L"] if config["init"] else [])]
    numbers = t2l["n_layers"] * t2l["rank"] * sum(a + b for a, b in t2l["modules"].values())
    n = len(config["library"])
    return Run(", ".join(flags), n, 2 * n * numbers, (folder / "t2l.safetensors").stat().st_size,
               means["base"], means["oracle"], means["average LoRA"],
               means[f"{name}, training wording"],
               means.get(f"{name}, held-out wording", float("nan")),
               means.get(f"{name}, another task's", float("nan")), found["distances"][name][2],
               found["distances"][f"{name}: average LoRA"][2])


def table(runs: list[Run]) -> None:
    """A Markdown row for each variant and library: medians over its runs, and their range."""
    groups = defaultdict(list)
    for r in runs:
        groups[r.loras, r.variant].append(r)

    def cell(group: list[Run], key: str, digits: int) -> str:
        values = sorted(getattr(r, key) for r in group)
        if len(values) == 1 or values[0] != values[0]:
            return f"{values[0]:.{digits}f}".replace("nan", "–")
        middle, low, high = statistics.median(values), values[0], values[-1]
        return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    print("| LoRAs | T2L | runs | oracle | T2L, training wording | held-out | another task's | "
          "average LoRA | base | error of ΔW | … of the average |")
    print("|" + "---|" * 11)
    for (loras, variant), group in sorted(groups.items()):
        cells = [cell(group, key, 1) for key in ("oracle", "own", "held_out", "another", "average",
                                                 "base")]
        cells += [cell(group, key, 3) for key in ("error", "average_error")]
        print(f"| {loras} | {variant} | {len(group)} | " + " | ".join(cells) + " |")


def figure(runs: list[Run], path: Path) -> None:
    """Error of ΔW, and share of the oracles' score kept, against the size of the library."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("--figure needs matplotlib: pip install -r requirements-dev.txt") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for i, variant in enumerate(sorted({r.variant for r in runs})):
        points = defaultdict(list)
        for r in runs:
            if r.variant == variant:
                points[r.library_bytes / 2 ** 20].append(r)
        size = statistics.mean(r.t2l_bytes for r in runs if r.variant == variant) / 2 ** 20
        x, groups = zip(*sorted(points.items()))
        style = {"marker": "os^v"[i % 4], "label": f"{variant}: {size:.1f} MiB"}
        left.plot(x, [statistics.median(r.error for r in group) for group in groups], **style)
        right.plot(x, [statistics.median(100 * r.own / r.oracle for r in group)
                       for group in groups], **style)
    loras = sorted({(r.library_bytes / 2 ** 20, r.loras) for r in runs})
    for axes, label in ((left, "‖ΔW − ΔW*‖ / ‖ΔW*‖"),
                        (right, "share of the oracles' score kept, %")):
        axes.set(xscale="log", xlabel="the library, MiB (LoRAs)", ylabel=label, ylim=(0, None))
        axes.set_xticks([size for size, _ in loras], [f"{size:.0f} ({n})" for size, n in loras])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4,
               frameon=False)
    fig.savefig(path, dpi=120)


def main() -> None:
    parser = Parser("Table and picture of many reconstruction runs.")
    parser.add_argument("runs", nargs="+", metavar="DIR", help="folders of train.py --mode recon")
    parser.add_argument("--figure", metavar="FILE", default=None, help="also draw into this file")
    args = parser.parse_args()
    runs = [read_run(Path(folder)) for folder in args.runs]
    table(runs)
    if args.figure:
        figure(runs, Path(args.figure))
        print(f"{len(runs)} runs; {args.figure} written")
    else:
        print(f"{len(runs)} runs")


if __name__ == "__main__":
    run(main)
