"""A run's losses; reconstruction runs as one table and one picture; the README's picture
(arXiv 2506.06105, Table 1 and Figure 3; the controls of section 5).

    python -m experiments.plots out/sft                              # → out/sft/log.svg
    python -m experiments.plots out/table1/*                         # medians over seeds
    python -m experiments.plots out/figure3/* --figure experiments/results/compression.png
    python -m experiments.plots --mixing out/eval experiments/results/mixing.png
    python -m experiments.plots --overview experiments/results/overview.svg

The first reads log.jsonl of train.py --mode sft or mtlora. The next two read what `train.py --mode
recon` and then `experiments.compare` leave in a folder: config.json, results_library.json and the
size of t2l.safetensors. --mixing reads what experiments.mixing leaves in its folder; the last reads
results.json of the committed checkpoint. Pictures need matplotlib. Reading order: a run's losses, a
reconstruction run, the table, its picture, adapters mixed, the README's picture, the command.
"""
import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from math import nan
from pathlib import Path
from types import ModuleType

from t2l import CHECKPOINT
from utils.cli import Parser, UserError, run
from utils.files import atomic_folder, read_json
from utils.run_folder import MEAN_OF, step_lines
from utils.stats import interval, mean


def load_matplotlib() -> ModuleType:
    """matplotlib, which only the pictures need; UserError where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("pictures need matplotlib: "
                        "pip install -r requirements-dev.txt") from None
    return matplotlib


# ------------------------------------------------------------------------- a run's losses

def draw_log(folder: Path) -> Path:
    """Draw the training loss of every step, its running mean, and the validation loss into
    log.svg, which lies beside the log; returns its path."""
    log = folder / "log.jsonl"
    rows = [json.loads(line) for _, line in step_lines(log)]
    if not rows:
        raise UserError(f"{log} has no step of a run; expected a folder of train.py --mode sft or "
                        "mtlora")

    load_matplotlib()
    from matplotlib.figure import Figure
    steps, losses = [row["step"] + 1 for row in rows], [row["loss"] for row in rows]
    running = [mean(losses[max(0, i + 1 - MEAN_OF):i + 1]) for i in range(len(losses))]
    checked = [(row["step"] + 1, row["validation_loss"]) for row in rows
               if "validation_loss" in row]

    axes = (fig := Figure(figsize=(7, 3.8), layout="constrained")).add_subplot()
    axes.plot(steps, losses, color=EDGE, lw=0.7, label="training, each step")
    axes.plot(steps, running, color=INK, label=f"training, mean of {MEAN_OF} steps")
    if checked:
        axes.plot(*zip(*checked), color=BLUE, marker="o", ms=3, label="validation")
    axes.set(xlabel="step", ylabel="loss of an answer's token", ylim=(0, None), title=folder.name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with atomic_folder(folder) as scratch:
        fig.savefig(scratch / "log.svg", metadata={"Date": None})
    return folder / "log.svg"


# ------------------------------------------------------------------- one reconstruction run

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
    other_task: float
    error: float                     # ‖ΔW - ΔW*‖ / ‖ΔW*‖
    average_error: float


def read_run(folder: Path) -> Run:
    """UserError where the folder is not one that was trained, compared and left with its name."""
    # What was run.
    config, found = read_json(folder / "config.json"), read_json(folder / "results_library.json")
    name = f"T2L {folder.name}"
    if "library" not in config or name not in found["distances"]:
        raise UserError(f"{folder} is not as train.py --mode recon and experiments.compare left it "
                        "(other mode? renamed?)")
    flags = [config["arch"], *(["one-hot"] if config["one_hot"] else []),
             *(["canonical"] if config["canonical"] else []),
             *(["ΔW"] if config["recon_space"] == "delta" else []),
             *(["from another T2L"] if config["init"] else [])]
    t2l, n = config["t2l"], len(config["library"])
    numbers = t2l["n_layers"] * t2l["rank"] * sum(a + b for a, b in t2l["modules"].values())

    # What came out.
    means = {row: mean(score.values()) for row, score in found["scores"].items()}
    return Run(variant=", ".join(flags), loras=n, library_bytes=2 * n * numbers,
               t2l_bytes=(folder / "t2l.safetensors").stat().st_size,
               base=means["base"], oracle=means["oracle"], average=means["average LoRA"],
               own=means[f"{name}, training wording"],
               held_out=means.get(f"{name}, held-out wording", float("nan")),
               other_task=means.get(f"{name}, another task's", float("nan")),
               error=found["distances"][name][2],
               average_error=found["distances"][f"{name}: average LoRA"][2])


# -------------------------------------------------------------------- the table and its picture

def cell(group: list[Run], key: str, digits: int) -> str:
    """The median over some runs and their range, or the one number; "–" for none."""
    values = sorted(getattr(r, key) for r in group)
    if len(values) == 1 or values[0] != values[0]:
        return f"{values[0]:.{digits}f}".replace("nan", "–")
    middle, low, high = statistics.median(values), values[0], values[-1]
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(runs: list[Run]) -> None:
    """A Markdown row for each variant and library: medians over its runs, and their range."""
    groups = defaultdict(list)
    for r in runs:
        groups[r.loras, r.variant].append(r)

    print("| LoRAs | T2L | runs | oracle | T2L, training wording | held-out | another task's | "
          "average LoRA | base | error of ΔW | … of the average |")
    print("|" + "---|" * 11)
    for (loras, variant), group in sorted(groups.items()):
        cells = [cell(group, key, 1) for key in ("oracle", "own", "held_out", "other_task",
                                                 "average", "base")]
        cells += [cell(group, key, 3) for key in ("error", "average_error")]
        print(f"| {loras} | {variant} | {len(group)} | " + " | ".join(cells) + " |")


def figure(runs: list[Run], path: Path) -> None:
    """Error of ΔW, and share of the oracles' score kept, against the size of the library."""
    load_matplotlib().use("Agg")
    import matplotlib.pyplot as plt
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")

    # A line for each variant.
    for i, variant in enumerate(sorted({r.variant for r in runs})):
        points = defaultdict(list)
        for r in runs:
            if r.variant == variant:
                points[r.library_bytes / 2 ** 20].append(r)
        size = mean(r.t2l_bytes for r in runs if r.variant == variant) / 2 ** 20
        x, groups = zip(*sorted(points.items()))
        marker, named = "os^v"[i % 4], f"{variant}: {size:.1f} MiB"
        left.plot(x, [statistics.median(r.error for r in group) for group in groups],
                  marker=marker, label=named)
        right.plot(x, [statistics.median(100 * r.own / (r.oracle or nan) for r in group)
                       for group in groups], marker=marker, label=named)

    # Axes and legend.
    loras = sorted({(r.library_bytes / 2 ** 20, r.loras) for r in runs})
    for axes, ylabel in ((left, "‖ΔW − ΔW*‖ / ‖ΔW*‖"),
                        (right, "share of the oracles' score kept, %")):
        axes.set(xscale="log", xlabel="the library, MiB (LoRAs)", ylabel=ylabel, ylim=(0, None))
        axes.set_xticks([size for size, _ in loras], [f"{size:.0f} ({n})" for size, n in loras])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4,
               frameon=False)
    fig.savefig(path, dpi=120)


