"""The frequencies of rotary positions (RoPE, arXiv 2104.09864), and how long-context models stretch
them. c channels of a head; what turns by them is in mistral.py."""
import math

import torch
from torch import Tensor


def rope_frequencies(c: int, theta: float, llama3: dict | None = None,
                     device: torch.device | None = None) -> Tensor:
    """(c/2,): the pair of channels i turns by theta^(-2i/c) from one position to the next."""
    frequencies = theta ** (-torch.arange(0, c, 2, device=device).float() / c)
    return llama3_scaling(frequencies, *llama3.values()) if llama3 else frequencies


def llama3_scaling(frequencies: Tensor, factor: float, low: float, high: float,
                   context: int) -> Tensor:
    """Llama 3.1's frequencies (arXiv 2407.21783) for more than the `context` it was trained with.

    Those that turn `high` times or more within it stay, those that turn `low` times or less become
    `factor` times slower, and between them the two are mixed linearly in the number of turns.
    """
    turns = context * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / factor)


def ntk_scaling(c: int, theta: float, factor: float) -> Tensor:
    """gte-large's frequencies: theta becomes factor · theta, and every frequency is divided by
    factor^(2/c), so that the fastest slow down least."""
    return rope_frequencies(c, factor * theta) / factor ** (2 / c)
