"""The authors' checkpoints: what they mean, and what in such a folder is refused."""
import json
import os
import random
import warnings

import pytest
import torch
from conftest import GOLDEN, ROOT, TINY, call
from safetensors.torch import load_file

from data.suite import load_suite
from encoder import load_encoder
from eval import table_rows
from lora import load_peft
from mistral import load_model
from t2l import T2L, T2LConfig, adapted_modules, generate_lora, load_t2l, save_t2l
from utils.cli import UserError
from utils.modules import layer_name
from utils.peft import KEY

pytestmark = pytest.mark.quick

REFERENCE = ROOT.parent / "shared" / "reference"

ARGS = {"training_task": "sft", "pred_z_score": False, "factorized": True, "delta_w_scaling": 10000,
        "encoder_type": "linear", "emb_model": "''", "model_dir": "tiny-mistral",
        "module_order": ["q_proj", "v_proj"]}


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference checkpoints are not here")
@pytest.mark.parametrize("name", ["L_sft", "M_sft", "S_sft", "L_recon"])
def test_the_authors_code_gives_the_same_lora(name):
    t2l = load_t2l(REFERENCE / name)
    expected = load_file(REFERENCE / name / "expected.safetensors")
    assert t2l.cfg.arch == name[0] and t2l.cfg.base_model == "tiny-mistral"
    A, B = t2l(expected["task_emb"])
    for k in range(3):
        for part, side in zip((A, B), "AB"):
            for module, stack in part.items():
                for i in range(t2l.cfg.n_layers):
                    key = f"{k}." + KEY.format(name=layer_name(i, module), side=side)
                    torch.testing.assert_close(stack[k, i], expected[key], atol=1e-5, rtol=1e-5)
    swapped = load_t2l(REFERENCE / name, module_order=("v_proj", "q_proj"))
    other = swapped(expected["task_emb"])[0]["q_proj"]
    assert (other - A["q_proj"]).abs().max() > 1e-3


def write_folder(folder, arch: str = "L", adapter: dict = {}, extra: dict = {}, emb: int = 10,
                 modules: dict | None = None, **changes):
    """A random T2L of ours in the authors' layout, as their code would have saved it."""
    rng = random.Random(arch)
    modules = modules or {"q_proj": (rng.randint(8, 20), rng.randint(8, 20)),
                          "v_proj": (rng.randint(8, 20), rng.randint(8, 20))}
    t2l = T2L(T2LConfig(arch, emb, 3, modules, rank=4, latent=32, head_in=24)).eval()
    state = t2l.state_dict()
    for head in t2l.heads.values():
        torch.nn.init.normal_(head.weight)
    for m, (d_in, d_out) in modules.items():
        for side, shape in (("A", (3, 4, d_in)), ("B", (3, d_out, 4))):
            for name in ("AB_offset", "mean_recon_target", "std_recon_target"):
                state[f"{name}.{side}.{m}"] = torch.rand(shape)
    folder.mkdir(exist_ok=True)
    torch.save(state | extra, folder / "hypermod.pt")
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": True,
         "target_modules": ["v_proj", "q_proj"]} | adapter))
    lines = []
    for key, value in (ARGS | changes).items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {v}" for v in value)]
        elif value is not None:
            lines.append(f"{key}: {str(value).lower() if isinstance(value, bool) else value}")
    (folder / "args.yaml").write_text("\n".join(lines) + "\n")
    return t2l, state


@pytest.mark.parametrize("arch", "LMS")
@pytest.mark.parametrize("training", ["sft", "recon z-scores", "recon delta"])
def test_every_training_is_a_number_times_the_heads_plus_a_number(arch, training, tmp_path):
    task, _, kind = training.partition(" ")
    ours, state = write_folder(tmp_path / "official", arch, training_task=task,
                               pred_z_score=kind == "z-scores", factorized=kind != "delta")
    emb = torch.randn(2, 10)
    found = load_t2l(tmp_path / "official")
    assert found.scale == 8.0                                             # 16 / √4
    for side, raw, given in zip("AB", ours(emb), found(emb)):
        for m, w in raw.items():
            offset = state[f"AB_offset.{side}.{m}"]
            expected = {"": w + offset, "delta": w / 100,
                        "z-scores": w * state[f"std_recon_target.{side}.{m}"]
                        + state[f"mean_recon_target.{side}.{m}"] + offset}[kind]
            torch.testing.assert_close(given[m], expected, atol=1e-5, rtol=1e-5)
    save_t2l(found, tmp_path / "ours", torch.float32, {})       # it can be kept as ours
    again = load_t2l(tmp_path / "ours")
    torch.testing.assert_close(again(emb)[1]["v_proj"], found(emb)[1]["v_proj"])


