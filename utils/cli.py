"""What every command shares: a person's mistake is one line, and flags look alike everywhere.

Order: errors, the parser, how a command runs, the flags of train.py and what contradicts itself.
"""
import argparse
import difflib
import errno
import os
import random
import re
import shutil
import signal
import sys
import sysconfig
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.modules import MODULES, TARGETS, in_order
from utils.schema import misfits, number, optional, whole


COMPILE_FROM = 1000        # steps: compiling was earned back after 50 to 531
LOAD_ALLOWED = 0.7         # of other processes, in CPUs: a browser, the shell's own start


class UserError(ValueError):
    """A mistake that a person can mend: names the file, what was found, what was expected."""


# ------------------------------------------------------------------------------- the parser

class Parser(argparse.ArgumentParser):
    """Every option shows its default in --help; a wrong command line is a UserError."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False,
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def folder(self, flag: str, text: str, default: str) -> None:
        """A folder that is None unless given; `default` says what then is used."""
        self.add_argument(flag, metavar="DIR", default=None,
                          help=f"{text} (default: {default})%(default).0s")

    def models(self, encoder: str) -> None:
        """Which two models, where and how precisely; `encoder` says what is used unless given."""
        self.folder("--model", "a Hugging Face folder, or org/name as on its hub",
                    "SmolLM2-135M-Instruct")
        self.folder("--encoder", "a Hugging Face encoder folder; base: the language model's last "
                    "state, as in the paper; states: means of its states at three depths; "
                    "FOLDER+states: both", encoder)
        self.add_argument("--device", type=device_name, default="cpu",
                          help="where the language model runs and training happens: cpu, cuda, "
                          "cuda:N or mps")
        self.add_argument("--threads", type=int, metavar="N",
                          help="CPU threads (default: PyTorch's own choice)%(default).0s")
        self.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default=None,
                          help="the language model's precision, and that of what is saved; what is "
                          "trained is float32; float16: not for training (default: bfloat16; "
                          "float32 for small models on CPUs that only emulate it)%(default).0s")

    def tasks(self) -> None:
        self.add_argument("--tasks", metavar="DIR", nargs="+", default=None,
                          help="folders of task files; the word default is the built-in suite, "
                          "which ./default is not (default: the built-in suite)%(default).0s")

    def parse_args(self, *given) -> argparse.Namespace:
        check_flag_names(sys.argv[1:] if not given else given[0], self)
        args = super().parse_args(*given)
        if getattr(args, "threads", None) is not None:
            use_threads(args.threads)
        if hasattr(args, "device"):
            check_device(args.device)
            if args.device == "mps":
                warn("--device mps: never tried by those who wrote this; expect surprises")
        return args

    def renamed(self, flag: str, new: str) -> None:
        """An old flag, which ends in one line that gives the new one."""

        class Renamed(argparse.Action):
            def __call__(self, *_):
                raise UserError(f"{flag} has a new name: {new}")
        self.add_argument(flag, nargs="*", action=Renamed, help=argparse.SUPPRESS)

    def error(self, message: str):
        raise UserError(f"{message}; see --help")


# What other projects call a flag → what it is called here.
ALIASES = {
    "--lr": "learning-rate learningrate max-lr peak-lr",
    "--out": "out-dir output-dir outdir output save-dir save-path output-path out-path",
    "--steps": "num-steps n-steps max-steps train-steps num-train-steps iters max-iters num-iters "
               "iterations epoch epochs num-epochs n-epochs max-epochs num-train-epochs",
    "--batch-size": "bs bsz batch batchsize train-batch-size per-device-train-batch-size "
                    "micro-batch-size n-batch",
    "--model": "model-name model-dir model-path model-name-or-path base-model base-model-name llm",
    "--encoder": "emb-model embedding-model encoder-name text-encoder",
    "--tasks": "task-dir tasks-dir data data-dir data-path dataset datasets train-file train-ds",
    "--ckpt": "checkpoint checkpoint-dir checkpoint-path ckpt-dir ckpt-path hypermod t2l",
    "--init": "init-from pretrained from-pretrained warm-start finetune",
    "--resume": "resume-from resume-from-checkpoint continue",
    "--rank": "r lora-r lora-rank", "--alpha": "lora-alpha",
    "--threads": "num-threads n-threads nthreads num-workers n-jobs jobs cpus",
    "--seed": "random-seed manual-seed", "--device": "gpu cuda use-cuda accelerator",
    "--dtype": "precision torch-dtype fp16 bf16 fp32 half",
    "--save-every": "save-steps save-interval checkpoint-every save-freq",
    "--eval-samples": "num-eval-samples n-eval n-samples num-samples max-samples limit",
    "--activation-checkpointing": "gradient-checkpointing grad-checkpoint",
    "--prompt": "input text question query", "--loras": "lora-dir lora-dirs adapters"}


def check_flag_names(words: Iterable[str], parser: argparse.ArgumentParser) -> None:
    """UserError for a flag that the command does not know, with the one that may be meant."""
    known = parser._option_string_actions
    for word in words:
        if word == "--":
            return
        flag = word.split("=")[0]
        if flag.startswith("--") and not any(c.isspace() for c in flag) \
                and not any(other.startswith(flag) for other in known):     # argparse refuses it
            shown = [f for f, action in known.items() if action.help is not argparse.SUPPRESS]
            meant = likely_flag(flag, shown)
            raise UserError(f"there is no flag {flag}; "
                            + (f"did you mean {meant}?" if meant else "see --help")
                            + (" A run is told its steps, not epochs" if "epoch" in flag.lower()
                               and meant == "--steps" else ""))


def likely_flag(flag: str, shown: list[str]) -> str:
    """Which of the flags `shown` in --help a wrong one may mean; "" for none."""
    plain = flag.lower().replace("_", "-")
    if plain in shown:
        return plain
    of_alias = {alias: meant for meant, names in ALIASES.items() for alias in names.split()}
    if (meant := of_alias.get(plain.strip("-"))) in shown:
        return meant
    return next(iter(difflib.get_close_matches(plain, shown, 1, 0.7)), "")


def run(main: Callable[[], None]) -> None:
    """Run a command. A UserError becomes one line on stderr and exit code 2, without a traceback;
    a warning becomes one line, too; an interruption says what is saved, if anything is. What a
    console or file cannot show is written as \\u65e5."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"warning: {one_line(message)}\n"
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Output, streams)
    try:
        with on_interrupt(interrupt):
            main()
        sys.stdout.flush()
    except (UserError, OSError) as error:           # a full disk, a folder that is not yours …
        full = getattr(error, "errno", None) == errno.ENOSPC
        note(f"error: {one_line(error)}" + full * "; make room, then start it again")
        sys.exit(2)
    except KeyboardInterrupt as stop:
        note(": ".join(["interrupted", *map(str, stop.args)]))
        sys.exit(130)
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = streams


