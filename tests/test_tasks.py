"""From tasks to batches of token ids: what is drawn, what is learnt, what is in the prompt."""
import math
import random
from collections import Counter

import pytest
import torch
from conftest import GOLDEN, task_file

from data.suite import load_suite
from data.tasks import Sample, draw_from_each, draw_samples, encode
from data.tasks import test_samples as draw_test_samples        # pytest must not take it for a test
from mistral import load_tokenizer

pytestmark = pytest.mark.quick


def test_the_loss_covers_exactly_the_answer_and_its_end_token():
    tokenizer = load_tokenizer(GOLDEN / "llama")
    samples = [Sample("t", "d", "one two", ("ab", "no")), Sample("t", "d", "x", ("longer answer",))]
    batch = encode(samples, tokenizer)
    targets = batch.targets.tolist()
    for i, sample in enumerate(samples):
        kept = batch.keep[i].nonzero()[:, 0]
        n, ids = len(tokenizer.answer(sample.answers[0])), batch.ids[i].tolist()
        mine, targets = targets[:n], targets[n:]
        assert len(kept) == n and mine == tokenizer.answer(sample.answers[0])
        assert ids[:kept[0] + 1] == tokenizer.prompt(sample.input)
        assert ids[kept[0] + 1:kept[-1] + 1] == mine[:-1]    # each kept position sees the past only
        assert not any(ids[kept[-1] + 1:])
    assert not targets
    n = [len(tokenizer.answer(s.answers[0])) for s in samples]
    expected = torch.tensor([1 / (2 * n[0])] * n[0] + [1 / (2 * n[1])] * n[1])
    torch.testing.assert_close(batch.weights, expected)


def test_prompts_hold_the_description_only_where_asked():
    tokenizer, sample = load_tokenizer(GOLDEN / "llama"), Sample("t", "say it", "x", ("y",))
    for describe, there in (("lora", False), ("prompt", True), ("both", True)):
        text = tokenizer.decode(encode([sample], tokenizer, describe).ids[0].tolist())
        assert ("say it" in text) == there


def test_sampling_is_uniform_whatever_the_length_and_batches_hold_similar_lengths(tiny_tasks):
    task_file(tiny_tasks, "long", Instances=[{"input": f"{'word ' * 20}{i}", "output": ["x"]}
                                             for i in range(20)])
    tokenizer, suite = load_tokenizer(GOLDEN / "llama"), load_suite(tiny_tasks)
    batches = draw_samples(suite.train, tokenizer, 8, seed=random.randrange(10 ** 6))
    drawn = [next(batches) for _ in range(240)]
    counts = Counter(s.task for batch in drawn for s in batch)
    n = sum(counts.values())
    for task in suite.train:         # five standard deviations of a binomial draw
        assert abs(counts[task.name] - n / 3) < 5 * math.sqrt(n * 2 / 9)
    mixed = [len({len(s.input) > 50 for s in batch}) == 2 for batch in drawn]
    assert sum(mixed) <= len(drawn) / 4
    words = {s.description for batch in drawn for s in batch}
    assert words == {d for t in suite.train for d in t.descriptions}     # all of these, no held-out


def test_draws_do_not_depend_on_company(tiny_tasks):
    tasks = load_suite(tiny_tasks).train
    both, one = draw_from_each(tasks, 8), draw_from_each(tasks[1:], 8)
    for _ in range(3):
        assert next(both)[8:] == next(one)


def test_exercises_are_test_inputs_with_the_wordings_asked_for(suite):
    samples = draw_test_samples(suite.train, 2, lambda t: t.held_out)
    by_name = {t.name: t for t in suite.train}
    assert len(samples) == 2 * len(suite.train)
    for s in samples:
        task = by_name[s.task]
        assert s.description in task.held_out and s.description not in task.descriptions
        assert (s.input, s.answers) in task.test
    assert samples == draw_test_samples(suite.train, 2, lambda t: t.held_out)
