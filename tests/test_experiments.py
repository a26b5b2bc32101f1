"""The small experiments: descriptions reworded and mixed, codes, costs, pictures, own tasks."""
import json
import random
from dataclasses import replace

import pytest
import torch
from conftest import GOLDEN, TINY, call, command, refused, task_file

from data.controls import Controls
from data.suite import load_suite
from data.tasks import Sample
from encoder import embed, load_encoder
from experiments import cost, mixing, own_tasks, plots
from experiments.codes import shares
from experiments.own_tasks import TASKS, WORDINGS, wordings_of
from lora import map_lora
from t2l import T2L, T2LConfig, adapted_modules, generate_lora, load_t2l


# ------------------------------------------------------------------------ reworded and mixed

def test_a_row_for_every_kind_of_description(tiny_tasks, tiny_t2l, tmp_path):
    flags = [*TINY, "--ckpt", tiny_t2l, "--eval-samples", 2, "--out", tmp_path / "out", "--tasks"]
    config = json.loads((tiny_t2l / "config.json").read_text())
    (tiny_t2l / "config.json").write_text(json.dumps(config | {"library": ["alpha"]}))
    call("experiments.wordings", *flags, tiny_tasks)
    found = json.loads((tmp_path / "out" / "wordings_ckpt.json").read_text())
    ends = ["held-out wording", "training wording", "words in any order", "another task's",
            "random words", "random characters", "nothing", "mean embedding"]
    assert list(found["unseen"]) == list(found["seen"]) == [f"T2L ckpt, {end}" for end in ends]
    assert found["seen"]["T2L ckpt, nothing"].keys() == {"alpha"}        # beta was not trained on
    assert (tmp_path / "out" / "wordings_ckpt.csv").read_text().count("\n") == 17
    alone = tmp_path / "other" / "alone"
    alone.mkdir(parents=True)
    task_file(alone, "alpha")
    assert "has one task" in refused("experiments.wordings", *flags, alone)


@pytest.mark.quick
def test_what_the_wordings_are(suite):
    controls, rng, task = Controls(suite), random.Random(0), suite.unseen[0]
    sample = Sample(task.name, "its own", "x", ("y",))
    assert controls.training(sample, rng) in task.descriptions
    assert controls.held_out(sample, rng) in task.held_out and controls.empty(sample, rng) == ""
    words = controls.shuffled(replace(sample, description="a b c d e f g h"), rng).split()
    assert words != sorted(words) == list("abcdefgh")
    long = {word for word in controls.random_characters(sample, rng).split() if len(word) > 3}
    assert long and not long & set(controls.words)


@pytest.mark.quick
@pytest.mark.parametrize("arch", ["S", "bank"])
def test_codes_give_the_adapters_of_their_descriptions(arch):
    """A mix with all the weight on one side is that side; halfway the code is, ΔW is not, between
    the adapters' A and B."""
    bert, cfg = load_encoder(GOLDEN / "bert"), T2LConfig(arch, 16, 2, {"q_proj": (12, 8)})
    cfg.emb_size = bert.width
    torch.manual_seed(0)
    t2l = T2L(cfg).eval()
    for weight in t2l.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    reader, texts = mixing.Reader(t2l, bert), [["Do this.", "Or that."], ["Write it.", "Read it."]]

    def delta(lora) -> torch.Tensor:
        return lora[1]["q_proj"] @ lora[0]["q_proj"]                            # (b, n, 8, 12)
    first, second = (delta(generate_lora(t2l, lines, bert)) for lines in texts)
    for of in ("code", "ΔW"):
        for weights, expected in (([1, 0], first), ([0, 1], second)):
            torch.testing.assert_close(delta(reader.mixed(texts, weights, of)), expected)
    half = delta(reader.mixed(texts, [0.5, 0.5], "ΔW"))
    torch.testing.assert_close(half, (first + second) / 2)
    moved = delta(reader.mixed(texts, [0.5, 0.5], "code"))
    for end in (first, second, half):
        assert (moved - end).abs().max() > 1e-3


