"""The ten benchmarks: their published layouts, and hand-made right and wrong answers."""
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, ROOT, call, command, refused, task_file

from data.tasks import Task
from encoder import load_encoder
from experiments import benchmarks, run_code
from experiments.benchmark_formats import (READERS, Question, is_right, load_benchmark,
                                           passes)
from experiments.leaks import find_leaks
from lora import load_peft
from mistral import load_model, load_tokenizer
from t2l import T2L, save_t2l, t2l_config
from utils.cli import UserError


SHARED = ROOT.parent / "shared" / "data" / "benchmarks"

ABCD = [{"text": text, "label": label}
        for text, label in (("iron", "A"), ("a drop of water", "B"), ("wood", "C"), ("air", "D"))]

ROWS = {                                # one question of our own each, and right and wrong answers
    "arc_easy": ({"id": "x", "question": {"stem": "What flows?", "choices": ABCD},
                  "answerKey": "B"},
                 ["B", "B.", "The answer is B.", "(B) a drop of water", "Answer: B", "A drop of "
                  "water.", "B. a drop of water, not A"],
                 ["A", "", "C. wood", "The answer is D, not B", "iron or a drop of water",
                  "A or B", "Option B is wrong, the answer is A"]),
    "arc_challenge": ({"id": "x", "question": {"stem": "What flows?", "choices": [
        c | {"label": str(i + 1)} for i, c in enumerate(ABCD)]}, "answerKey": "2"},
        ["B"], ["A", "2"]),
    "openbookqa": ({"id": "x", "question": {"stem": "What flows", "choices": ABCD},
                    "answerKey": "D"}, ["D", "Option D"], ["DA", "A piece of air and wood"]),
    "boolq": ({"question": "is it so", "title": "t", "answer": True, "passage": "It is so."},
              ["yes", "Yes, it is.", "True", "YES"], ["no", "No, yes is wrong", "nobody", ""]),
    "hellaswag": ({"ctx": "He jumps", "endings": ["and flies.", "and lands.", "x", "y"],
                   "label": "1", "activity_label": "a"}, ["B", "and lands."], ["A", "b"]),
    "piqa": ({"goal": "Open a jar", "sol1": "Turn the lid", "sol2": "Turn the table", "label": 0},
             ["A", "A. Turn the lid", "turn the lid"], ["B", "C", "Turn it"]),
    "winogrande": ({"sentence": "The cup fell on the floor, so the _ broke.", "option1": "floor",
                    "option2": "cup", "answer": "2"}, ["B", "cup", "The cup."], ["floor", "A"]),
    "gsm8k": ({"question": "6 times 7 hundred?", "answer": "It is <<6*700=4200>>.\n#### 4,200"},
              ["6 * 700 = 4200", "The answer is 4,200.", "$4200.00", "So 4200"],
              ["42", "4200 or rather 4201", "-4200", ""]),
    "humaneval": ({"task_id": "H/0", "entry_point": "double", "canonical_solution": "",
                   "prompt": "from math import inf\n\ndef double(x):\n    \"\"\"Twice x.\"\"\"\n",
                   "test": "def check(f):\n    assert f(2) == 4\n    assert f(inf) == inf\n"},
                  ["    return 2 * x", "y = 2 * x\n    return y",
                   "    import math\n    return x * 2",
                   "    y = x\n\n    return x + y", "    for _ in 'x':\n        return 2 * x",
                   "```python\ndef double(x):\n    return x + x\n```",
                   "Sure:\n```\ndef double(x):\n    return min(inf, 2 * x)\n```\nDone."],
                  ["    return x", "def double(x)", "import sys; sys.exit(0)\ndef double(x): 1",
                   "def double(x):\n    while True: pass", "", "return \0 x"]),
    "mbpp": ({"text": "Write a function to add.", "task_id": 1, "code": "",
              "test_setup_code": "import math", "test_list": ["assert add(1, 2) == 3",
                                                              "assert add(0, math.pi) > 3"]},
             ["def add(a, b):\n    return a + b"], ["def add(a, b):\n    return 3", "no idea"])}


