"""A page to try Text-to-LoRA on, which also shows whether to believe it.

    pip install -r requirements-demo.txt && python demo.py          # http://127.0.0.1:7860

Whoever asks at the same time is answered in one batch, every row with an adapter of its own: the
base model is the row whose adapter has strength 0. Reading order: limits, a batch, what the page's
buttons do, the page, the command.
"""
from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import torch

from encoder import Encoder, embed, encoder_for
from lora import mix_loras, save_peft
from mistral import Mistral, load_model, load_tokenizer, read_config, select_loras, stream
from t2l import T2L, generate_lora, load_t2l
from utils.cli import Parser, UserError, note, run
from utils.peft import check_model
from utils.serving import RateLimit, SharedBatches
from utils.tokenizer import Tokenizer
from utils.weights import chosen_dtype

SCRATCH = tempfile.TemporaryDirectory()                    # of this process; all zips are here
os.environ |= {"GRADIO_TEMP_DIR": SCRATCH.name, "GRADIO_ANALYTICS_ENABLED": "False"}
try:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
except ModuleNotFoundError:
    gr = None                                              # main says so

NEW_TOKENS = 32                # of an answer, at most
SENTENCE, PROMPT = 400, 1000   # characters, at most
TOKENS, PROMPTS = 512, 16      # of a prompt; prompts of a table
BATCH_ROWS = 64                # answered at once
PEOPLE, AT_ONCE = 64, 16       # whose requests wait, and are in a batch or wait for the next
A_MINUTE, ZIPS = 600, 64       # requests of one address; zips that are kept

EXAMPLES = {                   # of the committed checkpoint
    "Unseen in training": [
        ["Write the animal of the list in round brackets.", "apple, dog, chair, green, violin"],
        ["Write the year of the date in bold.", "4 October 2025"],
        ["Put the place in quotation marks.",
         "Martin ordered two coins in the hospital on Thursday."]],
    "Seen in training": [
        ["Write the word in capital letters.", "hot"],
        ["Is the opinion positive, negative or neutral?",
         "My friends called the soup of our restaurant delightful."]]}
USE = """from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "adapter")"""


# ------------------------------------------------------------------------------------ a batch

@dataclass
class Models:
    t2l: T2L
    encoder: Encoder
    model: Mistral
    tokenizer: Tokenizer


class Row(NamedTuple):
    """A prompt, and the sentences whose ΔW, each times its weight, are added up to answer it."""
    prompt: str
    weighed: list[tuple[str, float]]       # one or two


class Answer(NamedTuple):
    text: str
    adapter_ms: float                      # for the adapters of the whole batch
    answer_ms: float                       # to its last token
    rows: int                              # of the batch
    nearest: list[tuple[str, float]]       # training descriptions, and their similarity


@torch.inference_mode()
def answer(models: Models, rows: list[Row]) -> Iterator[list[Answer]]:
    """Every row's answer so far, after every token."""
    # Each sentence's adapter once; a row's is the sum of two where anybody has two.
    start, parts = time.perf_counter(), max(len(row.weighed) for row in rows)
    pairs = [(*row.weighed, ("", 0.0))[:parts] for row in rows]
    sentences = list(dict.fromkeys(text for pair in pairs for text, _ in pair))
    task_emb = embed(models.encoder, sentences)
    loras = models.t2l.adapters(task_emb)
    weighed = []
    for side in zip(*pairs):                               # the first sentences, then the second
        which = torch.tensor([sentences.index(text) for text, _ in side])
        weights = torch.tensor([weight for _, weight in side])[:, None, None, None]
        weighed.append((select_loras(loras, which), weights))
    lora = mix_loras(weighed)
    made = time.perf_counter()

    neighbours = models.t2l.neighbours
    nearest = neighbours.closest(task_emb, 3) if neighbours else [[] for _ in sentences]
    main_ones = [sentences.index(max(pair, key=lambda part: part[1])[0]) for pair in pairs]
    last, ended = [""] * len(rows), [made] * len(rows)
    for texts in stream(models.model, models.tokenizer, [row.prompt for row in rows], lora,
                        NEW_TOKENS):
        now = time.perf_counter()
        ended = [now if new != old else then for new, old, then in zip(texts, last, ended)]
        last = texts
        yield [Answer(text, 1e3 * (made - start), 1e3 * (end - made), len(rows), nearest[i])
               for text, end, i in zip(texts, ended, main_ones)]


