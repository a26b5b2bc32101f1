"""The paper's ten benchmarks: what a question looks like to the model, and when an answer is right
(arXiv 2506.06105, Table 2).

    questions = load_benchmark("benchmarks/arc_easy.jsonl")     # the name says which of the ten
    right = is_right(questions[0], "The answer is B.")

A file has one JSON object a line, in the layout that the benchmark was published in. The prompts'
wording is ours; a JSON file {"arc_easy": "… {question} … {options}"} gives another, for the
released checkpoints were trained with theirs. Model-written code runs only where the caller allows
it, as run_code.py says. Sources and licences are in utils/hub.py.
"""
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.run_code import tests_pass
from utils.cli import UserError
from utils.files import parse_json, read_json, read_text

LETTERS = "ABCDEFGH"
CHOOSE = "{question}\n\n{options}\n\nAnswer with the letter of the right option."
CODE = "Reply with the whole function in Python, in one code block."
PROMPTS = {
    "arc_challenge": CHOOSE, "arc_easy": CHOOSE, "openbookqa": CHOOSE,
    "boolq": "{passage}\n\n{question}?\n\nAnswer with yes or no.",
    "hellaswag": "Which ending continues the text best?\n\n{question}\n\n{options}\n\n"
                 "Answer with the letter of the best ending.",
    "piqa": "What is the better way to do this?\n\n{question}\n\n{options}\n\n"
            "Answer with the letter of the better way.",
    "winogrande": "What belongs in the place of the underscore?\n\n{question}\n\n{options}\n\n"
                  "Answer with the letter of the right option.",
    "gsm8k": "{question}\n\nThink step by step; end with the number that answers the question.",
    "humaneval": "Complete this function.\n\n{question}\n\n" + CODE,
    "mbpp": "{question}\n\nIt has to pass\n\n{tests}\n\n" + CODE}
NEW_TOKENS = {"gsm8k": 400, "humaneval": 400, "mbpp": 400}            # the others: a few


@dataclass(frozen=True)
class Question:
    """One exercise: `text` is its question alone; `gold` is a letter, "yes" or "no", a number, or
    the code that tests an answer; `options` are the texts that A, B, … are for; `head` is code that
    comes before an answer's."""
    benchmark: str
    prompt: str
    gold: str
    options: tuple[str, ...] = ()
    head: str = ""
    text: str = ""


# ------------------------------------------------------------------------------------ reading

def choice(question: str, options: list[str], right: int) -> dict:
    if not 0 <= right < len(options):                    # -1: published without the answers
        raise IndexError(f"label {right} of {len(options)} options")
    if not all(isinstance(text, str) for text in options):
        raise TypeError(f"options that are no texts: {options}")
    lettered = "\n".join(f"{name}. {text}" for name, text in zip(LETTERS, options))
    return {"question": question, "options": lettered, "gold": LETTERS[right],
            "texts": tuple(options)}


def labelled(row: dict) -> dict:
    """ARC and OpenBookQA; some of ARC's labels are 1 to 4, and become A to D."""
    choices = row["question"]["choices"]
    labels = [c["label"] for c in choices]
    return choice(row["question"]["stem"], [c["text"] for c in choices],
                  labels.index(row["answerKey"]))


READERS: dict[str, Callable[[dict], dict]] = {
    "arc_challenge": labelled, "arc_easy": labelled, "openbookqa": labelled,
    "boolq": lambda row: {"question": row["question"], "passage": row["passage"],
                          "gold": {True: "yes", False: "no"}[row["answer"]]},
    "hellaswag": lambda row: choice(row["ctx"], row["endings"], int(row["label"])),
    "piqa": lambda row: choice(row["goal"], [row["sol1"], row["sol2"]], int(row["label"])),
    "winogrande": lambda row: choice(row["sentence"], [row["option1"], row["option2"]],
                                     int(row["answer"]) - 1),
    "gsm8k": lambda row: {"question": row["question"],
                          "gold": number(row["answer"].split("####")[1])},
    "humaneval": lambda row: {"question": row["prompt"].strip(), "head": row["prompt"],
                              "gold": f"{row['test']}\n\ncheck({row['entry_point']})\n"},
    "mbpp": lambda row: {"question": row.get("text") or row["prompt"],
                         "tests": "\n".join(row["test_list"]),
                         "gold": "\n".join([row.get("test_setup_code", ""), *row["test_list"]])}}


