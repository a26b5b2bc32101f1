"""Files with a few bytes or values changed: every loader loads them or raises a UserError.

100 cases with every run, 2,000 with -m slow, as many as FUZZ_CASES says: see tests/README.md.
"""
import json
import os
import shutil
import warnings
from argparse import Namespace

import pytest
import torch
from conftest import GOLDEN, task_file
from safetensors.torch import load_file, save_file

from data.suite import load_suite
from encoder import load_encoder
from experiments.benchmark_formats import load_benchmark
from lora import load_peft
from mistral import load_model, load_tokenizer
from t2l import T2L, T2LConfig, load_t2l, save_t2l
from utils.cli import UserError
from utils.library import load_library
from utils.run_folder import SETTINGS, load_state, save_state

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings, strategies as st          # noqa: E402

CASES = int(os.environ.get("FUZZ_CASES", 2000))
ODD = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2, 3, 2.0, 0.5, 10**8, 10**400, 2**62, -2**63,
                     float("nan"), float("inf"), 1e308, "", "x", "\ud800", "a\0b", "../up", "/",
                     ".", [], [1], [[]], ["x"], [None], {}, {"x": 1}, {"type": []}]),
    st.integers(), st.floats(), st.text(max_size=5))


# ------------------------------------------------------------------------------- the folders

def tiny_t2l() -> T2L:
    """S for a model of two layers; heads that are not 0."""
    torch.manual_seed(0)
    t2l = T2L(T2LConfig("S", 8, 2, {"q_proj": (6, 6), "v_proj": (6, 4)}, rank=2, latent=8,
                        head_in=8, base_model="tiny", encoder="bert"))
    for parameter in t2l.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return t2l


def t2l_folder(folder):
    save_t2l(tiny_t2l(), folder, torch.float32, {"mode": "sft"})


def authors_folder(folder):
    """The same hypernetwork in the layout of the authors."""
    folder.mkdir()
    t2l = tiny_t2l()
    state = dict(t2l.state_dict())
    for m, (d_in, d_out) in t2l.cfg.modules.items():
        state |= {f"AB_offset.A.{m}": torch.zeros(2, 2, d_in),
                  f"AB_offset.B.{m}": torch.zeros(2, d_out, 2)}
    torch.save(state, folder / "hypermod.pt")
    (folder / "adapter_config.json").write_text(json.dumps(
        {"r": 2, "lora_alpha": 16, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]}))
    (folder / "args.yaml").write_text(
        "training_task: sft\nencoder_type: linear\nemb_model: bert\nmodel_dir: tiny\nlr: 0.1\n"
        "factorized: true\nmodule_order: [q_proj, v_proj]\ntrain_ds_names:\n- a\n- b\n")


def model_folder(folder):
    shutil.copytree(GOLDEN / "llama", folder, ignore=shutil.ignore_patterns("adapter", "expected*"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "<|im_end|>",
         "chat_template": "{{ messages[0]['content'] }}"}))


def sharded_folder(folder):
    model_folder(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, shard_of = sorted(weights), {}
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: weights[n] for n in part}, folder / f"{i}.safetensors")
        shard_of |= {n: f"{i}.safetensors" for n in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))


def encoder_folder(folder):
    """As sentence-transformers saves one."""
    shutil.copytree(GOLDEN / "bert", folder)
    (folder / "expected.safetensors").unlink()
    for part in ("1_Pooling", "2_Dense"):
        (folder / part).mkdir()
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"),
             ("3_Normalize", "Normalize")]
    for path, value in {
            "modules.json": [{"idx": i, "path": path, "type": f"sentence_transformers.{kind}"}
                             for i, (path, kind) in enumerate(kinds)],
            "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": True},
            "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
            "2_Dense/config.json": {"in_features": 32, "out_features": 4, "bias": True}}.items():
        (folder / path).write_text(json.dumps(value))
    save_file({"linear.weight": torch.randn(4, 32), "linear.bias": torch.randn(4)},
              folder / "2_Dense" / "model.safetensors")


def peft_folder(folder):
    shutil.copytree(GOLDEN / "llama" / "adapter", folder / "a")
    shutil.copytree(GOLDEN / "llama" / "adapter", folder / "b")


def task_folder(folder):
    (folder / "tasks").mkdir(parents=True)
    for name in ("alpha", "beta"):
        task_file(folder / "tasks", name)
    (folder / "splits.json").write_text('{"unseen": ["beta"], "validation": []}')