def test_the_one_command(tiny_tasks, tmp_path, capsys):
    """From the authors' folder and a description to a PEFT folder and an answer."""
    model, encoder = load_model(GOLDEN / "llama"), load_encoder(GOLDEN / "bert")
    write_folder(tmp_path / "t2l_demo", emb=encoder.width, model_dir="somebody/llama",
                 modules=adapted_modules(model.cfg, ("q_proj", "v_proj")), module_order=None)
    call("t2l", "--ckpt", tmp_path / "t2l_demo", "Say it twice.", "--module-order", "v_proj",
         "q_proj", *TINY, "--prompt", "hi", "--out", tmp_path / "adapter")
    said = capsys.readouterr()
    assert "adapted:" in said.out and "written to" in said.out and "warning" not in said.err
    t2l = load_t2l(tmp_path / "t2l_demo", ("v_proj", "q_proj"))
    for side, other in zip(generate_lora(t2l, "Say it twice.", encoder),
                           load_peft(tmp_path / "adapter")):
        assert side.keys() == other.keys() == t2l.cfg.modules.keys()
        assert all(torch.equal(side[m], other[m]) for m in side)
    assert load_peft(tmp_path / "adapter")[1]["q_proj"].abs().max() > 1e-3
    with pytest.warns(UserWarning, match="which module came first"):     # in the table it is asked
        rows = table_rows([tmp_path / "t2l_demo"], load_suite(tiny_tasks), lambda cfg: encoder,
                          model)
    assert [row.describe for row in rows if row.t2l] == 5 * ["both"]     # as it was trained


def test_the_scale_without_rank_stabilisation(tmp_path):
    write_folder(tmp_path, adapter={"use_rslora": False})
    assert load_t2l(tmp_path).scale == 4.0                        # 16 / 4