def load_benchmark(path: str | Path, prompts: str | Path | None = None) -> list[Question]:
    """The questions of a file named <benchmark>.jsonl; UserError names the line that is odd."""
    path = Path(path)
    name = path.name.split(".")[0]
    if name not in READERS:
        raise UserError(f"{path}: no benchmark of that name; expected {', '.join(READERS)}, each "
                        "as NAME.jsonl")

    # How it is asked.
    given = read_json(prompts) if prompts else {}
    if odd := sorted(given.keys() - PROMPTS.keys()):
        raise UserError(f"{prompts}: no benchmark {', '.join(odd)}; expected {', '.join(PROMPTS)}")
    template, questions = given.get(name, PROMPTS[name]), []

    # What is asked, a question a line.
    for i, line in enumerate(read_text(path).split("\n"), 1):     # JSON may hold other line ends
        if not line.strip():
            continue
        try:
            fields = READERS[name](parse_json(line, f"{path}, line {i},"))
            for key, text in fields.items():
                if not isinstance(text, str if key != "texts" else tuple):
                    raise TypeError(f"its {key} is {text!r}, no text")
            prompt = re.sub(r"\{(\w+)\}", lambda m: fields[m[1]], template)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError,
                OverflowError) as error:
            raise UserError(f"{path}, line {i}: not in the layout of {name}, or a prompt that asks "
                            f"for more ({type(error).__name__} {error})") from None
        questions.append(Question(name, prompt, fields["gold"], fields.get("texts", ()),
                                  fields.get("head", ""), fields["question"]))
    if not questions:
        raise UserError(f"{path} holds no question")
    return questions


# ------------------------------------------------------------------------------------ scoring

def is_right(question: Question, answer: str, run_code: bool = False) -> bool:
    """Whether an answer in words, a number or code is right. Code is only run with `run_code`."""
    if question.benchmark in ("humaneval", "mbpp"):
        if not run_code:
            raise UserError(f"{question.benchmark} runs what the model wrote; allow it with "
                            "--run-code")
        return passes(question, answer)
    if question.benchmark == "gsm8k":
        return number(answer) == question.gold
    if question.options:
        return letter(answer, question.options) == question.gold
    words = re.findall(r"\b(yes|no|true|false)\b", answer.lower())
    return bool(words) and {"true": "yes", "false": "no"}.get(words[0], words[0]) == question.gold


def letter(answer: str, options: tuple[str, ...]) -> str:
    """The option that an answer names: by "answer is B", by a letter on its own, or, if it names no
    letter, by the one option whose text it contains; else ""."""
    known = LETTERS[:len(options)]
    named = rf"[{known[1:]}]\b|A\b(?! (?!is\b|or\b)[a-z])"                # "A drop" has an article
    for pattern in (rf"(?i:answer)\W+(?:is\W+)?({named})",
                    rf"(?i:option|choice)\W+(?:is\W+)?({named})", rf"\b({named})"):
        if found := re.search(pattern, answer):
            return found[1]
    said = [name for name, text in zip(known, options)
            if text.lower().strip(". ") in answer.lower()]
    return said[0] if len(said) == 1 else ""


def number(answer: str) -> str:
    """The last number in a text, without thousands separators and trailing zeros; "" if none."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+", answer)
    if not found:
        return ""
    value = found[-1].replace(",", "")
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


def code_in(answer: str) -> str:
    """The first fenced block of an answer, or all of it."""
    found = re.search(r"```[\w+-]*[ \t]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return found[1] if found else answer


def passes(question: Question, answer: str, seconds: int = 10, megabytes: int = 1024) -> bool:
    """Whether the tests run through with the answer's code (pass@1), within limits.

    It stands behind what it was to complete: a body, a body that lost its first indent, or the
    function written anew, which then counts; the first of these that is Python.
    """
    code = code_in(answer)
    programs = [question.head + code, question.head + "    " + code]
    return tests_pass(programs, question.gold, seconds, megabytes)