class Output:
    """stdout or stderr, whose reader may have left (… | head -1): the command goes on, and what it
    prints is dropped."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def attempt(self, action: Callable) -> None:
        try:
            action()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def interrupt(*_) -> None:
    raise KeyboardInterrupt


@contextmanager
def on_interrupt(handler: Callable) -> Iterator[None]:
    """Ctrl-C, and what ends a process politely or closes its terminal, call `handler` meanwhile;
    but not those that are to be ignored, as nohup wants it."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    before = {n: signal.getsignal(n) for n in numbers}
    if threading.current_thread() is not threading.main_thread():
        before = {}                                 # only the main thread may say so
    before = {n: old for n, old in before.items() if old not in (None, signal.SIG_IGN)}
    for n in before:
        signal.signal(n, handler)
    try:
        yield
    finally:
        for n, old in before.items():
            signal.signal(n, old)


def typed_text(given: str) -> str:
    """A text of the command line; a path stays as it is, for it may be any bytes.

    Bytes that the locale does not know, which Python hands on as surrogates, are read as UTF-8, or
    else as cp1252: a Latin-1 terminal's.
    """
    try:
        return os.fsencode(given).decode("utf-8")
    except UnicodeDecodeError:
        return os.fsencode(given).decode("cp1252", "replace")
    except UnicodeEncodeError:                       # Windows: half a surrogate pair
        return given.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def task_name(given: str) -> str:
    """A task's name, composed as load_suite has it."""
    return composed(typed_text(given))


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC); macOS hands out decomposed ones."""
    return unicodedata.normalize("NFC", name)


def device_name(given: str) -> str:
    """The text of --device, if it is one that is known here."""
    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", given, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda, cuda:N or mps, found {given!r}")
    return given


def check_device(device: str) -> None:
    """UserError for a device that PyTorch does not find."""
    if device == "cpu":
        return
    import torch                                     # slow; the downloads do without
    kind, _, number = str(device).partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: PyTorch finds no CUDA device; leave it out for the "
                        "CPU")
    if kind == "cuda" and number and int(number) >= (count := torch.cuda.device_count()):
        raise UserError(f"--device {device}: there are {count} CUDA devices, and the first is "
                        "cuda:0")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: PyTorch finds no Apple GPU; leave it out for the CPU")


def use_threads(n: int) -> None:
    import torch                                     # slow; the downloads do without
    if not 1 <= n <= 4096:
        raise UserError(f"--threads {n}: expected a whole number from 1 to 4,096")
    torch.set_num_threads(n)


def other_load() -> float:
    """CPUs that other processes want: the mean of the last minute, or what runs now if that is less
    (Linux tells): an earlier command of this minute is no load any more. 0 where nothing tells."""
    load, path = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, Path("/proc/loadavg")
    if load > LOAD_ALLOWED and path.exists():
        running = []
        for _ in range(10):
            running.append(int(path.read_text().split()[3].split("/")[0]) - 1)       # not this one
            time.sleep(0.02)
        load = min(load, sum(running) / len(running))
    return load


def note_other_load(threads: int) -> None:
    """A word where other processes leave fewer CPUs than this one has threads: its threads wait for
    each other at every product of matrices, and by default they wait by spinning."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = other_load()
    if threads > 1 and load + threads > cpus + LOAD_ALLOWED:
        free = max(1, round(cpus - load))
        passive = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
        note(f"other processes use about {load:.1f} of {cpus} CPUs: {threads} threads that wait "
             "for each other may be slow; "
             + ("" if passive else "set the environment variable OMP_WAIT_POLICY=passive, or ")
             + f"try --threads {free}")