def test_an_unknown_order_of_the_modules_is_guessed_aloud(tmp_path):
    write_folder(tmp_path, module_order=None)
    with pytest.warns(UserWarning, match="does not say which module came first"):
        t2l = load_t2l(tmp_path)
    assert list(t2l.cfg.modules) == ["q_proj", "v_proj"]
    state = torch.load(tmp_path / "hypermod.pt", weights_only=True)
    torch.save(dict(sorted(state.items(), key=lambda kv: "v_proj" not in kv[0])),
               tmp_path / "hypermod.pt")                          # its heads were made v first
    with pytest.warns(UserWarning, match="guessed from the order of its heads: v_proj, q_proj"):
        assert list(load_t2l(tmp_path).cfg.modules) == ["v_proj", "q_proj"]
    (tmp_path / "args.yaml").write_text((tmp_path / "args.yaml").read_text()
                                        + "module_order: [q_proj, v_proj]\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(load_t2l(tmp_path).cfg.modules) == ["q_proj", "v_proj"]
        t2l = load_t2l(tmp_path, module_order=("v_proj", "q_proj"))
    assert list(t2l.cfg.modules) == ["v_proj", "q_proj"]


def test_a_key_of_args_that_is_not_known_is_reported(tmp_path):
    write_folder(tmp_path, mystery=3, lr=1e-4)
    with pytest.warns(UserWarning, match="keys that are not known here: mystery$"):
        load_t2l(tmp_path)


class Trap:
    """Unpickled freely, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    write_folder(tmp_path)
    torch.save({"trap": Trap(tmp_path / "sprung")}, tmp_path / "hypermod.pt")
    with pytest.raises(UserError, match="not a pickled dict of tensors"):
        load_t2l(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("changes, said", [
    ({"extra": {"mystery.weight": torch.zeros(1)}}, "mystery.weight"),
    ({"extra": {"mixer.1.weight": torch.zeros(7, 32)}}, "mixer.1.weight"),
    ({"encoder_type": "transformer"}, "cannot honour encoder_type: 'transformer'"),
    ({"use_one_hot_task_emb": True}, "cannot honour use_one_hot_task_emb: True"),
    ({"training_task": None}, "training_task: None"),
    ({"training_task": "reconstruction"}, "training_task: 'reconstruction'"),
    ({"training_task": "recon", "pred_z_score": True, "factorized": False}, "without factorized"),
    ({"extra": {"AB_offset.A.k_proj": torch.zeros(3, 4, 5)}}, "AB_offset.A.k_proj"),
    ({"extra": {"mean_recon_target.A.q_proj": torch.zeros(2, 4, 99)}, "training_task": "recon",
      "pred_z_score": True}, "not the authors' layout"),
    ({"adapter": {"r": 8}}, "says r 8"), ({"adapter": {"target_modules": ["q_proj"]}}, "says targ"),
    ({"extra": {"mixer.1.bias": torch.full((128,), torch.nan)}}, "mixer.1.bias holds"),
    ({"use_inp_as_desc": True}, "use_inp_as_desc"),
    ({"module_order": ["q_proj", "k_proj"]}, "k_proj")])
def test_what_cannot_be_honoured_is_named(changes, said, tmp_path):
    write_folder(tmp_path, **changes)
    with pytest.raises(UserError, match=said):
        load_t2l(tmp_path)


@pytest.mark.parametrize("name", ["args.yaml", "adapter_config.json"])
def test_a_missing_file_is_named(name, tmp_path):
    write_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name} does not exist"):
        load_t2l(tmp_path)


def test_a_file_that_is_cut_off(tmp_path):
    write_folder(tmp_path)
    whole = (tmp_path / "hypermod.pt").read_bytes()
    for broken in (whole[:len(whole) // 2], b"", b"\x80\x02q", b"\x80\x02h\x05.", b"nonsense"):
        (tmp_path / "hypermod.pt").write_bytes(broken)
        with pytest.raises(UserError, match="not a pickled dict of tensors"):
            load_t2l(tmp_path)
    (tmp_path / "args.yaml").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        load_t2l(tmp_path)


@pytest.mark.parametrize("changes, said", [
    ({"delta_w_scaling": -4}, "delta_w_scaling: -4 .expected"), ({"model_dir": ["a"]}, "model_dir"),
    ({"factorized": 5}, "factorized: 5"), ({"module_order": 7}, "module_order: 7"),
    ({"adapter": {"lora_alpha": "x"}}, "adapter_config.json's lora_alpha='x'"),
    ({"adapter": {"r": 2.5}}, "adapter_config.json's r=2.5"),
    ({"extra": {5: torch.zeros(1)}}, "dict of tensors by name"),
    ({"extra": {"mixer.1.bias": torch.zeros(128, dtype=torch.int8)}}, "mixer.1.bias is stored as"),
    ({"extra": {"AB_offset.A.q_proj": torch.zeros(3, 0, 5)}}, "not the authors' layout|says r"),
    ({"extra": {"mean_recon_target.A.q_proj": torch.zeros(1, 1, 1)}, "training_task": "recon",
      "pred_z_score": True}, "not the authors' layout")])
def test_odd_values_are_named(changes, said, tmp_path):
    write_folder(tmp_path, **changes)
    with pytest.raises(UserError, match=said):
        load_t2l(tmp_path)


def test_a_list_under_a_word(tmp_path):
    write_folder(tmp_path)
    for text in ("lr: 5\n- 3\n", "- 3\n"):
        (tmp_path / "args.yaml").write_text(text)
        if text.startswith("lr"):
            with pytest.raises(UserError, match="args.yaml, line 2: '- 3' stands in no list"):
                load_t2l(tmp_path)
        else:
            with pytest.raises(UserError):
                load_t2l(tmp_path)
