"""The language model as reader: means of its states, also beside a text encoder; --read-with."""
import json

import pytest
import torch
from conftest import GOLDEN, TINY, command, refused, train_tiny

from encoder import Joined, States, embed, encoder_for, load_encoder
from lora import load_peft
from mistral import load_model
from t2l import T2LConfig, generate_lora, load_t2l
from utils.cli import UserError, reads_states
from utils.peft import READER, read_reader

BOTH = f"{GOLDEN / 'bert'}+states"
TEXTS = ["Say it twice.", "Shout.", "a", "", "Write the longest word of the list, in capitals."]


@pytest.mark.quick
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_live_means_of_transformers_states(name):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32)
    ours = States(load_model(GOLDEN / name, torch.float32))
    n = ours.model.cfg.num_hidden_layers
    assert n == 3 and ours.depths == [0, 1]                      # of 30 layers 6, 12 and 18
    rows = ours.embed(TEXTS)                                     # one padded batch
    assert rows.shape == (len(TEXTS), ours.width) == (len(TEXTS), 2 * 48)
    for row, text in zip(rows, TEXTS):
        ids = ours.tokenizer.encode(text).ids or [0]
        states = theirs(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for depth, mean in zip(ours.depths, row.split(48)):      # [0] are the embeddings
            wanted = states[depth + 1][0, 1 if len(ids) > 1 else 0:].mean(0)
            torch.testing.assert_close(mean, wanted, atol=1e-4, rtol=1e-4)
            if len(ids) > 1:                                     # negative control
                assert (states[depth + 1][0].mean(0) - mean).abs().max() > 1e-3


@pytest.mark.quick
def test_both_side_by_side_each_part_normalised_by_itself():
    model = load_model(GOLDEN / "llama", torch.float32)
    both = load_encoder(BOTH, model)
    assert isinstance(both, Joined) and both.name == BOTH and both.width == 32 + 2 * 48
    rows = embed(both, TEXTS)
    torch.testing.assert_close(rows[:, :32], embed(load_encoder(GOLDEN / "bert"), TEXTS))
    torch.testing.assert_close(rows[:, 32:], embed(load_encoder("states", model), TEXTS))
    for part in rows[:3].split(both.parts, -1):
        torch.testing.assert_close(part.square().mean(1), torch.ones(3))


@pytest.mark.quick
def test_what_decides_a_vector_is_told_to_the_cache():
    model = load_model(GOLDEN / "llama", torch.float32)
    lora = load_peft(GOLDEN / "llama" / "adapter")
    names = {load_encoder(name, model, with_lora).identity()[1]
             for name in ("base", "states", BOTH) for with_lora in (None, lora)}
    assert len(names) == 5                                       # "base" reads with no LoRA
    changed = (lora[0], {m: w * 1.01 for m, w in lora[1].items()})
    assert load_encoder("states", model, changed).identity()[1] not in names


@pytest.fixture
def rival(tiny_tasks, tmp_path):
    train_tiny("--mode", "mtlora", "--describe", "prompt", "--tasks", tiny_tasks, "--steps", 4,
               "--lr", 0.05, "--eval-samples", 0, "--out", tmp_path / "rival")
    return tmp_path / "rival"


def test_a_t2l_reads_with_the_lora_that_lies_beside_it(rival, tiny_tasks, tmp_path):
    common = ["--mode", "sft", "--encoder", BOTH, "--tasks", tiny_tasks, "--eval-samples", 0]
    train_tiny(*common, "--read-with", rival, "--steps", 6, "--lr", 0.01, "--out", tmp_path / "a")
    t2l = load_t2l(tmp_path / "a")
    assert t2l.cfg.arch == "bank" and t2l.cfg.emb_size == 32 + 2 * 48
    for side, kept in zip(load_peft(rival), read_reader(tmp_path / "a")):
        assert all(torch.equal(w, kept[m]) for m, w in side.items())

    # It is used: by the T2L as it is loaded, and not without it.
    model = load_model(GOLDEN / "llama", torch.float32)
    with_lora = load_encoder(BOTH, model, load_peft(rival))
    wanted = generate_lora(t2l, "say it", with_lora)[1]["q_proj"]
    bare = generate_lora(t2l, "say it", load_encoder(BOTH, model))[1]["q_proj"]
    found = generate_lora(t2l, "say it", encoder_for(t2l.cfg, model))[1]["q_proj"]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert (found - bare).abs().max() > 1e-6

    # --init takes it along.
    train_tiny(*common, "--init", tmp_path / "a", "--steps", 1, "--out", tmp_path / "b")
    for side, kept in zip(load_peft(rival), read_reader(tmp_path / "b")):
        assert all(torch.equal(w, kept[m]) for m, w in side.items())
    (tmp_path / "a" / READER).unlink()
    with pytest.raises(UserError, match="reader.safetensors is missing"):
        load_t2l(tmp_path / "a")


def test_what_init_takes_along_is_found_by_a_checkpoints_name(rival, tiny_tasks, tmp_path,
                                                              monkeypatch):
    """And config.json names the file, not the folder of this machine."""
    common = ["--mode", "sft", "--encoder", BOTH, "--tasks", tiny_tasks, "--eval-samples", 0,
              "--steps", 1]
    train_tiny(*common, "--read-with", rival, "--out", tmp_path / "kept")
    monkeypatch.setattr("utils.weights.CHECKPOINTS", tmp_path)
    train_tiny(*common, "--init", "kept", "--out", tmp_path / "b")
    assert (tmp_path / "b" / READER).read_bytes() == (tmp_path / "kept" / READER).read_bytes()
    assert json.loads((tmp_path / "b" / "config.json").read_text())["t2l"]["reader"] == READER


@pytest.mark.quick
def test_an_encoder_is_the_language_model_by_its_whole_name():
    for name, expected in (("states", True), (BOTH, True), ("base", False), (None, False),
                           ("my-states", False), ("bert", False)):
        assert reads_states(name) == expected
    cfg = T2LConfig("L", 32, 3, {"q_proj": (8, 8)}, base_model="another", encoder="gte-base")
    with pytest.raises(UserError, match="gte-base is not a folder"):    # not: by "another" itself
        encoder_for(cfg)


def last_line(*flags) -> str:
    """Of a command that is refused after it has said what it loads."""
    done = command(*flags)
    assert done.returncode == 2
    return done.stderr.splitlines()[-1]


def test_what_cannot_be_read_with_is_refused_before_any_training(rival, tiny_tasks, tmp_path):
    out = ["--tasks", tiny_tasks, "--out", tmp_path / "x"]
    sft = ["--mode", "sft", *TINY[:2], "--read-with", rival, *out]
    assert "a text encoder has no use" in refused("train", *sft, "--encoder", GOLDEN / "bert")
    assert "a text encoder has no use" in refused("train", *sft, "--arch", "L")
    said = last_line("train", *sft, "--encoder", BOTH, "--modules", "q_proj", "o_proj")
    assert "adapts q_proj, v_proj, this run q_proj, o_proj" in said
    said = last_line("train", "--mode", "sft", "--model", GOLDEN / "gemma2", "--read-with", rival,
                     "--encoder", "states", *out)
    assert "does not fit the model" in said and "--read-with" in said
    assert "has no use for --read-with" in refused("train", "--mode", "mtlora", *TINY,
                                                   "--read-with", rival, *out)
    assert not (tmp_path / "x").exists()


def test_a_run_goes_on_with_the_head_of_its_start_and_with_no_other(tiny_t2l, tiny_tasks, tmp_path):
    flags = ["--mode", "sft", *TINY, "--init", tiny_t2l, "--tasks", tiny_tasks]
    train_tiny(*flags[:2], *flags[6:], "--steps", 1, "--eval-samples", 0, "--out", tmp_path / "a")
    assert load_t2l(tmp_path / "a").cfg.arch == "S"
    said = last_line("train", *flags, "--arch", "bank", "--out", tmp_path / "x")
    assert "its arch is 'S', this run's 'bank'; give --arch S" in said


@pytest.mark.quick
def test_the_defaults_of_each_head(monkeypatch):
    import train
    from utils.cli import train_args

    def given(*flags):
        monkeypatch.setattr("sys.argv", ["train.py", *flags])
        args = train_args(train.DEFAULTS, train.HEADS, train.SAMPLES_PER_TASK, train.init_fields)
        return args.arch, args.encoder
    assert given("--mode", "sft") == ("bank", "all-MiniLM-L6-v2+states")
    assert given("--mode", "sft", "--arch", "L") == ("L", None)       # all-MiniLM-L6-v2
    assert given("--mode", "sft", "--encoder", "base") == ("bank", "base")
    assert given("--mode", "recon", "--loras", "x") == ("L", None)
    assert given("--mode", "mtlora") == ("L", None)