def note(text: str) -> None:
    """What is loaded, what happens: on stderr, so that stdout has the results alone."""
    print(text, file=sys.stderr)


def warn(text: str) -> None:
    note(f"warning: {one_line(text)}")


def first_line(error: Exception | str) -> str:
    """The beginning of what a library says, for a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def one_line(message: object) -> str:
    """A message that may hold another program's, or a name with line ends."""
    return " ".join(str(message).split())


# ------------------------------------------------------------------------- the description

COMMON_WORDS = set("""the of and in to is it that for with from as by an each word words answer give
    write what this which return only""".split())


def check_description(text: str, n_tokens: int, limit: int) -> None:
    """UserError for a description that says nothing; a warning where the encoder, which reads
    `limit` tokens of English, will not read it as written."""
    if len(text) < 2:
        raise UserError(f"the description is {text!r}; write what the task asks, for "
                        "example \"Write the word in capital letters.\"")
    if n_tokens > limit:
        warn(f"the description has {n_tokens} tokens; the encoder reads the first {limit}")

    words = text.lower().split()
    foreign = sum(c.isascii() for c in text) < 0.9 * len(text)
    if foreign or len(words) > 4 and not COMMON_WORDS & set(words):
        warn("this does not look like English, the only language the encoder and the training "
             "descriptions know; the adapter is probably unrelated")