# ----------------------------------------------------------------------- what the buttons do

def refused(text: str) -> gr.Error:
    """What the page shows in place of an answer."""
    return gr.Error(text, print_exception=False)


def weighed_sentences(sentence: str, strength: float, second: str, share: float
                      ) -> list[tuple[str, float]]:
    """What the sliders say: the strength, divided between one or two sentences."""
    strength, share = min(2.0, max(0.0, strength)), min(1.0, max(0.0, share))
    if not second:
        return [(sentence, strength)]
    return [(sentence, strength * (1 - share)), (second, strength * share)]


class Page:
    """What all visitors share; of a visitor only the last zips are kept."""

    def __init__(self, models: Models):
        self.models = models
        self.batches = SharedBatches(partial(answer, models), BATCH_ROWS)
        self.rate, self.zips = RateLimit(A_MINUTE), deque()

    def check(self, request: gr.Request, prompts: list[str], *sentences: str) -> list[str]:
        """The texts as UTF-8 has them; gr.Error, which the page shows, for what is too much."""
        if not self.rate.allows(request.client.host):
            raise refused(f"Please wait: {A_MINUTE} requests a minute come from your address.")
        texts = [str(text or "").encode("utf-8", "replace").decode().strip()
                 for text in (*prompts, *sentences)]
        prompts, sentences = texts[:len(prompts)], texts[len(prompts):]
        if not sentences[0] or not all(prompts):
            raise refused("Write a sentence that says what to do, and a prompt.")
        tokens = self.models.tokenizer.encode          # not .prompt: only the worker uses templates
        if any(len(text) > SENTENCE for text in sentences) or any(
                len(text) > PROMPT or len(tokens(text)) > TOKENS for text in prompts):
            raise refused(f"Too long: at most {SENTENCE} characters for a sentence, {PROMPT} or "
                           f"{TOKENS} tokens for a prompt.")
        return texts

    def other_task(self, sentence: str) -> str:
        """A training description with few words in common; always the same for a sentence."""
        known = self.models.t2l.neighbours
        drawn = random.Random(sentence).sample(known.wordings, min(20, len(known.wordings))) \
            if known else ["Write the word in capital letters.", "How many words are there?"]
        words = set(re.findall(r"\w+", sentence.lower()))
        return min(drawn, key=lambda text: len(words & set(re.findall(r"\w+", text.lower()))))

    def ask(self, rows: list[Row]) -> Iterator[list[Answer]]:
        """Answered with everybody else's; what goes wrong is the server's to read."""
        try:
            yield from self.batches.ask(rows)
        except GeneratorExit:                                          # a closed tab
            raise
        except BaseException as error:
            note(f"error: {type(error).__name__}: {error}")
            raise refused("This could not be answered.") from None

    def compare(self, sentence: str, prompt: str, strength: float, second: str, share: float,
                request: gr.Request) -> Iterator[tuple[str, ...]]:
        """One prompt: base model, adapted, and (the control) adapted to another task."""
        prompt, sentence, second = self.check(request, [prompt], sentence, second)
        control = self.other_task(sentence)
        weighed = weighed_sentences(sentence, strength, second, share)
        rows = [Row(prompt, [(sentence, 0.0)]), Row(prompt, weighed),
                Row(prompt, [(control, sum(weight for _, weight in weighed))])]
        for base, adapted, other in self.ask(rows):
            yield (base.text, adapted.text, other.text, control, self.told(adapted, len(weighed)),
                   self.nearest(adapted))

    def told(self, found: Answer, parts: int) -> str:
        cfg = self.models.t2l.cfg
        size = parts * cfg.n_layers * cfg.rank * sum(map(sum, cfg.modules.values()))
        return (f"adapter: {size:,} numbers, {4e-6 * size:.1f} MB; {found.adapter_ms:.0f} ms for "
                f"all adapters of this batch of {found.rows}, {found.answer_ms:.0f} ms for the "
                "answer")

    def nearest(self, found: Answer) -> str:
        if not found.nearest:
            return "This checkpoint does not say what it was trained on."
        usual = self.models.t2l.neighbours.threshold
        warning = "" if found.nearest[0][1] >= usual else (
            f"Warning: far from every training task (usual are {usual:.2f} and more); the adapter "
            "is probably unrelated.\n")
        return warning + "\n".join(f"{similarity:.2f}  {text}" for text, similarity
                                   in found.nearest)

    def table(self, sentence: str, strength: float, second: str, share: float, prompts: str,
              request: gr.Request) -> Iterator[list]:
        """Several prompts, one a line: [prompt, base, adapted]."""
        lines = [line for line in str(prompts or "").splitlines() if line.strip()]
        if len(lines) > PROMPTS:
            raise refused(f"At most {PROMPTS} prompts.")
        *lines, sentence, second = self.check(request, lines, sentence, second)
        weighed = weighed_sentences(sentence, strength, second, share)
        rows = [Row(line, how) for how in ([(sentence, 0.0)], weighed) for line in lines]
        for found in self.ask(rows):
            texts, n = [a.text for a in found], len(lines)
            yield [list(three) for three in zip(lines, texts[:n], texts[n:])]

    def download(self, sentence: str, strength: float, second: str, share: float,
                 request: gr.Request) -> str:
        """The adapter as a PEFT folder in a zip; its path holds nothing that was sent."""
        sentence, second = self.check(request, [], sentence, second)
        weighed = weighed_sentences(sentence, strength, second, share)
        lora = mix_loras([(generate_lora(self.models.t2l, text, self.models.encoder), weight)
                          for text, weight in weighed])
        folder = Path(SCRATCH.name) / secrets.token_hex(16)       # nobody guesses another's
        save_peft(folder / "zip" / "adapter", *lora, base_model=self.models.t2l.cfg.base_model,
                  description=" + ".join(f"{weight:g} × {text}" for text, weight in weighed))
        self.zips.append(folder)
        if len(self.zips) > ZIPS:
            shutil.rmtree(self.zips.popleft(), ignore_errors=True)
        return shutil.make_archive(str(folder / "adapter"), "zip", folder / "zip")


