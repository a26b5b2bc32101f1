"""The text encoder against transformers' BERT (golden) and sentence-transformers' MiniLM (live)."""
import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file

import encoder as encoder_ops


def test_mean_pooled_states_equal_transformers():
    expected = load_file(GOLDEN / "bert" / "expected.safetensors")
    encoder = encoder_ops.load_encoder(GOLDEN / "bert")
    ours = encoder(expected["ids"], expected["mask"])
    torch.testing.assert_close(ours, expected["mean"], atol=1e-5, rtol=1e-5)
    everything = torch.ones_like(expected["mask"])                        # negative control
    assert (encoder(expected["ids"], everything) - expected["mean"]).abs().max() > 1e-2


def test_a_batch_of_any_order_embeds_as_each_text_alone():
    encoder = encoder_ops.load_encoder(GOLDEN / "bert")
    texts = ["a long description of a task", "b", "something else.", "", "a"]
    together = encoder.embed(texts, batch_size=2)
    alone = torch.cat([encoder.embed([text]) for text in texts])
    torch.testing.assert_close(together[[0, 1, 2, 4]], alone[[0, 1, 2, 4]], atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()


SENTENCES = [f"{verb} the {thing} of the {place}."
             for verb in ("Give", "Write down", "Count", "Hide")
             for thing in ("last letter", "capital") for place in ("word", "country in Europe")]
SENTENCES += ["a", "Réponds en français.", "2 + 2 = 4", "WHAT IS THIS?"]


def test_live_minilm_equals_sentence_transformers(default_models):
    package = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules
    folder = default_models[1]
    word = modules.Transformer(str(folder))
    pool = modules.Pooling(384, pooling_mode="mean")
    theirs = package.SentenceTransformer(modules=[word, pool], device="cpu")
    ours = encoder_ops.load_encoder(folder).embed(SENTENCES)
    cosine = torch.cosine_similarity(ours, torch.tensor(theirs.encode(SENTENCES)))
    assert len(SENTENCES) == 20 and cosine.min() > 0.9999