# --------------------------------------------------------------------------- flags of t2l.py

def gguf_file(path: str) -> str:
    """--gguf's argument, refused where no such file can be written."""
    if not path.endswith(".gguf"):
        raise argparse.ArgumentTypeError(f"{path} does not end in .gguf, by which llama.cpp and "
                                         "Ollama know a file")
    if Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give the name of a file in it")
    return path


def t2l_flags(modules: Iterable[str]) -> Parser:
    parser = Parser("Turn a task description into a LoRA adapter.")
    add = parser.add_argument
    add("description", type=typed_text, nargs="?", default="",
        help="what the adapted model shall do, in English")
    add("--prompt", type=typed_text, action="append", default=[],
        help="an input to answer with and without the adapter; may be repeated")
    add("--strength", type=strength, default=1.0, metavar="X",
        help="the description's ΔW times X; of 0 nothing is left")
    add("--mix", nargs=2, metavar=("TEXT", "W"), action="append", default=[], type=typed_text,
        help="add W times the ΔW of another description; may be repeated%(default).0s")
    parser.folder("--out", "write the adapter as a PEFT folder", "it is not kept")
    parser.folder("--merged", "write the whole model with the adapter merged in", "it is not")
    add("--gguf", type=gguf_file, metavar="FILE", default=None, help="write the adapter as a GGUF "
        "file for llama.cpp and Ollama (default: it is not)%(default).0s")
    parser.folder("--ckpt", "a trained T2L folder", "the committed one for SmolLM2-135M-Instruct")
    add("--list", action="store_true",
        help="show what the checkpoint was trained on, and how well it does each kind of task")
    add("--module-order", nargs=2, choices=list(modules), metavar="NAME", default=None,
        help="the authors' checkpoints: which module came first in training%(default).0s")
    parser.models(encoder="the checkpoint's")
    return parser


def strength(given: str) -> float:
    """What an adapter's ΔW counts; ValueError for nan, and for what no adapter's numbers bear."""
    if not abs(x := float(given)) <= 1000:
        raise ValueError
    return x


def weighed_descriptions(args: argparse.Namespace) -> list[tuple[str, float]]:
    """t2l.py's description and --strength, then each --mix."""
    weighed = [(args.description.strip(), args.strength)]
    for text, weight in args.mix:
        try:
            weighed.append((text.strip(), strength(weight)))
        except ValueError:
            raise UserError(f"--mix {text!r} {weight!r}: expected a description and a number up to "
                            "1000, what its ΔW counts") from None
    return weighed


# ---------------------------------------------------------------- flags of eval.py and its kin

class EvalParser(Parser):
    """The flags that eval.py, experiments.compare and experiments.benchmarks share."""

    def __init__(self, description: str, ckpt: str, ckpt_default: str, samples: str):
        super().__init__(description)
        self.add_argument("--ckpt", metavar="DIR", nargs="+", default=None,
                          help=f"{ckpt} (default: {ckpt_default})%(default).0s")
        self.models(encoder="each checkpoint's own")
        self.add_argument("--out", metavar="DIR", default="out/eval",
                          help="where the results are written; not into what is only read")
        self.add_argument("--eval-samples", type=int, default=20, metavar="N", help=samples)

    def parse_args(self, *given) -> argparse.Namespace:
        args = super().parse_args(*given)
        if args.eval_samples < 1:
            raise UserError("--eval-samples must be at least 1")
        args.out = Path(args.out)
        if args.out.exists() and not args.out.is_dir():
            raise UserError(f"--out {args.out} is a file; give a folder for the results")
        return args


