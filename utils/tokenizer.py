"""Text ↔ token ids, and the model's chat format around one user message.

Four formats are known here. They are what the family's own template writes, without a system
message: SmolLM2's and Llama-3.1's templates would begin with one of their own. Where a folder's
chat template writes anything else, prompts are what it writes (utils/chat_template.py), as
transformers and the engines that serve models write them: Qwen2.5's with its system message,
Qwen3's with thinking off.
"""
import re
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from utils.chat_template import ChatTemplate
from utils.cli import UserError, note
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
    """A Hugging Face tokenizer.json with the chat format that its special tokens tell, or that of
    the chat template beside it.

    Raises UserError where the file is broken, the chat format not known, or the template fails.
    """

    def __init__(self, path: Path):
        self.tokenizer = read_tokenizer(path)
        self.tokenizer.encode_special_tokens = True       # "<|im_end|>" in a text is just text
        self.template: ChatTemplate | None = None

        # One of the four families' formats, or one with another template?
        known = [end for end in CHAT_FORMATS if self.tokenizer.token_to_id(end) is not None]
        self.chat = CHAT_FORMATS[known[0]] if known else ()
        self.special = {part: self.tokenizer.token_to_id(part) for part in self.chat
                        if part.startswith("<")}
        missing = [part for part, token in self.special.items() if token is None]
        if self.tokenizer.token_to_id("[INST]") is not None:       # Mistral v0.3: one token
            missing.append("a plain-text [INST]")
        fixed = "".join(self.chat) if known and not missing else ""
        text, names = read_template(path.parent)
        if text is not None:
            self.template = other_template(path.parent, text, names, fixed)
        if self.template:
            added = self.tokenizer.get_added_tokens_decoder().items()
            self.special = {token.content: i for i, token in added if token.special}
            longest = sorted(self.special, key=len, reverse=True)
            self.spelt = re.compile("|".join(map(re.escape, longest)) or "(?!)")
            self.end = self.end_of_answer(names)
        elif fixed:
            self.end = self.tokenizer.token_to_id(known[0])
        elif known:
            raise UserError(f"{path} ends answers with {known[0]} but lacks {', '.join(missing)}; "
                            "its chat format is not known here, and no chat template is beside it")
        else:
            raise UserError(f"{path} knows none of {', '.join(CHAT_FORMATS)}, by one of which the "
                            "families here end an answer, and no chat template is beside it")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompt(self, message: str) -> list[int]:
        """The ids before the answer: the model's chat template around one user message."""
        if self.template:
            return self.rendered(message)
        parts = [[self.special[part]] if part in self.special else
                 self.encode(part.replace("{}", message)) for part in self.chat]
        return [token for ids in parts for token in ids]

    def answer(self, text: str) -> list[int]:
        """The ids to learn: the answer and the end token."""
        return [*self.encode(text), self.end]

    def rendered(self, message: str) -> list[int]:
        """What the folder's template writes, as ids. A special token that the message spells is
        text: while the template runs, a character for private use stands for it."""
        if not self.spelt.search(message):                # all of it at once, as transformers does
            self.tokenizer.encode_special_tokens = False
            try:
                return self.encode(self.template.render(message))
            finally:
                self.tokenizer.encode_special_tokens = True

        free = (c for c in map(chr, range(0xf0000, 0xffffe)) if c not in message)
        stands_for = dict(zip(free, sorted(set(self.spelt.findall(message)))))
        standing_in = {token: c for c, token in stands_for.items()}
        text = self.template.render(self.spelt.sub(lambda m: standing_in[m[0]], message))
        ids, start = [], 0
        for found in [*self.spelt.finditer(text), None]:  # the template's own, and what is between
            part = text[start:found.start() if found else None]
            ids += self.encode(part.translate(str.maketrans(stands_for)))
            if found:
                ids.append(self.special[found[0]])
                start = found.end()
        return ids

    def end_of_answer(self, names: dict[str, str]) -> int:
        """The token that the template writes after an answer; else the tokenizer's eos_token."""
        answer = "an answer"
        while answer in self.template.render("hi"):
            answer += " more"
        try:
            _, there, after = self.template.render("hi", answer).rpartition(answer)
            after = after if there else ""
        except UserError:
            if self.template.worker.poll() is not None:
                raise
            after = ""                                    # it knows user messages only
        added = [t.content for t in self.tokenizer.get_added_tokens_decoder().values()]
        ends = sorted((after.find(token), -len(token), token) for token in added
                      if token in after and token.strip())
        end = ends[0][2] if ends else names.get("eos_token", "")
        if self.tokenizer.token_to_id(end) is None:
            raise UserError(f"{self.template.where}: its chat template writes {after[:60]!r} after "
                            "an answer, in which no token ends it, and tokenizer_config.json names "
                            "no eos_token that the tokenizer knows")
        return self.tokenizer.token_to_id(end)


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
    """The tokenizer of a model's folder; UserError where it is not that of the model beside it."""
    tokenizer = Tokenizer(folder / "tokenizer.json")
    if (folder / "config.json").exists():
        size = read_json(folder / "config.json").get("vocab_size")
        check_vocabulary(tokenizer.tokenizer, size, folder,
                         {tokenizer.end, *tokenizer.prompt("hi")})
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

def other_template(folder: Path, text: str, names: dict[str, str],
                   fixed: str) -> ChatTemplate | None:
    """A folder's chat template, unless it writes what `fixed` says ("" where none of the four
    formats fits), or that after a default system message. Qwen's models are trained with theirs.
    """
    template = ChatTemplate(text, names, folder)
    found = template.render("hi")
    if "hi" not in found:
        raise UserError(f"{folder}: its chat template leaves out the user's message; it writes "
                        f"{found[:60]!r}")
    path = folder / "config.json"
    family = read_json(path).get("model_type") if path.exists() else ""

    # The fixed format has the token that begins a text first, which a tokenizer may add by itself.
    begin = names.get("bos_token") or ""
    usual = fixed.format("hi") if fixed else "\0"
    rest = usual.removeprefix(begin) if begin else usual
    before = found.removesuffix(rest).removeprefix(begin).strip()
    if found.endswith(rest) and (not before or "system" in before and "qwen" not in str(family)):
        return None
    note(f"{folder}: prompts are what its chat template writes, {found[:150]!r}")
    return template


def read_template(folder: Path) -> tuple[str | None, dict[str, str]]:
    """(The chat template of a folder, its special tokens by name), from wherever they stand."""
    said = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json", "chat_template.json"):
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
