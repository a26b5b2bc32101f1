"""What a T2L says of its training tasks: the nearest one, the warning, --list."""
import json
import os
import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, TINY, command, refused, train_tiny

from encoder import embed, load_encoder
from t2l import CHECKPOINT, generate_lora, load_t2l
from utils import neighbours
from utils.cli import UserError
from utils.neighbours import FILE, find_neighbours, narrow, read_neighbours, save_neighbours

pytestmark = pytest.mark.quick


def tasks(width=24, n=5, k=6, noise=0.3):
    """Embeddings of n tasks, k wordings each, around directions of their own; and their texts."""
    centers = torch.eye(width)[:n]
    return ({f"kind{i % 2}_{i}": c + noise * torch.randn(k, width) / width ** 0.5
             for i, c in enumerate(centers)},
            {f"kind{i % 2}_{i}": [f"Wording {j} of {i}." for j in range(k)] for i in range(n)})


def test_the_nearest_task_and_what_is_far():
    groups, texts = tasks()
    found = find_neighbours(groups, texts)
    own = torch.eye(24)[3:4] * 7                                    # its length plays no part
    assert found.nearest(own)[0] == [3] and found.nearest(own)[1][0] > 0.9
    assert found.far(["near"], own) == ""
    said = found.far(["near", "far"], torch.cat([own, torch.eye(24)[20:21]]))
    assert said.startswith("1 of 2 descriptions are far from all, the first: 'far' is far")
    assert f"usual are {found.threshold:.2f} and more" in said and "\n" not in said


def test_the_threshold_leaves_each_wording_out_of_its_own_task():
    groups, texts = tasks(n=3, k=2)
    expected = []
    for name, group in groups.items():
        for i, e in enumerate(group):
            means = [F.normalize(g, dim=-1).mean(0) for other, g in groups.items() if other != name]
            means.append(group[1 - i])                             # of two, the other one
            expected.append(max(F.cosine_similarity(e, m, dim=0) for m in means))
    wanted = torch.stack(expected).quantile(neighbours.FAR).item()
    assert find_neighbours(groups, texts).threshold == pytest.approx(wanted, abs=1e-5)


def test_single_wordings_and_a_single_task():
    groups, texts = tasks(n=2, k=1)
    assert -1 < find_neighbours(groups, texts).threshold < 0.9      # only the other task is there
    groups, texts = tasks(n=1, k=1)
    found = find_neighbours(groups, texts)
    assert found.threshold == -2 and found.far(["x"], -groups["kind0_0"]) == ""


def test_a_wide_embedding_is_projected_and_keeps_its_similarities():
    a, b = torch.randn(2, 2112)
    x = torch.stack([a, a + 0.5 * b, b])
    small, exact = narrow(x), F.normalize(x, dim=-1)
    assert small.shape == (3, neighbours.WIDTH)
    torch.testing.assert_close(small @ small.T, exact @ exact.T, atol=0.12, rtol=0)
    assert torch.equal(narrow(x[:, :384]), F.normalize(x[:, :384], dim=-1))      # not MiniLM's


def test_written_and_read_again(tmp_path):
    groups, texts = tasks(width=700)
    found = find_neighbours(groups, texts)
    save_neighbours(tmp_path, found)
    again = read_neighbours(tmp_path, 700)
    assert (again.names, again.wordings) == (found.names, found.wordings)
    assert again.threshold == pytest.approx(found.threshold, abs=1e-4)
    torch.testing.assert_close(again.vectors, found.vectors, atol=2e-3, rtol=0)   # int8
    first = (tmp_path / FILE).read_bytes()
    save_neighbours(tmp_path, found)
    assert (tmp_path / FILE).read_bytes() == first
    with pytest.raises(UserError, match="not what train.py writes"):
        read_neighbours(tmp_path, 30)                             # of another encoder
    (tmp_path / FILE).write_bytes(first[:100])
    with pytest.raises(UserError, match="not what train.py writes"):
        read_neighbours(tmp_path, 700)
    assert read_neighbours(tmp_path / "nowhere", 700) is None


# ------------------------------------------------------------------------ through the commands

@pytest.fixture
def known_t2l(tiny_t2l):
    """The tiny T2L with three training tasks."""
    lines = {"say_twice": ["Say it twice.", "Say the word two times."],
             "say_loud": ["Write it in capitals.", "Shout."], "count": ["Count.", "How many?"]}
    encoder = load_encoder(GOLDEN / "bert")
    found = find_neighbours({n: embed(encoder, texts) for n, texts in lines.items()}, lines)
    found.threshold = 1.1                     # whatever it reads is far: the tiny BERT is random
    save_neighbours(tiny_t2l, found)
    return tiny_t2l