# ------------------------------------------------------------------------- adapters mixed

def draw_mixing(folder: Path, path: Path) -> None:
    """Strength, wordings averaged, the way between two descriptions by code and by ΔW: a panel
    each, from mixing_*.json of experiments.mixing, lines of means in %."""
    found = {name: {column: {row: mean(by_task.values()) for row, by_task in rows.items()}
                    for column, rows in read_json(folder / f"mixing_{name}.json").items()}
             for name in ("strength", "wordings", "between")}
    load_matplotlib()
    from matplotlib.figure import Figure
    panels = (fig := Figure(figsize=(11, 6.5), layout="constrained")).subplots(2, 2).flat

    def lines(axes, title: str, xlabel: str, points: dict[str, dict[float, float]]) -> None:
        for name, line in points.items():
            axes.plot(*zip(*sorted(line.items())), marker="o", ms=3, label=name)
        axes.set(title=title, xlabel=xlabel, ylabel="right, %", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)

    lines(next(panels), "strength", "ΔW times", {
        column: {float(row.split()[1]): score for row, score in rows.items()}
        for column, rows in found["strength"].items()})
    wordings = found["wordings"]["unseen"]
    lines(next(panels), "several wordings, unseen tasks", "wordings averaged", {
        of: {int(row.split()[0]): score for row, score in wordings.items()
             if row == "1 wording" or row.endswith(f", {of}")} for of in ("code", "ΔW")})
    for of in ("code", "ΔW"):
        lines(next(panels), f"between two descriptions, by {of}", "share of the second", {
            column: {float(row.split()[0]): score for row, score in rows.items()
                     if row.endswith(f", {of}")} for column, rows in found["between"].items()})
    fig.savefig(path, dpi=110)


# --------------------------------------------------------------------------- the README's picture

INK, GREY, PALE, EDGE = "#1f2937", "#6b7280", "#f3f4f6", "#9ca3af"
BLUE, LIGHT, RULE = "#2563eb", "#dbeafe", "#e5e7eb"
TEXT, SMALL, TITLE = 8.25, 7.5, 10.5                 # points
BARS = {"base model": "base model",                  # how a row's label in results.json ends →
        "own description": "own description",        # what the picture calls it
        "another task's": "another task's",
        "another's on this input": "another's, same input",
        "random words": "random words",
        "mean embedding": "mean embedding"}