def eval_args() -> argparse.Namespace:
    parser = EvalParser("The zero-shot table, with controls.",
                        "folders of train.py --mode sft, recon or mtlora, or the authors'",
                        "the committed ones",
                        "test inputs per task of the split (a few seen tasks: a twentieth; where "
                        "the split has no task, of every seen one)")
    parser.tasks()
    parser.add_argument("--split", choices=["unseen", "validation", "all"], default="unseen",
                        help="the tasks to test on; all: every task of --tasks that no checkpoint "
                        "was trained on, by strict and by lenient match")
    parser.add_argument("--seeds", action="store_true",
                        help="join the runs of --ckpt that differ in their seed alone: mean, sd, "
                        "and an interval over tasks and seeds")
    parser.add_argument("--against", metavar="ROW", type=typed_text, help="give every row's paired "
                        "difference from this one (default: of any two main rows)%(default).0s")
    parser.renamed("--loras", "python -m experiments.compare --loras DIR")
    for flag in ("--benchmarks", "--run-code", "--likelihood", "--prompts"):
        parser.renamed(flag, f"python -m experiments.benchmarks {flag}")
    return parser.parse_args()


# ------------------------------------------------------------------------ flags of train.py

def train_args(defaults: dict[str, dict], heads: Iterable[str], samples_per_task: int,
               fields_of: Callable[[str], dict]) -> argparse.Namespace:
    """train.py's command line; `defaults` holds {flag: {mode: value}} where modes differ. Head,
    encoder, rank and alpha are --init's, by `fields_of`, unless they are given.

    UserError where flags make no sense together.
    """
    args = train_flags(defaults, heads).parse_args()
    found = fields_of(args.init) if args.init and args.mode in ("sft", "recon") else {}
    for name in ("arch", "encoder", "rank", "alpha"):
        if getattr(args, name) is None:
            setattr(args, name, found.get(name))
    for flag, values in defaults.items():
        if getattr(args, name_of(flag)) is None:
            setattr(args, name_of(flag), values[args.mode])
    if args.encoder is None and args.arch == "bank" and not args.one_hot:
        args.encoder = "all-MiniLM-L6-v2+states"
    if args.mode == "lora":
        args.save_every = 0                          # every task is saved when it is done
        if args.max_tasks is None and not args.task:
            args.max_tasks = 64
    if args.modules or args.mode != "recon":
        args.modules = in_order(args.modules or TARGETS)
    check_train_flags(args, samples_per_task)
    args.accumulate = args.accumulate or 1
    if args.compile is None and worth_compiling(args):
        note("the layers are compiled first, up to a minute that so many steps earn back; "
             "--no-compile goes without")
        args.compile = True
    return args