# ------------------------------------------------------------------------------------ the page

def build(page: Page, committed: bool) -> gr.Blocks:
    """`committed`: the examples are known to be seen or unseen."""
    cfg = page.models.t2l.cfg
    with gr.Blocks(title="Text-to-LoRA", analytics_enabled=False,
                   delete_cache=(600, 3600)) as blocks:
        gr.Markdown("# Text-to-LoRA\nSay what a language model shall do; one forward pass of a "
                    f"hypernetwork writes a LoRA for it. The model sees the prompt alone. "
                    f"*T2L-{cfg.arch} for {cfg.base_model}, encoder {cfg.encoder}*")
        sentence = gr.Textbox(label="What to do", value=EXAMPLES["Unseen in training"][0][0],
                              max_length=SENTENCE, elem_id="sentence")
        with gr.Accordion("Strength, and a second sentence", open=False):
            strength = gr.Slider(0, 2, 1, step=0.05, label="Strength of ΔW", elem_id="strength")
            second = gr.Textbox(label="Second sentence", max_length=SENTENCE, elem_id="second")
            share = gr.Slider(0, 1, 0.5, step=0.05, label="Its share", elem_id="share")

        with gr.Tab("One prompt"):
            prompt = gr.Textbox(label="Prompt", value=EXAMPLES["Unseen in training"][0][1],
                                lines=2, max_length=PROMPT, elem_id="prompt")
            answer_button = gr.Button("Answer", variant="primary", elem_id="answer")
            with gr.Row():
                base = gr.Textbox(label="Base model", lines=4, elem_id="base")
                adapted = gr.Textbox(label="Adapted", lines=4, elem_id="adapted")
                with gr.Column():
                    other = gr.Textbox(label="Control: adapted to another task",
                                       lines=2, elem_id="other")
                    control = gr.Textbox(label="… which is", elem_id="control")
            told = gr.Textbox(label="Cost", elem_id="told")
            nearest = gr.Textbox(label="Nearest training descriptions, and their similarity",
                                 lines=3, elem_id="nearest")
            for title, rows in EXAMPLES.items():
                gr.Examples(rows, [sentence, prompt], label=title if committed else "Examples")

        mixed = [sentence, strength, second, share]
        several_prompts_tab(page, mixed)
        zip_tab(page, mixed)
        asked = [sentence, prompt, strength, second, share]
        shown = [base, adapted, other, control, told, nearest]
        gr.on([answer_button.click, sentence.submit, prompt.submit, second.submit,
               strength.release, share.release], page.compare, asked, shown,
              api_name="compare", trigger_mode="always_last", concurrency_limit=AT_ONCE)
    return blocks.queue(max_size=PEOPLE, api_open=False)       # who waits sees the place