@pytest.mark.quick
def test_what_the_mixes_ask(suite, tiny_t2l):
    """The questions on the built-in suite, and the sentences that T2L is given."""
    reader = mixing.Reader(load_t2l(tiny_t2l), load_encoder(GOLDEN / "bert"))
    given: list[list[str]] = []
    reader.lora = lambda texts: given.append(texts) or map_lora(({}, {}), None)
    reader.code = lambda texts: given.append(texts) or torch.zeros(1)
    reader.of_code = lambda code: ({}, {})

    rows, asked = mixing.average_wordings(reader, suite, 1)
    rows[3].adapters(asked["unseen"][:2])                                # 8 wordings: all of them
    known = suite.by_name()
    for sample, lines in zip(asked["unseen"], zip(*given)):
        assert lines[0] == sample.description and set(lines) == set(known[sample.task].held_out)

    rows, asked = mixing.move_between(reader, suite, 2)
    assert len(rows) == 14 and len({s.task for s in asked["the second's"]}) >= 16
    for of_all in zip(*asked.values()):
        assert len({s.input for s in of_all}) == len({s.task for s in of_all}) == 1
        first, second, *crossed = (s.answers for s in of_all)
        a, b = (dict(known[name].test)[of_all[0].input] for name in of_all[0].task.split())
        assert (first, second) == (a, b) and len({a, b, *crossed}) == 4

    rows, asked = mixing.add_two(reader, suite, 1)
    by_task = {s.task: s for samples in asked.values() for s in samples}
    for name, text in (
            ("members_animal_round", "Write the animal of the list. Put the answer in round "
                                     "brackets."),
            ("records_age_city_commas", "Write the age. Write the city.")):
        given.clear()
        rows[1].adapters([by_task[name]])
        assert given == [[text]]
    assert by_task["members_animal_round"] in asked["part and form"]
    assert by_task["fields_city_initial"] in asked["part, a letter"]
    age, city = by_task["records_age_city_commas"].answers[0].split(", ")
    assert {f"{city}/{age}", f"{age} and {city}"} <= set(by_task["records_age_city_commas"].answers)

    rows, asked = mixing.steer(reader, suite, 1)
    pairs = zip(asked["in a sentence"], asked["the bare word"])
    assert all(s.answers[0] == f"It is {bare.answers[0]}." for s, bare in pairs)


def test_a_mix_by_command_and_its_picture(tiny_tasks, tiny_t2l, tmp_path):
    pytest.importorskip("matplotlib")
    flags = [*TINY, "--tasks", tiny_tasks, "--ckpt", tiny_t2l, "--eval-samples", 1, "--out",
             tmp_path]
    call("experiments.mixing", "strength", *flags)
    found = json.loads((tmp_path / "mixing_strength.json").read_text())
    assert list(found["seen"]) == [f"strength {x / 4:g}" for x in range(9)]
    rows = [f"{x:g} of the second, {of}" for of in ("code", "ΔW") for x in (0, 0.5, 1)]
    (tmp_path / "mixing_wordings.json").write_text(json.dumps({"unseen": {
        label: {"a": 50.0} for label in ("1 wording", "2 wordings, code", "2 wordings, ΔW")}}))
    (tmp_path / "mixing_between.json").write_text(json.dumps(
        {column: {label: {"a b": 50.0} for label in rows} for column in ("first", "second")}))
    done = command("experiments.plots", "--mixing", tmp_path, tmp_path / "mixing.svg")
    assert done.stdout == f"{tmp_path}/mixing.svg written\n"
    assert (tmp_path / "mixing.svg").read_text().count("<!-- ΔW -->") == 1
    for name in ("sum", "between", "steering"):
        assert "built-in suite" in refused("experiments.mixing", name, *flags)
    assert "8 held-out wordings" in refused("experiments.mixing", "wordings", *flags)
    assert "give one folder" in refused("experiments.mixing", "sum", *flags, "--ckpt", "a", "b")


# ------------------------------------------------------------------------------------- codes

@pytest.mark.quick
def test_shares_of_nearest_wordings_by_hand():
    """Three tasks of two wordings each: the nearest of another task, never one's own."""
    places = {"k_a_x": [(1, 0), (1, 0.1)], "k_a_y": [(1, 0.2), (0, 1)], "q_b_x": [(0, 1), (-1, 1)]}
    names = [name for name, points in places.items() for _ in points]
    vectors = torch.tensor([p for points in places.values() for p in points], dtype=torch.float32)
    found = shares(vectors, names, set(names))
    assert found["kind"] == found["part"] == (75.0, 50.0)       # k_a_y's second lies at q_b_x
    assert found["form"] == (0.0, 50.0)
    assert shares(vectors, names, {"q_b_x"}) == {"form": (0.0, 50.0)}


