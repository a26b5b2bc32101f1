"""What follows from having a hypernetwork: adapters of several sentences, halved, doubled, added.

    python -m experiments.mixing wordings          # several wordings of one task, averaged
    python -m experiments.mixing between           # from one task's description to another's
    python -m experiments.mixing strength          # ΔW times 0 to 2
    python -m experiments.mixing sum               # two sentences: adapters added, or one text
    python -m experiments.mixing steering          # a bare answer or a sentence, side by side
    python -m experiments.plots --mixing out/eval mixing.png      # the first three as a picture

Each is a table of exact match, most of it on tasks that were trained on. What is averaged or moved
between is the code, the few numbers that all heads read, or ΔW (lora.mix_loras). Reading order:
codes, then the five, the command.
"""
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor, nn

from data.kinds import FORMS, JOINS
from data.tasks import Sample, Suite, seen_samples, test_samples
from encoder import Encoder, embed
from eval import Row, ask, load_asked, load_checkpoint
from experiments.baselines import adapted, report_rows
from lora import LoRA, mix_loras
from mistral import Mistral
from t2l import CHECKPOINT, T2L, generate_lora
from utils.cli import EvalParser, UserError, run
from utils.peft import check_model
from utils.tokenizer import Tokenizer
from utils.weights import checkpoint_folder

Table = tuple[list[Row], dict[str, list[Sample]]]         # the rows, and what each column asks
PAIRS = 24                                                # of tasks, to move between
FORMS_AND_JOINS = FORMS.keys() | JOINS.keys()             # how a task's name may end: how to write
PARTS = {"positions_second": "Write the second word of the list.",
         "positions_last": "Write the last word of the list.",
         "members_animal": "Write the animal of the list.",
         "members_vehicle": "Write the vehicle of the list.",
         "details_day": "Write the day of the week.", "details_place": "Write the place.",
         "details_who": "Write who it is about.", "details_things": "Write the things.",
         "fields_city": "Write the city.", "fields_first": "Write the first name.",
         "fields_age": "Write the age.", "fields_family": "Write the family name."}
SAID = {"upper": "Write the answer in capital letters.",
         "round": "Put the answer in round brackets.",
         "quoted": "Put the answer in double quotation marks.",
         "bold": "Put two asterisks before and after the answer.",
         "exclaimed": "Put an exclamation mark after the answer.",
         "initial": "Write only the first letter of the answer."}


# ------------------------------------------------------------------------------------- codes

@dataclass
class Reader:
    """A T2L with its encoder; texts → codes (b, z) → adapters."""
    t2l: T2L
    encoder: Encoder

    def __post_init__(self):
        # The same T2L behind its task encoder: it is given codes in place of embeddings.
        width = self.t2l.task_encoder.mlp[0].out_features
        self.behind = copy.deepcopy(self.t2l)
        self.behind.task_encoder["mlp"] = nn.Identity()
        self.behind.cfg = replace(self.t2l.cfg, emb_size=width)

    @torch.no_grad()
    def code(self, texts: list[str]) -> Tensor:
        return self.t2l.task_encoder.mlp(embed(self.encoder, texts))

    @torch.no_grad()
    def of_code(self, code: Tensor) -> LoRA:
        return self.behind.adapters(code)

    def lora(self, texts: list[str]) -> LoRA:
        return generate_lora(self.t2l, texts, self.encoder)

    def mixed(self, texts: list[list[str]], weights: list[float], of: str) -> LoRA:
        """An adapter for each sample: texts[k] are its k-th sentences, weights[k] what those
        count, in the "code" or in "ΔW"."""
        if of == "code":
            return self.of_code(sum(w * self.code(lines) for lines, w in zip(texts, weights)))
        return mix_loras([(self.lora(lines), w) for lines, w in zip(texts, weights)])


def row(label: str, adapters: Callable[[list[Sample]], LoRA]) -> Row:
    return Row(label, "lora", lambda sample, rng: sample.description, adapters)


# ---------------------------------------------------------------------------------- the five