def several_prompts_tab(page: Page, mixed: list[gr.components.Component]) -> None:
    with gr.Tab("Several prompts"):
        prompts = gr.Textbox(label=f"Prompts, one a line (at most {PROMPTS})", lines=6,
                             max_length=PROMPT * PROMPTS, elem_id="prompts",
                             value="apple, dog, chair, green, violin\nred, bear, table, cup")
        button = gr.Button("Answer all", variant="primary", elem_id="answer-all")
        table = gr.Dataframe(headers=["prompt", "base", "adapted"], wrap=True, interactive=False,
                             elem_id="table")
        button.click(page.table, [*mixed, prompts], table, concurrency_limit=2)


def zip_tab(page: Page, mixed: list[gr.components.Component]) -> None:
    with gr.Tab("Take it with you"):
        button = gr.Button("Make the zip", variant="primary", elem_id="make-zip")
        file = gr.File(label="A PEFT folder; unpack it, then", elem_id="zip")
        gr.Code(USE.format(base=page.models.t2l.cfg.base_model), language="python",
                interactive=False)
        button.click(page.download, mixed, file, concurrency_limit=1)


class Gate:
    """Of all that Gradio offers, only what the page needs: no uploads, no proxy, no other ways to
    a function than through the queue."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        path = unquote(scope.get("path", ""))
        allowed = path.endswith(("/queue/join", "/cancel", "/reset")) \
            if scope.get("method", "GET") not in ("GET", "HEAD") else \
            not re.search("=https?:|/proxy=|/monitoring|/stream/", path)
        app = self.app if allowed else PlainTextResponse("not here", 403)
        await app(scope, receive, send)


# ------------------------------------------------------------------------------ the command

def main() -> None:
    parser = Parser("A page to try Text-to-LoRA on.")
    parser.folder("--ckpt", "a trained T2L folder", "the committed one for SmolLM2-135M-Instruct")
    parser.models(encoder="the checkpoint's")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for all who reach this "
                        "machine, without a password")
    parser.add_argument("--port", type=int, default=7860, help="where the page is")
    args = parser.parse_args()

    if gr is None:
        raise UserError("demo.py needs gradio: pip install -r requirements-demo.txt")
    t2l = load_t2l(args.ckpt)
    if t2l.cfg.tasks:
        raise UserError(f"{args.ckpt} reads a task's number, not a sentence")
    if args.encoder:
        t2l.neighbours = None                                  # their vectors are another's
    check_model(t2l.cfg, read_config(args.model))
    model = load_model(args.model, chosen_dtype(args), args.device)
    page = Page(Models(t2l, encoder_for(t2l.cfg, args.model, args.encoder), model,
                       load_tokenizer(args.model)))
    blocks = build(page, committed=args.ckpt is None)
    _, url, _ = blocks.launch(server_name=args.host, server_port=args.port, share=False, quiet=True,
                              run_history=False, footer_links=[], show_error=True, mcp_server=False,
                              enable_monitoring=False, prevent_thread_lock=True,
                              app_kwargs={"middleware": [Middleware(Gate)]})
    print(f"the page is at {url}; Ctrl-C ends it", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    run(main)
