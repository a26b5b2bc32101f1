"""What lies beside what in T2L's code (arXiv 2506.06105, Figure 5).

    python -m experiments.codes --figure experiments/results/codes.png       # a minute

For every held-out wording the nearest wording of another task, by cosine: how often is that task of
the same kind, about the same part of the input, in the same form? In what T2L reads, the encoder's
embedding, and in what it makes of it, the code; beside what chance gives. The picture has a point
for each task, its wordings' mean code, in two dimensions by t-SNE (scikit-learn's). In a name like
members_animal_round the kind comes first, the form last, the part between.
"""
import csv
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from data.suite import load_suite
from data.tasks import Suite
from encoder import embed, encoder_for
from experiments.plots import load_matplotlib
from t2l import CHECKPOINT, load_t2l
from utils.cli import Parser, UserError, run
from utils.files import write_json
from utils.neighbours import task_kind
from utils.stats import mean
from utils.weights import checkpoint_folder

GROUPS = {"kind": task_kind, "part": lambda name: name.rpartition("_")[0],
          "form": lambda name: name.rpartition("_")[2]}


def shares(vectors: Tensor, names: list[str], asked: set[str]) -> dict[str, tuple[float, float]]:
    """{kind, part, form: (share in % of the `asked` tasks' wordings whose nearest one of another
    task shares it, what a random other wording would give)}; vectors (wordings, d). A task counts
    where there is another that shares it."""
    vectors, tasks = F.normalize(vectors, dim=-1), sorted(set(names))
    own = torch.tensor([tasks.index(name) for name in names])
    similarity = vectors @ vectors.T
    similarity[own[:, None] == own] = -2                               # its own wordings
    nearest = similarity.argmax(1)

    found = {}
    for group, part_of in GROUPS.items():
        keys = [part_of(name) for name in names]
        of_key, of_task = Counter(keys), Counter(names)
        others = [of_key[key] - of_task[name] for key, name in zip(keys, names)]
        counted = [i for i, name in enumerate(names) if name in asked and others[i]]
        if counted:
            found[group] = (100 * mean(keys[nearest[i]] == keys[i] for i in counted),
                            100 * mean(others[i] / (len(names) - of_task[names[i]])
                                       for i in counted))
    return found


def draw(codes: dict[str, Tensor], unseen: set[str], path: Path) -> None:
    """A point for each task, {name: code (z,)}, in its kind's colour; unseen ones are rings."""
    matplotlib = load_matplotlib()
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise UserError("the picture needs scikit-learn: "
                        "pip install -r requirements-dev.txt") from None
    from matplotlib.figure import Figure
    tsne = TSNE(init="pca", metric="cosine", random_state=0,
                perplexity=min(30, (len(codes) - 1) / 3))
    places = dict(zip(codes, tsne.fit_transform(torch.stack([*codes.values()]).numpy())))

    kinds = sorted({task_kind(name) for name in codes})
    axes = (fig := Figure(figsize=(9, 7.5), layout="constrained")).add_subplot()
    for i, kind in enumerate(kinds):
        color = matplotlib.colormaps["hsv"](i / len(kinds))
        mine = [name for name in codes if task_kind(name) == kind]
        for names, face in (([n for n in mine if n not in unseen], color),
                            ([n for n in mine if n in unseen], "none")):
            axes.scatter([places[n][0] for n in names], [places[n][1] for n in names], s=22,
                         facecolors=face, edgecolors=[color], linewidths=1.2)
        x, y = (sorted(places[n][k] for n in mine)[len(mine) // 2] for k in (0, 1))
        axes.text(x, y, kind, fontsize=8, ha="center", weight="bold")
    axes.set(xticks=[], yticks=[], title="the code of every task; rings: unseen tasks")
    fig.savefig(path, dpi=110)


def report(suite: Suite, spaces: dict[str, Tensor], names: list[str], out: Path) -> str:
    """Print the table, write codes.json and codes.csv into the folder `out`."""
    parts = {"seen": {task.name for task in suite.train},
             "unseen": {task.name for task in suite.unseen}}
    found = {space: {part: shares(vectors, names, asked) for part, asked in parts.items()}
             for space, vectors in spaces.items()}
    write_json(out / "codes.json", found)
    with (out / "codes.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["space", "tasks", "shared", "nearest", "chance"])
        for space, by_part in found.items():
            for part, groups in by_part.items():
                for group, (share, chance) in groups.items():
                    lines.writerow([space, part, group, f"{share:.1f}", f"{chance:.1f}"])
                print(f"{space:10} {part:8}" + "".join(
                    f"  same {group}: {share:.1f} (chance {chance:.1f})"
                    for group, (share, chance) in groups.items()))
    return f"{len(names)} held-out wordings of {len(set(names))} tasks"


def main() -> None:
    parser = Parser("What lies beside what in T2L's code, as a table and as a picture.")
    parser.prog = "python -m experiments.codes"
    parser.folder("--ckpt", "a trained T2L folder", "the committed one for SmolLM2-135M-Instruct")
    parser.folder("--model", "a Hugging Face folder", "SmolLM2-135M-Instruct")
    parser.tasks()
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("out/eval"),
                        help="where the results are written")
    parser.add_argument("--figure", metavar="FILE", type=Path,
                        help="draw the tasks' codes into this file%(default).0s")
    args = parser.parse_args()

    t2l, suite = load_t2l(checkpoint_folder(args.ckpt or CHECKPOINT)), load_suite(args.tasks)
    lines = [(task.name, text) for task in suite.by_name().values() for text in task.held_out]
    names = [name for name, _ in lines]
    embeddings = embed(encoder_for(t2l.cfg, args.model), [text for _, text in lines], "embedding")
    with torch.no_grad():
        codes = t2l.task_encoder.mlp(embeddings)
    written = ""
    if args.figure:
        means = {name: codes[[i for i, other in enumerate(names) if other == name]].mean(0)
                 for name in dict.fromkeys(names)}
        draw(means, {task.name for task in suite.unseen}, args.figure)
        written = f"; {args.figure} written"
    print(report(suite, {"embedding": embeddings, "code": codes}, names, args.out) + written)


if __name__ == "__main__":
    run(main)