def test_the_codes_command_and_its_picture(tiny_tasks, tiny_t2l, tmp_path):
    pytest.importorskip("sklearn")
    call("experiments.codes", "--model", GOLDEN / "llama", "--tasks", tiny_tasks, "--ckpt",
         tiny_t2l, "--out", tmp_path / "out", "--figure", tmp_path / "codes.png")
    assert (tmp_path / "codes.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "out" / "codes.json").read_text()).keys() == {"embedding", "code"}


# ------------------------------------------------------------------------------------- costs

def test_the_cost_of_a_query_is_two_flops_for_each_weight_and_token():
    """By hand for the language model; for L its linear layers, called for every layer and adapted
    module, and the task's."""
    found = cost.query_cost("L", 36, 58, 293)
    cfg = cost.MISTRAL_7B
    d, inner, kv = cfg.hidden_size, cfg.intermediate_size, 1024
    weights = 32 * (2 * d * d + 2 * d * kv + 3 * d * inner) + d * cfg.vocab_size
    scores = 32 * 32 * 4 * 58 ** 2 * 128                                   # q k and weights v
    assert found["language model"] * 1e12 == pytest.approx(2 * 58 * weights + scores, rel=1e-3)
    with torch.device("meta"):
        t2l = T2L(T2LConfig("L", 1024, 32, adapted_modules(cfg)))
    calls = 32 * len(t2l.cfg.modules)
    linear = {name: layer.weight.numel() for name, layer in t2l.named_modules()
              if isinstance(layer, torch.nn.Linear)}
    often = sum(32 * n if name.startswith("heads") else n if "task" in name else calls * n
                for name, n in linear.items())
    assert found["hypernetwork"] * 1e12 == pytest.approx(2 * often, rel=1e-6)


@pytest.mark.quick
def test_after_how_many_queries_an_adapter_pays(capsys):
    cost.print_default_costs({"adapter": (10.0, 5.0), "merging": (0.0, 20.0), "live": (2.0, 4.0),
                              "merged": (1.0, 2.0), "query: long": (4.0, 3.0)})
    said = "pays against long after how many queries:"
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"an adapter {said} 5 by FLOPs, never by time",
        f"an adapter merged {said} 4 by FLOPs, 25 by time"]


# ---------------------------------------------------------------------------------- pictures

def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    run = plots.Run("L", 8, 2 ** 20, 2 ** 24, 1.0, 90.0, 5.0, 80.0, 70.0, 2.0, 0.2, 0.9)
    plots.figure([run, replace(run, loras=16, library_bytes=2 ** 21)], tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("mode, validation", [("sft", True), ("mtlora", False)])
def test_a_runs_losses_are_drawn_beside_its_log(mode, validation, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "config.json").write_text(json.dumps({"mode": mode}))
    rows = [{"step": i, "loss": 5 - i / 10, "lr": 0.1, "grad_norm": 1.0} for i in range(30)]
    if validation:
        rows[24]["validation_loss"] = 2.5
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command("experiments.plots", tmp_path)
    assert done.stdout == f"{tmp_path}/log.svg written\n" and done.stderr == ""
    svg = (tmp_path / "log.svg").read_text()
    assert "<!-- training, each step -->" in svg
    assert ("<!-- validation -->" in svg) == validation


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert "config.json does not exist" in refused("experiments.plots", tmp_path)
    (tmp_path / "config.json").write_text('{"mode": "sft"}')
    assert "no step of a run" in refused("experiments.plots", tmp_path)


# --------------------------------------------------------------------------------- own tasks

@pytest.mark.quick
@pytest.mark.parametrize("n", [1, 16])
def test_the_files_hold_what_they_say(n, tmp_path, suite):
    call("experiments.own_tasks", tmp_path / "own", "--wordings", n)
    with pytest.warns(UserWarning, match="every task is trained on"):
        own = load_suite(tmp_path / "own").train
    assert [t.name for t in own] == sorted(TASKS) and WORDINGS.keys() == TASKS.keys()
    builtin = {d for t in suite.by_name().values() for d in t.descriptions + t.held_out}
    for task in own:
        assert (len(task.train), len(task.test)) == (own_tasks.TRAIN, own_tasks.TEST)
        assert len(task.descriptions) == n and len(task.held_out) == own_tasks.HELD_OUT
        lines = wordings_of(task.name)
        assert len(set(lines)) == len(lines) == 20 and not builtin & set(lines)
    held_out = {task.name: task.held_out for task in own}
    call("experiments.own_tasks", tmp_path / "other", "--wordings", 7)
    with pytest.warns(UserWarning, match="every task is trained on"):
        other = load_suite(tmp_path / "other").train                 # always the same ones
    assert held_out == {task.name: task.held_out for task in other}


@pytest.mark.quick
def test_what_it_refuses(tmp_path):
    assert "1 to 16" in refused("experiments.own_tasks", tmp_path / "x", "--wordings", 17)
    assert "to be made" in refused("experiments.own_tasks", tmp_path)


@pytest.mark.slow
def test_training_on_them_from_the_committed_checkpoint(default_models, tmp_path):
    """Part of docs/own-tasks.md: most answers are right after a minute or two."""
    call("experiments.own_tasks", tmp_path / "own", "--wordings", 4)
    done = command("train", "--mode", "sft", "--init", "checkpoints/smollm2-135m", "--tasks",
                   tmp_path / "own", "--steps", 60, "--batch-size", 16, "--eval-samples", 8,
                   "--out", tmp_path / "run")
    line = done.stdout.splitlines()[-1]
    assert "seen tasks, new inputs: T2L run, own description" in line
    assert float(line.split("own description ")[1].split(" %")[0]) > 50
