"""Vectors kept across runs: the same bytes again, another encoder's never, damage is mended."""
import os

import pytest
import torch
from conftest import GOLDEN

from encoder import OneHot, embed, load_encoder
from utils import embedding_cache

pytestmark = pytest.mark.quick
TEXTS = [f"Write the word {i} backwards." for i in range(12)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache that lists of ten texts are worth."""
    monkeypatch.setenv("T2L_CACHE", str(tmp_path))
    monkeypatch.setattr(embedding_cache, "FEWEST", 10)
    return tmp_path / "embeddings"


@pytest.fixture
def encoder(monkeypatch):
    """The tiny BERT, which counts how often it embeds as `encoder.calls`."""
    encoder = load_encoder(GOLDEN / "bert")
    plain, encoder.calls = encoder.embed, 0

    def counted(texts, **more):
        encoder.calls += 1
        return plain(texts, **more)
    monkeypatch.setattr(encoder, "embed", counted)
    return encoder


def files(cache) -> list:
    return sorted(cache.glob("*.safetensors")) if cache.exists() else []


def test_the_second_time_nothing_is_embedded_and_the_bytes_are_the_same(cache, encoder):
    first, second = embed(encoder, TEXTS), embed(encoder, TEXTS)
    assert encoder.calls == 1 and torch.equal(first, second) and first.std() > 0.1
    assert len(files(cache)) == 1
    embed(encoder, TEXTS[:5])                                    # too few to be worth it
    embed(OneHot([text[:-1] for text in TEXTS]), TEXTS)          # no identity: never kept
    assert encoder.calls == 2 and len(files(cache)) == 1


def test_what_decides_the_vectors_decides_the_file(cache, encoder):
    """Another text, order, weight, tokenizer or limit, or number of threads: made anew."""
    embed(encoder, TEXTS)
    for change in (lambda: TEXTS[::-1], lambda: [*TEXTS[:-1], "Other."],
                   lambda: encoder.embeddings.word_embeddings.weight.data[5, 0].add_(1e-6),
                   lambda: setattr(encoder, "limit", 9),
                   lambda: encoder.tokenizer.add_tokens(["backwards"])):
        texts = found if isinstance(found := change(), list) else TEXTS
        before = encoder.calls
        embed(encoder, texts)
        embed(encoder, texts)
        assert encoder.calls == before + 1
    assert len(files(cache)) == 6
    key, threads = embedding_cache.cache_key(encoder, TEXTS), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert embedding_cache.cache_key(encoder, TEXTS) != key
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"",
                                    lambda data: data[:-1] + bytes([data[-1] ^ 1]),
                                    lambda data: b"no tensors here" * 9])
def test_a_damaged_file_is_made_anew(damage, cache, encoder):
    first, path = embed(encoder, TEXTS), files(cache)[0]
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match="made anew"):
        assert torch.equal(embed(encoder, TEXTS), first)
    assert encoder.calls == 2 and path.read_bytes() == whole


def test_the_ones_unused_for_longest_go(cache, encoder, monkeypatch):
    for n in (10, 11):
        embed(encoder, TEXTS[:n])
    old, newer = sorted(files(cache), key=lambda file: file.stat().st_size)
    os.utime(newer, (1, 1))                                      # the larger one, long ago
    monkeypatch.setattr(embedding_cache, "LIMIT", 2 * newer.stat().st_size)
    embed(encoder, TEXTS)
    assert old in files(cache) and newer not in files(cache) and len(files(cache)) == 2


def test_a_cache_that_cannot_be_written_is_told_and_does_not_stop_anything(cache, encoder):
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert embed(encoder, TEXTS).shape == (12, encoder.width)
