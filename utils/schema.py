"""What a field of a config may hold: a table {field: Kind}, and one function that compares.

    SIZES = {"vocab_size": whole(1, 2**24), "rope_theta": number(1, 1e15), "name": optional(TEXT)}
    wrong = misfits(read_json(path), SIZES)        # "" or 'vocab_size=2.0 (expected a whole …)'

Each reader of a format keeps its table beside it and raises a UserError with what is found here.
"""
from collections.abc import Callable
from typing import NamedTuple


class Kind(NamedTuple):
    """What a value has to be, in words and as a function."""
    words: str
    fits: Callable[[object], bool]


def number(low: float, high: float) -> Kind:
    """A number of that range, ends included; so neither NaN nor infinite, and not true or false."""
    return Kind(f"a number from {low:g} to {high:g}",
                lambda x: isinstance(x, int | float) and not isinstance(x, bool)
                and low <= x <= high)


def whole(low: int, high: int, multiple_of: int = 1) -> Kind:
    """A whole number of that range, written as one: 2, not 2.0."""
    return Kind(("a whole number" if multiple_of == 1 else f"a multiple of {multiple_of}")
                + f" from {low:,} to {high:,}",
                lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high
                and x % multiple_of == 0)


FLAG = Kind("true or false", lambda x: isinstance(x, bool))
TEXT = Kind("a text", lambda x: isinstance(x, str) and "\0" not in x      # else no file's name …
            and not any("\ud800" <= c <= "\udfff" for c in x))              # … nor UTF-8


def one_of(*values: str) -> Kind:
    return Kind(" or ".join(values), lambda x: isinstance(x, str) and x in values)


def optional(kind: Kind) -> Kind:
    """That, or null."""
    return Kind(f"{kind.words}, or null", lambda x: x is None or kind.fits(x))


def either(*kinds: Kind) -> Kind:
    return Kind(" or ".join(kind.words for kind in kinds),
                lambda x: any(kind.fits(x) for kind in kinds))


def list_of(kind: Kind, length: int | None = None) -> Kind:
    return Kind(f"a list of {'' if length is None else f'{length} times '}{kind.words}",
                lambda x: isinstance(x, list | tuple) and all(map(kind.fits, x))
                and length in (None, len(x)))


def object_of(kind: Kind) -> Kind:
    """A JSON object, or a dict, from names to that."""
    return Kind(f"an object with {kind.words} for each name",
                lambda x: isinstance(x, dict) and all(map(kind.fits, x.values()))
                and all(isinstance(name, str) for name in x))


def misfits(found: dict, table: dict[str, Kind], prefix: str = "", between: str = "=") -> str:
    """"field=value (expected …), …" for the fields that are there and not of their kind, or ""."""
    return ", ".join(f"{prefix}{field}{between}{short(found[field])} (expected {kind.words})"
                     for field, kind in table.items()
                     if field in found and not kind.fits(found[field]))


def check_types(**given: tuple[object, type]) -> None:
    """ValueError for an argument, name=(value, its class), that is of another class."""
    for name, (value, wanted) in given.items():
        if not isinstance(value, wanted):
            raise ValueError(f"{name} is {kind_of(value)}, expected a {wanted.__name__}")


def as_texts(given: str | list[str], name: str) -> list[str]:
    """A text, or a list of texts, as a list; ValueError for something else."""
    texts = [given] if isinstance(given, str) else given
    if not (isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)):
        raise ValueError(f"{name}: expected a text or a list of texts, found {kind_of(given)}")
    return list(texts)


def kind_of(value: object) -> str:
    """What somebody handed over: "an Encoder", "a list of 3"."""
    name = type(value).__name__
    return ("an " if name[0] in "AEIOUaeio" else "a ") + name + (
        f" of {len(value)}" if isinstance(value, list | tuple) else "")


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# Sizes far beyond those of any model, and small enough that no product of two overflows.
WIDTH = whole(1, 2**20)
LAYERS = whole(1, 10_000)
EPSILON = number(1e-30, 1)                  # what a norm adds, so that it never divides by 0
