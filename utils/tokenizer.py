"""Text ↔ token ids, and each model family's chat format around one user message.

A prompt is what the family's own template writes, without a system message: SmolLM2's and
Llama-3.1's templates would begin with one of their own.
"""
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from utils.cli import UserError
from utils.files import read_json

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
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:                      # the library raises nothing more precise
        raise UserError(f"{path} is not a readable tokenizer.json ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_chat_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder; UserError where it is not that of the model beside it."""
    tokenizer = Tokenizer(folder / "tokenizer.json")
    if (folder / "config.json").exists():
        size = read_json(folder / "config.json").get("vocab_size")
        check_vocabulary(tokenizer.tokenizer, size, folder)
    return tokenizer


def check_vocabulary(tokenizer: tokenizers.Tokenizer, size: int, folder: Path) -> None:
    """UserError where a tokenizer can give ids that a model with `size` embeddings lacks."""
    if not isinstance(size, int):
        raise UserError(f"{folder}/config.json: expected a whole number as vocab_size, found "
                        f"{size!r}")
    if (last := max(tokenizer.get_vocab().values())) >= size:
        raise UserError(f"{folder}: tokenizer.json has ids up to {last}, config.json {size} "
                        "embeddings; they belong to different models")


def pad(rows: list[list[int]], device: str | torch.device = "cpu") -> Tensor:
    """Ids (b, t), padded with 0 at the right, where a causal model never looks."""
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
