"""Text ↔ token ids, and each model family's chat format around one user message.

A prompt is what the family's own template writes, without a system message: SmolLM2's and
Llama-3.1's templates would begin with one of their own.
"""
import datetime
from pathlib import Path

import tokenizers
import torch
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from torch import Tensor

from utils.cli import UserError, warn
from utils.files import read_json, read_text
from utils.schema import whole

# The token that ends an answer → what a prompt is made of: <special> tokens and texts, {} is the
# message.
CHAT_FORMATS = {
    "<|im_end|>": ("<|im_start|>", "user\n{}", "<|im_end|>", "\n", "<|im_start|>",
                   "assistant\n"),                                                   # SmolLM2
    "<|eot_id|>": ("<|begin_of_text|>", "<|start_header_id|>", "user", "<|end_header_id|>",
                   "\n\n{}", "<|eot_id|>", "<|start_header_id|>", "assistant",
                   "<|end_header_id|>", "\n\n"),                                      # Llama 3
    "<end_of_turn>": ("<bos>", "<start_of_turn>", "user\n{}", "<end_of_turn>", "\n",
                      "<start_of_turn>", "model\n"),                                 # Gemma 2
    "</s>": ("<s>", "[INST] {} [/INST]")}                                            # Mistral


class Tokenizer:
    """A Hugging Face tokenizer.json with the chat format that its special tokens tell.

    Raises UserError where the file is broken or the chat format is not known.
    """

    def __init__(self, path: Path):
        self.tokenizer = read_tokenizer(path)
        self.tokenizer.encode_special_tokens = True       # "<|im_end|>" in a text is just text

        # Which family's format?
        known = [end for end in CHAT_FORMATS if self.tokenizer.token_to_id(end) is not None]
        if not known:
            raise UserError(f"{path} knows none of {', '.join(CHAT_FORMATS)}, by one of which the "
                            "families here end an answer")
        self.end, self.chat = self.tokenizer.token_to_id(known[0]), CHAT_FORMATS[known[0]]
        self.special = {part: self.tokenizer.token_to_id(part) for part in self.chat
                        if part.startswith("<")}

        # Is it that family's, or one with a newer format?
        missing = [part for part, token in self.special.items() if token is None]
        if self.tokenizer.token_to_id("[INST]") is not None:       # Mistral v0.3: one token
            missing.append("a plain-text [INST]")
        if missing:
            raise UserError(f"{path} ends answers with {known[0]} but lacks {', '.join(missing)}; "
                            "its chat format is not known here")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompt(self, message: str) -> list[int]:
        """The ids before the answer: the model's chat template around one user message."""
        parts = [[self.special[part]] if part in self.special else
                 self.encode(part.replace("{}", message)) for part in self.chat]
        return [token for ids in parts for token in ids]

    def answer(self, text: str) -> list[int]:
        """The ids to learn: the answer and the end token."""
        return [*self.encode(text), self.end]


def read_tokenizer(path: str | Path) -> tokenizers.Tokenizer:
    """A Hugging Face tokenizer.json, without the truncation and padding that it may have been
    saved with; UserError when it is missing or broken."""
    path = Path(path)
    if not path.exists():
        older = [file for file in ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
                 if (path.parent / file).exists()]
        raise UserError(f"{path} does not exist"
                        + (f", only {', '.join(older)}" if older else "") + "; make it with "
                        f"transformers: AutoTokenizer.from_pretrained({str(path.parent)!r})"
                        f".save_pretrained({str(path.parent)!r})")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.decode(tokenizer.encode("A word.").ids)            # some break only when used
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:        # the library raises nothing more precise, and may panic
        raise UserError(f"{path} is not a readable tokenizer.json ({error})") from None
    return tokenizer


def read_chat_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder; UserError where it is not that of the model beside it, a
    warning where the template beside it writes other prompts."""
    tokenizer = Tokenizer(folder / "tokenizer.json")
    if (folder / "config.json").exists():
        size = read_json(folder / "config.json").get("vocab_size")
        check_vocabulary(tokenizer.tokenizer, size, folder,
                         {tokenizer.end, *tokenizer.special.values()})
    check_template(tokenizer, folder)
    return tokenizer


def check_vocabulary(tokenizer: tokenizers.Tokenizer, size: int, folder: Path,
                     special: set[int] | None = None) -> None:
    """UserError where a tokenizer can give ids that a model with `size` embeddings lacks; where it
    reads special tokens in a text as plain text, only those in `special` can be given."""
    if not whole(1, 2**24).fits(size):
        raise UserError(f"{folder}/config.json: expected a whole number as vocab_size, found "
                        f"{size!r}")
    ids = {*tokenizer.get_vocab(with_added_tokens=special is None).values(), *(special or ())}
    if special is not None:
        ids |= {i for i, token in tokenizer.get_added_tokens_decoder().items() if not token.special}
    if (last := max(ids, default=0)) >= size:
        raise UserError(f"{folder}: tokenizer.json has ids up to {last}, config.json {size} "
                        "embeddings; they belong to different models")


# ---------------------------------------------------------------------- the folder's template

def check_template(tokenizer: Tokenizer, folder: Path) -> None:
    """A warning where the chat template of a folder writes one user message in another way than
    CHAT_FORMATS, but for a system message before it."""
    template, special = read_template(folder)
    if template is None:
        return

    def refuse(text: str) -> None:
        raise TemplateError(text)
    try:
        engine = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                               extensions=["jinja2.ext.loopcontrols"])
        now = datetime.datetime.now()
        found = engine.from_string(template).render(
            messages=[{"role": "user", "content": "hi"}], add_generation_prompt=True,
            raise_exception=refuse, strftime_now=now.strftime, **special)
    except Exception as error:              # it is a program; whatever goes wrong when it runs
        found = f"no prompt ({error})"

    # The format here has the token that begins a text first, which a tokenizer may add by itself.
    begin = special.get("bos_token") or ""
    usual = "".join(tokenizer.chat).format("hi")
    rest = usual.removeprefix(begin) if begin else usual
    before = found.removesuffix(rest).removeprefix(begin).strip()
    if not found.endswith(rest) or before and "system" not in before:
        warn(f"{folder}: its chat template writes {found[:150]!r}, but prompts here are {usual!r}; "
             "expect worse answers")


def read_template(folder: Path) -> tuple[str | None, dict[str, str]]:
    """(The chat template of a folder, its special tokens by name), from wherever they stand."""
    said = {}
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).exists():
            said |= read_json(folder / name)
    template, alone = said.get("chat_template"), folder / "chat_template.jinja"
    if alone.exists():
        template = read_text(alone)
    if isinstance(template, list):                          # several, by name
        named = {row.get("name"): row.get("template") for row in template
                 if isinstance(row, dict) and isinstance(row.get("name"), str)}
        template = named.get("default")
    tokens = {name: token["content"] if isinstance(token, dict) and "content" in token else token
              for name, token in said.items() if name.endswith("_token")}
    return template if isinstance(template, str) else None, {
        name: token for name, token in tokens.items() if isinstance(token, str)}


def pad(rows: list[list[int]], device: str | torch.device = "cpu") -> Tensor:
    """Ids (b, t), padded with 0 at the right, where a causal model never looks."""
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