def overview(scores: dict[str, dict[str, float]], path: Path) -> None:
    """Draw the README's picture, 1000 x 380 px; the same `scores` give the same bytes of SVG.

    `scores` is {label of a row: {task: exact match in %}}, as eval.py writes them, with the base
    model and one T2L under its controls.
    """
    matplotlib = load_matplotlib()
    from matplotlib.figure import Figure
    fixed = {"svg.hashsalt": "text-to-lora",         # ids that do not change from run to run
             "svg.fonttype": "path",                 # letters as shapes: no font needed to see them
             "font.family": "DejaVu Sans", "font.size": TEXT, "text.color": INK}
    with matplotlib.rc_context(fixed):
        # One unit is one pixel.
        fig = Figure(figsize=(1000 / 96, 380 / 96), facecolor="white")
        axes = fig.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 1000), ylim=(0, 380))
        axes.axis("off")

        draw_adapter(axes)
        draw_use(axes)
        axes.plot([592, 592], [28, 352], color=RULE, lw=1)
        draw_bars(axes, scores)

        # SVG without its date.
        svg = path.suffix == ".svg"
        fig.savefig(path, metadata={"Date": None} if svg else None, dpi=96 if svg else 192)


def box(axes, x: float, y: float, w: float, h: float, text: str = "", face: str = "white",
        edge: str = EDGE, corner: float = 6, color: str = INK, size: float = TEXT,
        weight: str = "normal", style: str = "normal") -> None:
    """A rectangle with rounded corners and a text in its middle."""
    from matplotlib.patches import FancyBboxPatch
    axes.add_patch(FancyBboxPatch((x, y), w, h, f"round,pad=0,rounding_size={corner}",
                                  facecolor=face, edgecolor=edge, linewidth=1))
    axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", linespacing=1.35, color=color,
              fontsize=size, weight=weight, style=style)


def arrow(axes, start: tuple[float, float], end: tuple[float, float], color: str = INK) -> None:
    axes.annotate("", end, start, arrowprops={
        "arrowstyle": "-|>,head_width=0.2,head_length=0.4", "color": color, "lw": 1.2,
        "shrinkA": 0, "shrinkB": 0})


def label(axes, x: float, y: float, text: str, color: str = GREY, size: float = SMALL,
          weight: str = "normal", align: str = "left") -> None:
    axes.text(x, y, text, color=color, fontsize=size, weight=weight, ha=align, va="center",
              linespacing=1.35)


def draw_adapter(axes) -> None:
    """Left half, above: description → encoders → T2L → A and B for each place."""
    # The sentence and its embedding.
    label(axes, 20, 350, "One sentence in, one adapter out", INK, TITLE, "bold")
    label(axes, 20, 319, "description")
    box(axes, 20, 244, 140, 64, "Write the animal\nof the list in\nround brackets.", style="italic")
    arrow(axes, (163, 276), (192, 276))
    box(axes, 195, 244, 92, 64, "MiniLM and\nthe language\nmodel itself", PALE)
    label(axes, 195, 319, "frozen")
    arrow(axes, (290, 276), (337, 276))
    label(axes, 312, 285, "2112", align="center")

    # The hypernetwork and the place.
    box(axes, 340, 244, 96, 64, "T2L", BLUE, BLUE, color="white", weight="bold", size=13)
    label(axes, 340, 319, "hypernetwork, trained", BLUE)
    label(axes, 478, 319, "for each place")
    for y, text in ((284, "layer 1 … 30"), (244, "q_proj, v_proj")):
        box(axes, 478, y, 94, 24, text, size=SMALL)
        arrow(axes, (439, y + 12), (475, y + 12))

    # B (d_out, r) beside A (r, d_in).
    arrow(axes, (388, 241), (388, 207), BLUE)
    box(axes, 351, 150, 13, 53, "B", LIGHT, BLUE, 1, color=BLUE, weight="bold")
    box(axes, 371, 190, 54, 13, "A", LIGHT, BLUE, 1, color=BLUE, weight="bold")
    label(axes, 440, 188, "a LoRA of rank 8,\nA and B for each place")
    arrow(axes, (388, 184), (388, 119), BLUE)


