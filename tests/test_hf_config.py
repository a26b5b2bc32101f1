"""What a config.json says and does not say; what is refused by name."""
import json

import pytest
from conftest import GOLDEN

from mistral import read_config
from utils.cli import UserError
from utils.peft import same_model


pytestmark = pytest.mark.quick


@pytest.mark.parametrize("family, changes, said", [
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}"),
    ("llama", {"num_hidden_layers": "three"}, "found num_hidden_layers='three'"),
    ("llama", {"num_attention_heads": 0}, "found num_attention_heads=0"),
    ("llama", {"num_key_value_heads": "2"}, "found num_key_value_heads='2'"),
    ("llama", {"num_key_value_heads": 5}, "cannot share the keys of 5 evenly"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "full_attention="),
    ("llama", {"rope_parameters": {"rope_theta": None}}, "rope_parameters.rope_theta=None"),
    ("llama", {"rope_scaling": {"type": "yarn"}}, "beside rope_scaling"),
    ("llama3", {"rope_parameters": {"rope_type": "llama3", "partial_rotary_factor": 0.5}},
     "partial_rotary_factor=0.5"),
    ("llama", {"sliding_window": 8}, "sliding_window=8"),
    ("mistral", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping=5.0"),
    ("llama", {"model_type": "phi3", "use_mrope": False}, "model_type='phi3', use_mrope"),
    ("mistral", {"attention_bias": True}, "attention_bias=True"),
    ("llama", {"mlp_bias": True}, "mlp_bias=True"),
    ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type='yarn'"),
    ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window='yes'"),
    ("qwen2", {"use_sliding_window": False}, "sliding_attention, but no window for it"),
    ("qwen3", {"max_window_layers": None}, "max_window_layers=None"),
    ("qwen3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping=5.0"),
    ("llama3", {"rope_parameters": {"rope_type": "llama3", "factor": 2}}, "low_freq_factor"),
    ("mistral", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ("gemma2", {"layer_types": ["chunked_attention"] * 3}, "layer_types"),
    ("gemma2", {"layer_types": ["full_attention"]}, "layer_types")])
def test_configs_that_cannot_be_honoured(family, changes, said, tmp_path):
    config = json.loads((GOLDEN / family / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=said):
        read_config(tmp_path)


def test_what_a_config_does_not_say_and_what_is_not_known(tmp_path, capsys):
    """Absent fields mean what they mean to Hugging Face's classes; new ones are named aloud."""
    config = {"model_type": "mistral", "vocab_size": 9, "hidden_size": 64, "intermediate_size": 9,
              "num_hidden_layers": 2, "num_attention_heads": 8, "rope_theta": 7.0}
    (tmp_path / "config.json").write_text(json.dumps(config | {"mystery": 1, "use_cache": True}))
    cfg = read_config(tmp_path)
    assert "not known here: mystery\n" in capsys.readouterr().err
    assert (cfg.sliding_window, cfg.windowed, cfg.num_key_value_heads) == (4096, (0, 1), 8)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    cfg = read_config(tmp_path)
    assert (cfg.sliding_window, cfg.windowed, cfg.max_position_embeddings) == (None, (), 2048)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gemma2"}))
    cfg = read_config(tmp_path)
    assert (cfg.head_dim, cfg.windowed, cfg.final_logit_softcapping) == (256, (0,), 30.0)
    few = {"num_key_value_heads": 2, "max_window_layers": 1}
    for family, head_dim in (("qwen2", 8), ("qwen3", 128)):
        for on in (False, True):
            (tmp_path / "config.json").write_text(json.dumps(
                config | few | {"model_type": family, "use_sliding_window": on}))
            cfg = read_config(tmp_path)
            assert (cfg.head_dim, cfg.windowed) == (head_dim, (1,) if on else ())
            assert (cfg.biases[-1:], cfg.qk_norm) == \
                ((), True) if family == "qwen3" else (("v_proj",), False)
    assert capsys.readouterr().err == ""


def test_what_is_off_or_about_saving_gives_no_warning(tmp_path, capsys):
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    harmless = {"_flash_attn_2_enabled": True, "use_qk_norm": False, "rope_gap": None,
                "top_k": 50, "pruned_heads": {}, "is_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config | harmless))
    read_config(tmp_path)
    assert capsys.readouterr().err == ""
    for changes, said in (({"use_qk_norm": True}, "use_qk_norm"), ({"rope_gap": 3}, "rope_gap")):
        (tmp_path / "config.json").write_text(json.dumps(config | harmless | changes))
        read_config(tmp_path)
        assert f"not known here: {said}\n" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps(config | {"pruned_heads": {"0": [1]}}))
    with pytest.raises(UserError, match="pruned_heads"):
        read_config(tmp_path)


def test_a_models_name(tmp_path, monkeypatch):
    """The hub's for its cache, wherever a link leads there; else the config's, or the folder's."""
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    folder = tmp_path / "models--some-org--My--Model-1B" / "snapshots" / "0a1b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/me/out"}))
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link"):
        assert read_config(path).name == "some-org/My--Model-1B"
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text(json.dumps(config | {"_name_or_path": None}))
    monkeypatch.chdir(plain)
    assert read_config(".").name == "plain"
    assert same_model(str(folder), "My--Model-1B") and same_model("x/My/", "y/My")
    assert not same_model(str(folder), "My--Model-2B") and not same_model("a/", "b/")