def worth_compiling(args: argparse.Namespace) -> bool:
    """Whether a run is long enough for --compile, and nothing speaks against it."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    can = shutil.which(os.environ.get("CXX", usual)) \
        and Path(sysconfig.get_path("include"), "Python.h").exists()       # what Inductor needs
    return bool(args.steps >= COMPILE_FROM and args.mode in ("sft", "mtlora") and can
                and args.device == "cpu" and not (args.activation_checkpointing or args.shard))


def name_of(flag: str) -> str:
    return flag[2:].replace("-", "_")


def train_flags(defaults: dict[str, dict], heads: Iterable[str]) -> Parser:
    parser = Parser("Train Text-to-LoRA.")
    add = parser.add_argument

    def by_mode(flag: str, kind: type, text: str, choices: list | None = None) -> None:
        each = ", ".join(f"{mode} {value}" for mode, value in defaults[flag].items())
        add(flag, type=kind, choices=choices, help=f"{text} (default: {each})%(default).0s")

    # What is trained, on what.
    add("--mode", choices=list(defaults["--steps"]), required=True,
        help="sft: the hypernetwork, through the language model; recon: the hypernetwork, towards "
        "a library of LoRAs; lora: that library, one LoRA a task; mtlora: one LoRA for all tasks")
    parser.models(encoder="all-MiniLM-L6-v2; with --arch bank all-MiniLM-L6-v2+states")
    parser.folder("--read-with", "sft: a LoRA of --mode mtlora --describe prompt that is switched "
                  "on while the language model reads the description (--encoder states)", "none")
    parser.tasks()
    parser.folder("--out", "the run's folder", "out/MODE")
    parser.folder("--loras", "recon: a folder of PEFT folders named as tasks", "none")
    parser.folder("--init", "sft, recon: start from this T2L", "a fresh one")
    add("--task", nargs="+", type=task_name, metavar="NAME",
        help="train on these tasks only%(default).0s")
    add("--max-tasks", type=int, metavar="N", help="train on as many tasks, of a fixed draw "
        "(default: lora 64, else all)%(default).0s")

    # The method.
    by_mode("--arch", str, "the hypernetwork's head, bank or the paper's L, M, S", list(heads))
    add("--one-hot", action="store_true",
        help="recon: a task's number in place of its description's embedding")
    add("--canonical", action="store_true",
        help="recon: bring the library's A and B into one form first; B A stays the same")
    add("--recon-space", choices=["factors", "delta"], default="factors",
        help="recon: the distance between A and A*, B and B*; or between B A and B* A*")
    add("--describe", choices=["lora", "prompt", "both"], default="lora",
        help="where the description goes: only into the hypernetwork, only into the prompt, both")

    add("--modules", nargs="+", choices=list(MODULES), metavar="NAME", default=None,
        help=f"the adapted ones of {', '.join(MODULES)} (default: {' '.join(TARGETS)}; recon: the "
        "library's)%(default).0s")
    by_mode("--rank", int, "of the adapters; None: the library's")
    by_mode("--alpha", float, "the adapters' scale is alpha / √rank")

    # The optimisation.
    by_mode("--steps", int, "training steps; lora: of each task at most")
    by_mode("--batch-size", int, "samples a step, lora: 8 of each task; recon: LoRAs a step")
    by_mode("--lr", float, "peak learning rate")
    add("--accumulate", type=int, metavar="K", help="sft, mtlora: go through the model with a K-th "
        "of the batch at a time; less memory, the same gradients (default: 1)%(default).0s")
    add("--seed", type=int, default=0, help="of initialisation, sampling and dropout")

    run_flags(parser)
    return parser


def run_flags(parser: Parser) -> None:
    """How a run is saved, gone on with and evaluated, and what it costs."""
    add = parser.add_argument
    add("--save-every", type=int, default=100, metavar="N",
        help="steps between saved states, 0: none; lora saves every task when it is done")
    add("--resume", action="store_true", help="go on from the last saved state in --out")
    add("--eval-samples", type=int, default=6, metavar="N",
        help="test inputs per unseen task at the end, and 34 N seen tasks, at most 200; without "
        "unseen tasks N per seen one; recon: the error of ΔW; 0: no evaluation")
    add("--compile", action=argparse.BooleanOptionalAction, default=None,
        help="torch.compile the layers: a minute first, then faster; needs a C++ compiler "
        f"(default: on a CPU that has one, for sft and mtlora of {COMPILE_FROM:,} steps or more)"
        "%(default).0s")
    add("--activation-checkpointing", action="store_true",
        help="keep only the layers' inputs and compute them again in the backward pass: a third "
        "slower, a fraction of the memory")
    add("--cuda-graphs", action="store_true", help="on a CUDA device: start all layers by one "
        "call, where a small model waits for Python; never tried by those who wrote this")
    add("--shard", action="store_true", help="under torchrun: each process keeps a part of every "
        "layer of the language model, where no device holds it whole")
    parser.renamed("--recompute", "--activation-checkpointing")


USED_BY = {"--loras": ["recon"], "--one-hot": ["recon"], "--canonical": ["recon"],
           "--recon-space": ["recon"], "--init": ["sft", "recon"], "--read-with": ["sft"],
           "--accumulate": ["sft", "mtlora"], "--shard": ["sft", "mtlora"],
           "--compile": ["sft", "mtlora", "lora"], "--cuda-graphs": ["sft", "mtlora", "lora"],
           "--activation-checkpointing": ["sft", "mtlora", "lora"]}


# A seed times a million, for one of every step, is what PyTorch takes.
NUMBERS = {"--steps": whole(1, 10**9), "--batch-size": whole(1, 2**16), "--lr": number(1e-12, 1e32),
           "--seed": whole(-2**42, 2**42), "--save-every": whole(0, 10**9),
           "--rank": optional(whole(1, 1024)), "--alpha": number(1e-3, 1e6),
           "--accumulate": optional(whole(1, 2**16)), "--eval-samples": whole(0, 10**6),
           "--max-tasks": optional(whole(1, 10**6))}


def reads_states(encoder: str | None) -> bool:
    """Whether an --encoder is, or has beside it, the language model's states."""
    return encoder == "states" or str(encoder).endswith("+states")