def draw_use(axes) -> None:
    """Left half, below: input → the frozen model with the adapter → answer."""
    # The input and the model.
    label(axes, 20, 104, "input")
    box(axes, 20, 42, 140, 50, "apple, dog, chair,\ngreen, violin", style="italic")
    arrow(axes, (163, 67), (192, 67))
    box(axes, 195, 18, 262, 98, face=PALE)
    label(axes, 209, 67, "language\nmodel", INK, TEXT)
    label(axes, 209, 35, "frozen")

    # Where the adapter goes.
    for y, text in ((72, "q_proj"), (32, "v_proj")):
        box(axes, 290, y, 155, 30)
        label(axes, 302, y + 15, text, INK, TEXT)
        label(axes, 433, y + 15, "W + B A", BLUE, TEXT, "bold", "right")

    # The answer.
    arrow(axes, (460, 67), (489, 67))
    label(axes, 492, 104, "answer")
    box(axes, 492, 42, 80, 50, "(dog)", edge=BLUE, weight="bold", size=TITLE)


def draw_bars(axes, scores: dict[str, dict[str, float]]) -> None:
    """Right half: means over the unseen tasks, with their 95 % intervals."""
    found = {end: list(row.values()) for name, row in scores.items() for end in BARS
             if name == end or name.startswith("T2L") and name.endswith(f", {end}")}
    if missing := [end for end in BARS if end not in found]:
        raise UserError(f"the results have no row that ends in {', '.join(missing)}; expected "
                        "those that eval.py writes")
    intervals = {end: interval(values) for end, values in found.items()}

    # What is shown.
    label(axes, 612, 350, "Does it read the sentence?", INK, TITLE, "bold")
    label(axes, 612, 329, f"exact match in %, mean of {len(found['base model'])} tasks never "
          "trained on")
    label(axes, 612, 254, "T2L with", INK, TEXT)
    label(axes, 612, 24, "The description is in no prompt. In brackets: 95 % interval over tasks.")

    # The bars; `unit` pixels are a percent, so that the numbers beside the longest have room.
    left, unit = 768, 112 / max(1, *(high for _, high in intervals.values()))
    for y, (end, name) in zip((290, 230, 190, 150, 110, 70), BARS.items()):
        middle, (low, high) = mean(found[end]), intervals[end]
        own = end == "own description"
        color, weight = (BLUE, "bold") if own else (INK, "normal")
        axes.barh(y, unit * middle, 20, left=left, color=BLUE if own else EDGE)
        if high > low:
            axes.plot([left + unit * low, left + unit * high], [y, y], color=INK, lw=1.2,
                      marker="|", markersize=6)
        label(axes, left - 8, y, name, INK, TEXT, weight, "right")
        x = left + unit * high + 8
        label(axes, x, y, f"{middle:.1f}", color, TEXT, weight)
        label(axes, x + 34, y, f"[{low:.1f}, {high:.1f}]")
    axes.plot([left, left], [50, 306], color=INK, lw=1)


# ------------------------------------------------------------------------------- the command

def main() -> None:
    # What is wanted.
    parser = Parser("A run's losses; table and picture of reconstruction runs; README's picture.")
    parser.prog = "python -m experiments.plots"
    parser.add_argument("runs", nargs="*", metavar="DIR",
                        help="folders of train.py: of --mode recon, compared, a table; of sft or "
                        "mtlora log.svg%(default).0s")
    parser.add_argument("--figure", metavar="FILE", type=Path,
                        help="draw the runs into this file%(default).0s")
    parser.add_argument("--mixing", metavar=("DIR", "FILE"), nargs=2, type=Path, help="draw what "
                        "experiments.mixing left in DIR into FILE%(default).0s")
    parser.add_argument("--overview", metavar="FILE", type=Path,
                        help="draw the README's picture into this file%(default).0s")
    args = parser.parse_args()
    if not (args.runs or args.overview or args.mixing) or args.figure and not args.runs:
        raise UserError("name folders of train.py, --mixing DIR FILE, or --overview FILE")

    # The table, then the pictures.
    folders = [Path(folder) for folder in args.runs]
    modes = [read_json(folder / "config.json").get("mode") for folder in folders]
    runs = [read_run(folder) for folder, mode in zip(folders, modes) if mode == "recon"]
    logs = [draw_log(folder) for folder, mode in zip(folders, modes) if mode != "recon"]
    if args.figure and not runs:
        raise UserError("--figure is for runs of --mode recon; the others' log.svg is written "
                        "without it")
    if runs:
        table(runs)
    if args.figure:
        figure(runs, args.figure)
    if args.mixing:
        draw_mixing(*args.mixing)
    if args.overview:
        overview(read_json(CHECKPOINT / "results.json")["unseen"], args.overview)

    drawn = [*logs, args.figure, *(args.mixing or ())[1:], args.overview]
    written = [f"{path} written" for path in drawn if path]
    print("; ".join(([f"{len(runs)} runs"] if runs else []) + written))


if __name__ == "__main__":
    run(main)