def question(name: str, folder: Path):
    (folder / f"{name}.jsonl").write_text(json.dumps(ROWS[name][0]) + "\n")
    return load_benchmark(folder / f"{name}.jsonl")[0]


@pytest.mark.parametrize("name", ROWS)
def test_hand_made_answers(name, tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "__defaults__", (1, 1024))             # seconds, megabytes
    asked = question(name, tmp_path)
    row, right, wrong = ROWS[name]
    for answer in right:                                  # stripped, as generate() returns them
        assert is_right(asked, answer.strip(), run_code=True), answer
    for answer in wrong:
        assert not is_right(asked, answer.strip(), run_code=True), answer


@pytest.mark.parametrize("name", ROWS)
def test_a_prompt_shows_the_question_and_never_the_answer_alone(name, tmp_path):
    asked, row = question(name, tmp_path), ROWS[name][0]
    for key in ("question", "ctx", "goal", "sentence", "text"):
        if isinstance(row.get(key), str):
            assert row[key] in asked.prompt
    assert all(text in asked.prompt for text in asked.options)
    assert "{" not in asked.prompt.replace(asked.head, "")
    assert row.get("test", "no test") not in asked.prompt


def test_other_prompts(tmp_path):
    (tmp_path / "prompts.json").write_text('{"gsm8k": "Q: {question} {curly}"}')
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(ROWS["gsm8k"][0]))
    with pytest.raises(UserError, match="line 1: .* a prompt that asks for more .*'curly'"):
        load_benchmark(tmp_path / "gsm8k.jsonl", tmp_path / "prompts.json")
    (tmp_path / "prompts.json").write_text('{"gsm9k": "Q: {question}"}')
    with pytest.raises(UserError, match="no benchmark gsm9k"):
        load_benchmark(tmp_path / "gsm8k.jsonl", tmp_path / "prompts.json")
    (tmp_path / "prompts.json").write_text('{"gsm8k": "Q: {question}"}')
    asked = load_benchmark(tmp_path / "gsm8k.jsonl", tmp_path / "prompts.json")[0]
    assert asked.prompt == "Q: 6 times 7 hundred?"


def test_code_runs_only_if_allowed_and_within_its_limits(tmp_path):
    asked = question("mbpp", tmp_path)
    with pytest.raises(UserError, match="--run-code"):
        is_right(asked, "def add(a, b): return a + b")
    began = time.perf_counter()
    assert not passes(asked, "while True: pass", seconds=1)
    assert not passes(asked, "x = ' ' * (1 << 31)\ndef add(a, b): return a + b", megabytes=512)
    assert not passes(asked, f"open({str(tmp_path / 'big')!r}, 'wb').write(b'x' * (1 << 22))\n"
                      "def add(a, b): return a + b")
    assert not passes(asked, "import time; time.sleep(60)", seconds=1)
    assert not passes(asked, "while True: print('x' * 1000)", seconds=1)
    assert time.perf_counter() - began < 30
    assert passes(asked, "import os\nassert os.listdir() == []\ndef add(a, b): return a + b")


@pytest.mark.parametrize("text, said", [
    ("{}", "line 1: not in the layout of piqa"), ("nonsense", "line 1"), (None, "does not exist"),
    (json.dumps(ROWS["piqa"][0] | {"label": -1}), "label -1 of 2 options"), ("[]", "line 1"),
    ("\n\n", "holds no question"), (b"\xff\xfe", "not a text file in UTF-8")])