def check_train_flags(args: argparse.Namespace, samples_per_task: int) -> None:
    """UserError for numbers that make no sense, and for flags that the mode would ignore where
    that can be told from their defaults."""
    # Numbers.
    if wrong := misfits({flag: getattr(args, name_of(flag)) for flag in NUMBERS}, NUMBERS):
        raise UserError(f"{wrong}; --steps, --batch-size, --rank, --alpha, --max-tasks and --lr "
                        "must be positive, --save-every and --eval-samples not negative")
    if args.mode == "lora" and args.batch_size % samples_per_task:
        raise UserError(f"--batch-size {args.batch_size} is no multiple of {samples_per_task}, the "
                        "samples of each task in a batch")

    if args.dtype == "float16":
        raise UserError("--dtype float16 is not for training, in which small gradients would "
                        "become 0; use bfloat16, as fast and as small, or float32 (t2l.py and "
                        "eval.py take float16)")

    # Flags that belong to other modes.
    for flag, modes in USED_BY.items():
        given = getattr(args, name_of(flag)) not in (None, False, "factors")
        if given and args.mode not in modes:
            raise UserError(f"--mode {args.mode} has no use for {flag}; leave it out")
    if args.cuda_graphs and (not args.device.startswith("cuda") or args.compile or args.shard
                             or args.activation_checkpointing):
        raise UserError("--cuda-graphs is for --device cuda, and goes without --compile, --shard "
                        "and --activation-checkpointing")
    if args.mode == "recon" and not args.loras:
        raise UserError("--mode recon needs --loras DIR, a library as --mode lora writes it")

    # Where the description goes, and who reads it.
    if args.read_with and not reads_states(args.encoder):
        raise UserError("--read-with is for --encoder states or NAME+states: a text encoder has no "
                        "use for the language model's LoRA")
    if args.mode == "sft" and args.describe == "prompt":
        raise UserError("--mode sft reads the description in T2L: use --describe lora or both")
    if args.mode == "mtlora" and args.describe == "both":
        raise UserError("--mode mtlora has no hypernetwork: --describe prompt, or leave it out")
    if args.mode in ("lora", "recon") and args.describe != "lora":
        raise UserError(f"--mode {args.mode} has no description in the prompt: leave out "
                        "--describe")


def select_tasks(names: Iterable[str], wanted: list[str] | None,
                 at_most: int | None) -> list[str]:
    """--task and --max-tasks: the `wanted` ones, or the first `at_most` of one fixed draw, so that
    8 tasks are among the 16."""
    names = list(names)
    for name in set(wanted or ()) - set(names):
        raise UserError(f"there is no {name!r} to train on; there are {', '.join(names[:5])} … "
                        f"({len(names)} in all)")
    chosen = list(dict.fromkeys(wanted or ())) or \
        random.Random(0).sample(sorted(names), len(names))
    return chosen[:at_most]