def test_the_command_names_the_nearest_task_and_warns(known_t2l):
    own = ["--ckpt", known_t2l, "--model", GOLDEN / "llama"]
    (known_t2l / "config.json").write_text((known_t2l / "config.json").read_text().replace(
        '"encoder": "bert"', f'"encoder": {json.dumps(str(GOLDEN / "bert"))}'))
    far = command("t2l", "Count.", *own).stderr
    assert "nearest training task: count, similarity " in far
    assert "'Count.' is far from every training task" in far and far.count("warning:") == 1
    found = read_neighbours(known_t2l, load_t2l(known_t2l).cfg.emb_size)
    found.threshold = 0.0
    save_neighbours(known_t2l, found)
    (known_t2l / "results.json").write_text(json.dumps(
        {"unseen": {"T2L ckpt, own description": {"count_all": 50.0, "count_few": 25.0}}}))
    assert "task: count (count: 38 % right), " in command("t2l", "Count.", *own).stderr
    (known_t2l / "results.json").write_text("{damaged")          # no T2L needs it to be loaded
    assert load_t2l(known_t2l).neighbours.names == ["say_twice", "say_loud", "count"]
    os.remove(known_t2l / "results.json")
    assert "warning" not in (near := command("t2l", "Count.", *own).stderr) and "count, " in near
    assert "nearest" not in command("t2l", "Count.", "--ckpt", known_t2l, *TINY).stderr


def test_python_warns_once_and_only_with_the_own_encoder(known_t2l):
    t2l = load_t2l(known_t2l)
    t2l.cfg.encoder = str(GOLDEN / "bert")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            generate_lora(t2l, ["zq vx jj", "zq"])
        generate_lora(t2l, "zq vx jj", load_encoder(GOLDEN / "bert"))
    assert len(caught) == 1 and caught[0].filename == __file__
    t2l.neighbours = None                                         # an older checkpoint
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate_lora(t2l, "zq vx jj")


def test_list(known_t2l, tiny_t2l):
    table = {"unseen": {"base model": {"say_slow": 0.0}, "T2L ckpt, own description": {
        "say_slow": 25.0, "say_soft": 50.0, "new_one": 0.0}, "T2L ckpt, random words": {}}}
    said = command("t2l", "--list", "--ckpt", known_t2l).stdout
    assert f"not measured, which python eval.py --ckpt {known_t2l} --out {known_t2l} does" in said
    config = json.loads((known_t2l / "config.json").read_text())
    (known_t2l / "config.json").write_text(json.dumps(config | {"tasks": ["my tasks"]}))
    said = command("t2l", "--list", "--ckpt", known_t2l).stdout
    assert f"--out {known_t2l} --tasks 'my tasks' does" in said and "data.generate" not in said
    seen = {"seen": {"T2L ckpt, own description": {"say_loud": 75.0}}}
    (known_t2l / "results.json").write_text(json.dumps(seen))
    said = command("t2l", "--list", "--ckpt", known_t2l).stdout
    assert "75.0 % right on 1 seen tasks" in said
    (known_t2l / "results.json").write_text(json.dumps(table))
    lines = [line.split() for line in command("t2l", "--list", "--ckpt",
                                              known_t2l).stdout.splitlines()]
    assert lines[1][:4] == ["count", "1", "-", "-"] and lines[1][4] in ("Count.", "How")
    assert lines[2] == ["new", "0", "1", "0", "%"]
    assert lines[3][:5] == ["say", "2", "2", "38", "%"]
    assert lines[4][:8] == "ckpt: 3 training tasks of 2 kinds; 25.0".split()
    table["unseen"] |= {"T2L a, own description": {"x": 1.0}, "T2L b, own description": {}}
    del table["unseen"]["T2L ckpt, own description"]              # whose are they?
    (known_t2l / "results.json").write_text(json.dumps(table))
    assert "not measured" in command("t2l", "--list", "--ckpt", known_t2l).stdout
    os.remove(known_t2l / FILE)
    assert "does not say what it was trained on" in refused("t2l", "--list", "--ckpt", known_t2l)


def test_a_run_leaves_its_tasks_and_a_multi_task_lora_takes_them_away(tiny_tasks, tmp_path):
    flags = ["--tasks", tiny_tasks, "--steps", 1, "--batch-size", 2, "--out", tmp_path / "run"]
    train_tiny("--mode", "sft", *flags, "--eval-samples", 1)
    t2l = load_t2l(tmp_path / "run")
    assert t2l.neighbours.names == ["alpha", "beta"]
    said = command("t2l", "--list", "--ckpt", tmp_path / "run").stdout
    assert "2 training tasks of 2 kinds; 0.0 % right on 1 unseen tasks" in said
    train_tiny("--mode", "mtlora", *flags, "--eval-samples", 0)
    assert not (tmp_path / "run" / FILE).exists()


# ------------------------------------------------------------------------ the committed one

def test_the_committed_checkpoint_knows_its_tasks(suite):
    t2l = load_t2l()
    known = suite.by_name()                     # a kind that came later makes it no wrong one
    assert len(t2l.neighbours.names) == 620 and set(t2l.neighbours.names) <= known.keys()
    assert all(w in known[name].descriptions
               for name, w in zip(t2l.neighbours.names, t2l.neighbours.wordings))
    assert (CHECKPOINT / FILE).stat().st_size < 1e6
    right = json.loads((CHECKPOINT / "results.json").read_text())["unseen"][
        "T2L smollm2-135m, own description"]
    said = f"{sum(right.values()) / len(right):.1f} % right on {len(right)} unseen tasks"
    assert len(right) == 104 and said in command("t2l", "--list").stdout