def test_files_that_are_odd(text, said, tmp_path):
    if text is not None:
        (tmp_path / "piqa.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said):
        load_benchmark(tmp_path / "piqa.jsonl")
    with pytest.raises(UserError, match="no benchmark of that name"):
        load_benchmark(tmp_path / "mmlu.jsonl")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not here")
@pytest.mark.parametrize("name", READERS)
def test_published_files_load(name):
    questions = load_benchmark(SHARED / f"{name}.jsonl")
    assert len(questions) >= 164
    if questions[0].options:                             # every gold answer is one of the options
        assert all(q.gold in "ABCDEFGH"[:len(q.options)] for q in questions)
        assert all(is_right(q, q.gold) for q in questions)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not here")
@pytest.mark.parametrize("name, field", [("humaneval", "canonical_solution"), ("mbpp", "code")])
def test_published_solutions_pass_their_tests(name, field):
    rows = [json.loads(line) for line in (SHARED / f"{name}.jsonl").read_text().splitlines()[:12]]
    questions = load_benchmark(SHARED / f"{name}.jsonl")[:12]
    assert all(passes(q, row[field].replace("\r", "").strip())
               for q, row in zip(questions, rows))


def test_the_likeliest_option_is_found():
    """Against the plain sum of log-probabilities, option by option, with and without an adapter."""
    model, tokenizer = (load(GOLDEN / "llama") for load in (load_model,
                                                            load_tokenizer))
    model = model.float()
    options = ("a b", "b", "one more", "zz zz")
    for lora in (None, load_peft(GOLDEN / "llama" / "adapter")):
        scores = []
        for text in options:
            start, answer = tokenizer.prompt("What now"), tokenizer.encode(text)
            logits = model(torch.tensor([start + answer]), lora=lora)[0].log_softmax(-1)
            scores.append(sum(logits[len(start) - 1 + i, t].item() for i, t in enumerate(answer)))
        found = benchmarks.likeliest(model, tokenizer, "What now", options, lora)
        assert found == options[max(range(4), key=scores.__getitem__)]


@pytest.mark.parametrize("likelihood", [False, True])
def test_the_command_prints_a_table_with_a_control(likelihood, tmp_path, monkeypatch, capsys):
    model, encoder = (load(GOLDEN / name) for load, name in ((load_model, "llama"),
                                                             (load_encoder, "bert")))
    t2l = T2L(t2l_config(model.cfg, "S", encoder))
    save_t2l(t2l, tmp_path / "ckpt", torch.float32, {"mode": "sft"})
    for name in ("piqa", "boolq", "mbpp"):
        question(name, tmp_path)
    short = {"piqa": "{options}", "boolq": "{question}"}           # the tiny context has 64 places
    (tmp_path / "prompts.json").write_text(json.dumps(short))
    monkeypatch.setattr(benchmarks, "NEW_TOKENS", dict.fromkeys(READERS, 3))
    monkeypatch.setattr(benchmarks, "DESCRIPTIONS", {"piqa": ("a", "b"), "boolq": ("c", "d")})
    monkeypatch.setattr("eval.encoder_for", lambda *_: encoder)
    call("experiments.benchmarks", "--benchmarks", tmp_path, "--ckpt", tmp_path / "ckpt", "--model",
         GOLDEN / "llama", "--prompts", tmp_path / "prompts.json", "--out", tmp_path / "results",
         *(["--likelihood"] if likelihood else []))
    found = json.loads((tmp_path / "results" / "results_benchmarks.json").read_text())
    assert not (tmp_path / "ckpt" / "results_benchmarks.json").exists()      # it was only read
    assert list(found) == ["base model", "base model, description in its prompt",
                           "T2L ckpt, own description", "T2L ckpt, another's"]
    assert all(set(line) == {"piqa", "boolq", "mean"} for line in found.values())
    assert "base model" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("name, changes", [
    ("piqa", {"label": float("inf")}), ("piqa", {"label": float("nan")}), ("piqa", {"sol1": 5}),
    ("hellaswag", {"label": "9" * 5000}), ("hellaswag", {"endings": [["x"], "y"]}),
    ("boolq", {"answer": "no"}), ("boolq", {"question": None}), ("gsm8k", {"answer": [1]})])
def test_values_that_are_odd(name, changes, tmp_path):
    (tmp_path / f"{name}.jsonl").write_text(json.dumps(ROWS[name][0] | changes))
    with pytest.raises(UserError, match=f"{name}.jsonl, line 1: not in the layout of {name}"):
        load_benchmark(tmp_path / f"{name}.jsonl")


def test_text_that_is_odd_in_questions_and_prompts(tmp_path):
    (tmp_path / "boolq.jsonl").write_text("[" * 200_000)
    with pytest.raises(UserError, match="boolq.jsonl, line 1: .* nested too deep"):
        load_benchmark(tmp_path / "boolq.jsonl")
    row = ROWS["boolq"][0] | {"question": "is \ud83d it"}
    (tmp_path / "boolq.jsonl").write_text(json.dumps(row), encoding="utf-8-sig")
    (tmp_path / "prompts.json").write_text(json.dumps({"boolq": "\udc00 {question}"}))
    with pytest.warns(UserWarning, match="half a surrogate pair") as said:
        asked, = load_benchmark(tmp_path / "boolq.jsonl", tmp_path / "prompts.json")
    assert asked.prompt == "\ufffd is \ufffd it"
    assert ["prompts.json" in str(w.message) for w in said] == [True, False]


# ------------------------------------------------------------------------ model-written code

ADD, TESTS = "def add(a, b): return a + b\n", "assert add(1, 2) == 3"
ALL_CHANNELS = "import os\nfor fd in range(3, 64):\n    try: os.{}\n    except OSError: pass\n"


@pytest.mark.parametrize("code", [
    "import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "exit()",
    "def add(a, b): raise SystemExit(0)", "def add(a, b):\n    import os\n    os._exit(0)",
    "import atexit\natexit.register(print, 'tests passed')\nraise SystemExit",
    ALL_CHANNELS.format("write(fd, b'?' * 40)") + "os._exit(0)",
    "import os\nos.closerange(0, 64)\n" + ADD, "import builtins\nbuiltins.exec = print",
    "import sys, os\nf = sys._getframe()\nwhile f: print(f.f_locals); f = f.f_back\nos._exit(0)",
    "def add(a, b): return 0\n'''", "try:\n    pass\nexcept: pass", "(" * 100_000,
    "x = " + "-" * 200_000 + "1", "x = 1" + " + 1" * 100_000, "import ctypes; ctypes.string_at(0)",
    "import os\nwhile True: os.fork()", "x = '\0'", "x = '\ud83d'"])
def test_no_code_passes_unless_the_tests_ran_to_their_end(code):
    assert not run_code.tests_pass([code], TESTS, 2, 1024)


@pytest.mark.parametrize("tests", ["assert add('\ud83d', '') == 'x'", "assert add(1, 2) ==", "\0",
                                   "assert add(1, 2) == 4", "import sys; sys.exit(0)"])
def test_tests_that_are_odd_are_not_passed(tests):
    assert run_code.tests_pass([ADD], TESTS, 2, 1024)
    assert not run_code.tests_pass([ADD], tests, 2, 1024)


@pytest.mark.parametrize("tried", [
    "os.fork()", "threading.Thread(target=print).start()", "os.kill(os.getppid(), 0)",
    "resource.setrlimit(resource.RLIMIT_CPU, (99, 99))", "open('big', 'wb').write(bytes(2 << 20))"])
def test_limits_bind_for_root_as_well(tried):
    if os.getuid() and "getppid" in tried:
        pytest.skip("only root's code runs as another user")
    code = ("import os, resource, threading\ntry:\n    " + tried + "\n    free = True\n"
            "except (OSError, RuntimeError, ValueError): free = False\nassert not free\n" + ADD)
    assert run_code.tests_pass([code], TESTS, 5, 1024)


@pytest.mark.parametrize("code", [
    "import sys, os\nsys.stdout.close(); os.close(1); os.close(2)", "x = '" + "y" * 2_000_000 + "'",
    "for i in range(20_000): print('x' * 1000)", "import os, sys\nassert os.listdir() == []",
    "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')",
    "import os\nos.makedirs('a/b/c')\nfor d in ('a/b', 'a', '.'): os.chmod(d, 0)",
    "import os\nos.mkdir('a')\nfor d in '.a': os.symlink(KEPT, f'{d}/link')",
    "import math, decimal, re, sqlite3, hashlib, numpy",
    "import pickle\nclass P: pass\nassert type(pickle.loads(pickle.dumps(P()))) is P"])
def test_right_code_passes_and_leaves_nothing(code, tmp_path, monkeypatch):
    """Long, talkative, nested deeper than a path may be long, with links out of the folder."""
    for name in ("kept", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    program = f"KEPT = {str(tmp_path / 'kept')!r}\n{code}\n{ADD}"
    assert run_code.tests_pass([program], TESTS, 10, 1024)
    assert not os.listdir(tmp_path / "scratch") and (tmp_path / "kept" / "file").exists()


def test_a_python_that_does_not_start_is_no_wrong_answer(monkeypatch):
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with pytest.raises(UserError, match="does not start within --run-code's limits"):
        run_code.tests_pass([ADD], TESTS, 2, 1024)


# --------------------------------------------------------------- questions in training tasks

def test_a_question_inside_a_training_task_is_found():
    """In an input or an answer, in other capitals, with its gap filled; once for each question."""
    def asked(name: str, text: str, *options: str) -> Question:
        return Question(name, "", "", options, "", text)
    questions = {"piqa": [asked("piqa", "How do you warm up cold soup?"), asked("piqa", "Cut it.")],
                 "winogrande": [asked("winogrande", "The cup missed the bag because _ was small.",
                                      "the cup", "the bag")]}

    def task(name: str, *pairs: tuple[str, tuple[str, ...]], test: tuple = ()) -> Task:
        return Task(name, pairs, test, ("Do.",), ())
    soup = "Question: how do you warm up COLD soup"
    tasks = [task("in", (soup, ("x",)), (soup, ("y",))),
             task("out", ("Ask.", ("no", f"{soup}, then?"))),
             task("gap", ("say: the cup missed the bag because _ was small", ("x",))),
             task("filled", ("The cup missed the bag because the bag was small. Why?", ("x",))),
             task("near", ("How do you warm up cold soups?", ("Cut it.",)),
                  ("The cup missed the bag because the box was small.", ("x",))),
             task("tested", ("x", ("y",)), test=((soup, ("x",)),))]
    assert find_leaks(tasks, questions) == {
        "in": {"piqa": 1}, "out": {"piqa": 1}, "gap": {"winogrande": 1},
        "filled": {"winogrande": 1}}


def test_the_command_says_what_leaks(tiny_tasks, tmp_path):
    (tmp_path / "questions").mkdir()
    row = {"goal": "alpha 3 and then some more words", "sol1": "x", "sol2": "y", "label": 0}
    (tmp_path / "questions" / "piqa.jsonl").write_text(json.dumps(row))
    leaky = {"input": f"Say: {row['goal']}!", "output": ["x"]}
    task_file(tiny_tasks, "leaky", Instances=[leaky] * 5, Split={"train": 5, "test": 0})
    done = command("experiments.leaks", "--benchmarks", tmp_path / "questions", "--tasks",
                   tiny_tasks, "--out", tmp_path / "out")
    assert done.stdout.splitlines()[-2:] == [
        "  leaky: piqa 1", "1 of 3 training tasks hold a question of the 1 benchmarks"]
    assert json.loads((tmp_path / "out" / "leaks.json").read_text()) == {"leaky": {"piqa": 1}}
    assert "holds none of arc_challenge" in refused("experiments.leaks", "--benchmarks", tmp_path)