def benchmark_folder(folder):
    folder.mkdir()
    rows = [{"question": {"stem": f"which {i}", "choices": [{"text": x, "label": x} for x in "AB"]},
             "answerKey": "B"} for i in range(3)]
    (folder / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.json").write_text('{"arc_easy": "so: {question} {options}"}')


def small_source() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    source = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(source.parameters())
    source(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return source, optimizer


def state_folder(folder):
    folder.mkdir()
    args = Namespace(**dict.fromkeys(SETTINGS), dtype=torch.float32)
    args.steps = 9
    save_state(folder, *small_source(), 3, args)


def load_whole_model(folder):
    load_model(folder, torch.float32)
    load_tokenizer(folder).prompt("hi")


def embed_a_text(folder):
    assert load_encoder(folder).embed(["a text"]).dtype == torch.float32


def generate_an_adapter(folder):
    t2l = load_t2l(folder)
    t2l.adapters(torch.zeros(1, t2l.cfg.emb_size))


# What it is: (makes the folder, loads it, the files that are changed).
LOADERS = {
    "model": (model_folder, load_whole_model,
              ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]),
    "shards": (sharded_folder, load_whole_model, ["model.safetensors.index.json", "0.safetensors"]),
    "encoder": (encoder_folder, embed_a_text,
                ["config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json",
                 "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
                 "model.safetensors"]),
    "adapter": (peft_folder, lambda folder: load_peft(folder / "a"),
                ["a/adapter_config.json", "a/adapter_model.safetensors"]),
    "library": (peft_folder, load_library,
                ["b/adapter_config.json", "b/adapter_model.safetensors"]),
    "t2l": (t2l_folder, generate_an_adapter, ["config.json", "t2l.safetensors"]),
    "authors": (authors_folder, generate_an_adapter,
                ["args.yaml", "adapter_config.json", "hypermod.pt"]),
    "benchmark": (benchmark_folder, lambda folder: load_benchmark(folder / "arc_easy.jsonl",
                                                                  folder / "prompts.json"),
                  ["arc_easy.jsonl", "prompts.json"]),
    "state": (state_folder, lambda folder: load_state(folder, *small_source()),
              ["train_state.pt"]),
    "tasks": (task_folder, lambda folder: load_suite(folder / "tasks"),
              ["tasks/alpha.json", "splits.json"])}


# ------------------------------------------------------------------------------- the changes

def change_bytes(draw, raw: bytes) -> bytes:
    """A few bytes changed, taken out or put in, near the beginning more often; or cut off."""
    raw = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.one_of(st.integers(0, min(len(raw), 400)), st.integers(0, len(raw))))
        kind = draw(st.sampled_from(["set", "set", "remove", "insert", "cut"]))
        if kind == "cut":
            del raw[at:]
        else:
            raw[at:at + (kind != "insert")] = b"" if kind == "remove" else \
                bytes([draw(st.integers(0, 255))])
    return bytes(raw)


def change_json(draw, value):
    """One value somewhere in it exchanged for an odd one, left out or put in."""
    at = value
    for _ in range(draw(st.integers(0, 4))):
        inner = list(at.values()) if isinstance(at, dict) else at if isinstance(at, list) else []
        inner = [x for x in inner if isinstance(x, dict | list) and x]
        if not inner:
            break
        at = draw(st.sampled_from(inner))
    if not isinstance(at, dict | list) or not at:
        return draw(ODD)
    key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
    if draw(st.integers(0, 5)) == 0:
        del at[key]
    else:
        at[key] = draw(ODD)
    return value


def changed(draw, path) -> bytes:
    raw = path.read_bytes()
    if path.suffix == ".json" and draw(st.integers(0, 3)):
        return json.dumps(change_json(draw, json.loads(raw))).encode()
    header = int.from_bytes(raw[:8], "little")
    if path.suffix == ".safetensors" and draw(st.booleans()):
        inner = json.dumps(change_json(draw, json.loads(raw[8:8 + header]))).encode()
        return len(inner).to_bytes(8, "little") + inner + raw[8 + header:]
    return change_bytes(draw, raw)


# ------------------------------------------------------------------------------------ tests

def files_in(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def fuzz(root, kind: str, n: int) -> None:
    """n changed folders of that kind; what a loader raises but UserError is raised here."""
    make, load, files = LOADERS[kind]
    make(root / "made")
    load(root / "made")                                          # as it is, it loads
    whole = files_in(root)
    patient = settings(max_examples=n, deadline=20_000, database=None, derandomize=n < 1000,
                       report_multiple_bugs=False, suppress_health_check=list(HealthCheck))

    @patient
    @given(st.data())
    def change_and_load(data):
        name = data.draw(st.sampled_from(files))
        path = root / "made" / name
        new = changed(data.draw, path)
        try:
            path.write_bytes(new)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load(root / "made")
        except UserError as error:
            assert "\n" not in str(error), error
        finally:
            found = files_in(root)
            path.write_bytes(whole[f"made/{name}"])
        assert found == whole | {f"made/{name}": new}            # nothing was written anywhere

    change_and_load()


@pytest.mark.parametrize("kind", LOADERS)
def test_a_few_changed_files(kind, tmp_path, capfd):
    fuzz(tmp_path, kind, 13)                                     # 104 in all


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
def test_many_changed_files(kind, tmp_path, capfd):
    fuzz(tmp_path, kind, CASES // len(LOADERS))


def test_the_fuzz_itself_notices_another_exception(tmp_path, monkeypatch):
    monkeypatch.setitem(LOADERS, "adapter", (
        peft_folder, lambda folder: json.loads((folder / "a" / "adapter_config.json").read_text()),
        ["a/adapter_config.json"]))
    with pytest.raises(ValueError):
        fuzz(tmp_path, "adapter", 100)