def average_wordings(reader: Reader, suite: Suite, per_task: int) -> Table:
    """One to eight held-out wordings of an unseen task, the mean of their codes or of their ΔW."""
    tasks = [task for task in suite.unseen if len(task.held_out) >= 8]
    if not tasks:
        raise UserError("wordings asks unseen tasks of 8 held-out wordings; --tasks has none")
    held_out = {task.name: task.held_out for task in tasks}

    def mean_of(n: int, of: str) -> Row:
        def adapters(samples: list[Sample]) -> LoRA:
            lines = [held_out[s.task] for s in samples]
            first = [line.index(s.description) for line, s in zip(lines, samples)]
            texts = [[line[(i + k) % len(line)] for line, i in zip(lines, first)]
                     for k in range(n)]                          # the sample's own, then the next
            return reader.mixed(texts, [1 / n] * n, of)
        return row(f"{n} wordings, {of}" if n > 1 else "1 wording", adapters)

    return ([mean_of(1, "code"), *(mean_of(n, of) for of in ("code", "ΔW") for n in (2, 4, 8))],
            {"unseen": test_samples(tasks, per_task, lambda t: t.held_out)})


def move_between(reader: Reader, suite: Suite, per_task: int) -> Table:
    """From one trained task's description to that of another, which asks for another part of the
    input in another form; the columns are the four tasks of these two parts and forms."""
    known = suite.by_name()
    cells = sorted(tuple(t.name.rsplit("_", 1)) for t in suite.train             # (part, form)
                   if t.name.split("_")[-1] in FORMS_AND_JOINS)
    squares = [(a, b) for a, b in combinations(cells, 2)
               if a[0] != b[0] and a[1] != b[1] and a[0].split("_")[0] == b[0].split("_")[0]
               and {f"{a[0]}_{b[1]}", f"{b[0]}_{a[1]}"} <= known.keys()]
    squares = squares[::max(1, len(squares) // PAIRS)][:PAIRS]
    if not squares:
        raise UserError("between asks tasks of the built-in suite; leave out --tasks")
    wanted = {"the first's answer": lambda a, b: f"{a[0]}_{a[1]}",
              "the second's": lambda a, b: f"{b[0]}_{b[1]}",
              "part 1, form 2": lambda a, b: f"{a[0]}_{b[1]}",
              "part 2, form 1": lambda a, b: f"{b[0]}_{a[1]}"}

    # The same inputs in every column: those that all four tasks test, with four answers.
    asked: dict[str, list[Sample]] = {column: [] for column in wanted}
    for a, b in squares:
        answers = {column: dict(known[name(a, b)].test) for column, name in wanted.items()}
        shared = [text for text in answers["the second's"]
                  if len({given.get(text) for given in answers.values()} - {None}) == 4]
        for column, given in answers.items():
            asked[column] += [Sample(" ".join(("_".join(a), "_".join(b))), "", text, given[text])
                              for text in shared[:per_task]]

    def at(share: float, of: str) -> Row:
        def adapters(samples: list[Sample]) -> LoRA:
            pairs = [s.task.split() for s in samples]
            texts = [[known[pair[i]].held_out[0] for pair in pairs] for i in (0, 1)]
            return reader.mixed(texts, [1 - share, share], of)
        return row(f"{share:.2f} of the second, {of}", adapters)
    return [at(k / 6, of) for of in ("code", "ΔW") for k in range(7)], asked


def scale_strength(reader: Reader, suite: Suite, per_task: int) -> Table:
    """ΔW times 0 to 2."""
    def times(x: float) -> Row:
        return row(f"strength {x:g}", lambda samples: mix_loras(
            [(reader.lora([s.description for s in samples]), x)]))
    return ([times(k / 4) for k in range(9)],
            {"unseen": test_samples(suite.unseen, per_task, lambda t: t.held_out),
             "seen": seen_samples(suite, per_task)})


def add_two(reader: Reader, suite: Suite, per_task: int) -> Table:
    """Two sentences, the sum of their adapters, and one adapter of both as one text: a part of the
    input and a form, a part and a letter of it, two parts (joined in any way)."""
    known = suite.by_name()
    said = {f"{part}_{form}": (PARTS[part], SAID[form]) for part in PARTS for form in SAID}
    for name in known:
        if found := re.fullmatch(r"(couples|records)_([a-z]+)_([a-z]+)_commas", name):
            kind = "details" if found[1] == "couples" else "fields"
            parts = [f"{kind}_{part}" for part in found.groups()[1:]]
            if set(parts) <= PARTS.keys():
                said[name] = PARTS[parts[0]], PARTS[parts[1]]
    samples = test_samples([known[name] for name in known if name in said], per_task,
                           lambda t: t.held_out)
    asked: dict[str, list[Sample]] = {"part and form": [], "part, a letter": [], "two parts": []}
    for s in samples:
        if s.task.endswith("_commas"):
            a, b = s.answers[0].split(", ")
            joined = [join(pair) for join in JOINS.values() for pair in ((a, b), (b, a))]
            asked["two parts"].append(replace(s, answers=(*s.answers, *joined)))
        else:
            letter = s.task.endswith("_initial")
            asked["part, a letter" if letter else "part and form"].append(s)
    if not all(asked.values()):
        raise UserError("sum asks tasks of the built-in suite; leave out --tasks")

    def sentences(samples: list[Sample]) -> list[list[str]]:
        return [[said[s.task][i] for s in samples] for i in (0, 1)]

    def added(first: float, second: float, label: str) -> Row:
        return row(label, lambda samples: reader.mixed(sentences(samples), [first, second], "ΔW"))
    return [row("one of the task's own wordings", lambda samples: reader.lora(
                [s.description for s in samples])),
            row("both sentences, as one text", lambda samples: reader.lora(
                [" ".join(pair) for pair in zip(*sentences(samples))])),
            added(1, 1, "the sum of both adapters"), added(0.5, 0.5, "half the sum"),
            added(1, 0, "the first sentence alone"),
            added(0, 1, "the second alone")], asked


def steer(reader: Reader, suite: Suite, per_task: int) -> Table:
    """Two wordings for the words of a list: one asks for the bare word, one for a sentence."""
    tasks = [task for name, task in suite.by_name().items()
             if re.fullmatch(r"positions_\w+_sentence", name)]
    if not tasks:
        raise UserError("steering asks tasks of the built-in suite; leave out --tasks")
    said = {task.name: task.name.split("_")[1].replace("middle", "third") for task in tasks}
    samples = test_samples(tasks, 4 * per_task, lambda t: t.held_out)

    def asks(label: str, text: str) -> Row:
        return row(label, lambda samples: reader.lora([text.format(said[s.task]) for s in samples]))
    return ([asks("asked for the word", "Write the {} word of the list, without anything else."),
             asks("asked for a sentence", "Write a sentence, It is …, with the {} word of the "
                                          "list.")],
            {"in a sentence": samples,
             "the bare word": [replace(s, answers=tuple(
                 a.removeprefix("It is ").removesuffix(".") for a in s.answers)) for s in samples]})


EXPERIMENTS = {"wordings": average_wordings, "between": move_between, "strength": scale_strength,
               "sum": add_two, "steering": steer}
AGAINST = {"strength": "strength 1"}                      # the others' first row is their measure


# ------------------------------------------------------------------------------- the command

def side_by_side(rows: list[Row], samples: list[Sample], model: Mistral,
                 tokenizer: Tokenizer) -> Iterator[str]:
    """What every row answers to a few inputs."""
    some = list({s.task: s for s in samples}.values())[:4]
    given = [{s: answer for s, answer in ask(one, some, model, tokenizer, room=2)} for one in rows]
    for s in some:
        yield f"\n{s.task}: {s.input}"
        yield from (f"  {one.label:32} {answers[s]}" for one, answers in zip(rows, given))


def main() -> None:
    parser = EvalParser("Adapters of several sentences: averaged, moved between, scaled, added.",
                        "a folder of train.py --mode sft or recon", "the committed one",
                        "test inputs per task")
    parser.prog = "python -m experiments.mixing"
    parser.add_argument("experiment", choices=list(EXPERIMENTS), help="which of them")
    parser.tasks()
    args = parser.parse_args()
    if len(args.ckpt or [""]) > 1:
        raise UserError(f"--ckpt {' '.join(args.ckpt)}: give one folder")
    suite, model, tokenizer, encoder_of = load_asked(args)
    folder = checkpoint_folder(args.ckpt[0] if args.ckpt else CHECKPOINT)
    t2l, encoder, config = load_checkpoint(folder, encoder_of)
    check_model(t2l.cfg, model.cfg)

    if config.get("describe") == "both":
        raise UserError(f"{folder} was trained with --describe both: the right description in the "
                        "prompt would hide what a mix does")
    rows, asked = EXPERIMENTS[args.experiment](Reader(t2l, encoder), suite, args.eval_samples)
    line = report_rows([adapted(one, model, tokenizer) for one in rows], asked,
                       args.out / f"mixing_{args.experiment}",
                       AGAINST.get(args.experiment, rows[0].label))
    if args.experiment in ("sum", "steering"):
        columns = list(asked.values())
        for samples in columns if args.experiment == "sum" else columns[:1]:       # alike
            print(*side_by_side(rows, samples, model, tokenizer), sep="\n")
    print(line)


if __name__ == "__main__":
    run(main)
