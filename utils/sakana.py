"""The authors' released checkpoints (github.com/SakanaAI/text-to-lora).

    t2l = load_t2l("trained_t2l/t2l_demo")       # t2l.py comes here where it finds hypermod.pt

Such a folder holds adapter_config.json (PEFT's: rank, alpha, rsLoRA), args.yaml (flat keys: what
was trained) and hypermod.pt (a pickled dict of tensors, whose names are ours). All sizes are those
of the tensors. What their code does to the heads' output in its various trainings is always
"times a number, plus a number" for every entry; so it becomes a T2L whose heads emit z-scores.
"""
import warnings
from pathlib import Path

import torch
from torch import Tensor

from utils.cli import UserError, first_line
from utils.files import read_json, read_text
from utils.schema import FLAG, TEXT, list_of, misfits, number, one_of, optional, whole
from utils.weights import check_t2l

BUFFERS = ("AB_offset", "mean_recon_target", "std_recon_target")
# What args.yaml may say: keys with the one value that is known here, keys that are read, keys that
# follow from the tensors, and keys about the training alone. Others are reported.
KNOWN = {"encoder_type": "linear", "use_one_hot_task_emb": False, "use_inp_as_desc": False,
         "exp_setup": "hyper_lora"}
READ = {"training_task", "pred_z_score", "factorized", "delta_w_scaling", "model_dir", "emb_model",
        "module_order"}
FOLLOW = {"shared_AB_head", "autoreg_gen", "learnable_pos_emb", "learnable_AB_offset",
          "mt_lora_path", "hypernet_latent_size", "head_in_size", "head_use_bias",
          "target_modules"}
ARGS = {"training_task": one_of("sft", "recon"), "pred_z_score": FLAG, "factorized": FLAG,
        "delta_w_scaling": number(1e-30, 1e30), "model_dir": TEXT, "emb_model": optional(TEXT),
        "module_order": list_of(TEXT)}
ADAPTER = {"r": whole(1, 2**20), "lora_alpha": number(0, 1e9), "use_rslora": optional(FLAG)}
TRAINING = set("""
    additional_eval_descs also_val_on_train batch_size config debug ds_descriptions epochs
    equally_weight_sample eval_ds_info grad_accum_steps inp_max_len keep_only_best
    l2_reg_generated_w label_smoothing logging_freq lr max_grad_norm model_watch_freq
    n_descs_per_ds n_embs_per_sampled_task n_points_per_task n_tasks_per_batch n_train_ds
    neftune_noise_alpha notes run_name save_dir save_freq save_to_base_model_dir seed sft_mode
    skip_eval train_ds_names use_default_desc use_hierarchical_sampler use_per_sample_desc
    use_per_task_emb val_batch_size val_freq warmup_frac weight_decay
    """.split())


def read_sakana(folder: Path, module_order: tuple[str, ...] | None = None
                ) -> tuple[dict, dict[str, Tensor]]:
    """A released checkpoint as (the fields of a T2LConfig, the T2L's weights).

    The ids of the adapted modules come from the order of a Python set, and their heads were made in
    that same order. `module_order` says it, else args.yaml if it does, else the order in which the
    file has the heads, with a warning. UserError where something cannot be honoured.
    """
    # What was trained?
    args, adapter = read_flat_yaml(folder / "args.yaml"), read_json(folder / "adapter_config.json")
    refused = [f"{key}: {args[key]!r}" for key, value in KNOWN.items()
               if args.get(key, value) != value]
    wrong = (misfits({"training_task": None} | args, ARGS, between=": "),
             misfits(adapter, ADAPTER, "adapter_config.json's "))
    refused += filter(None, wrong)
    if args.get("training_task") == "recon" and args.get("pred_z_score", True) \
            and not args.get("factorized", False):
        refused.append("pred_z_score without factorized")
    if refused:
        raise UserError(f"{folder}/args.yaml: cannot honour {', '.join(refused)}")
    state = read_pickled_tensors(folder / "hypermod.pt")
    if unknown := sorted(args.keys() - KNOWN.keys() - READ - FOLLOW - TRAINING):
        warnings.warn(f"{folder}/args.yaml: keys that are not known here: {', '.join(unknown)}")

    # Which module came first?
    order = module_order or args.get("module_order")
    if not order:
        order = list(dict.fromkeys(key.split(".")[1] for key in state if key.startswith("heads.")))
        warnings.warn(f"{folder} does not say which module came first in training; guessed from "
                      f"the order of its heads: {', '.join(order)}; say it as module_order: "
                      "[q_proj, v_proj] in its args.yaml, or with t2l.py's --module-order")

    # Sizes and weights.
    try:
        fields = config_fields(state, args, adapter, tuple(order))
        stats = output_stats(state, args, order)
    except (LookupError, AttributeError, TypeError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{folder}: not the authors' layout, {error} is missing or odd") from None
    replaced = {f"{name}.{side}.{m}" for name in BUFFERS for side in "AB" for m in order}
    check_t2l(fields, folder / "hypermod.pt")
    return fields, {k: w for k, w in state.items() if k not in replaced} | stats


def config_fields(state: dict[str, Tensor], args: dict, adapter: dict,
                  order: tuple[str, ...]) -> dict:
    """T2LConfig from the shapes: which head, too, follows from the tensors that are there."""
    A, B = ({m: state[f"AB_offset.{side}.{m}"] for m in order} for side in "AB")   # (n, r, d_in) …
    r, head = A[order[0]].shape[1], state[f"heads.{order[0]}.weight"]
    for key, found in (("r", r), ("target_modules", sorted(order))):
        said = adapter.get(key, found)
        if (sorted(said) if isinstance(said, list) else said) != found:
            raise UserError(f"adapter_config.json says {key} {said!r}, hypermod.pt {found!r}")

    arch = "S" if "pos_emb.0.weight" in state else "M" if "out_emb_norm.weight" in state else "L"
    return {"arch": arch,
            "emb_size": state["task_encoder.mlp.0.weight"].shape[1],
            "n_layers": state["layer_depth_encoder.0.weight"].shape[0],
            "modules": {m: (A[m].shape[2], B[m].shape[1]) for m in order},
            "rank": r,
            "alpha": adapter["lora_alpha"] / (1 if adapter.get("use_rslora") else r ** 0.5),
            "latent": state["mixer.1.weight"].shape[1],
            "head_in": head.shape[1],
            "head_bias": f"heads.{order[0]}.bias" in state,
            "base_model": args["model_dir"],
            "encoder": args["emb_model"] or "base",
            "z_scored": True}


def output_stats(state: dict[str, Tensor], args: dict, order: list[str]) -> dict[str, Tensor]:
    """The mean and the standard deviation by which a head's numbers become A and B."""
    recon, stats = args["training_task"] == "recon", {}
    for side in "AB":
        for m in order:
            offset = state[f"AB_offset.{side}.{m}"].float()
            mean, std = offset, torch.ones_like(offset)
            if recon and args.get("pred_z_score", True):         # the defaults are the authors'
                mean = offset + state[f"mean_recon_target.{side}.{m}"].view_as(offset)
                std = state[f"std_recon_target.{side}.{m}"].float().view_as(offset) + 1e-10
            elif recon and not args.get("factorized", False):     # their code adds no offset here
                mean = torch.zeros_like(offset)
                std = std / args.get("delta_w_scaling", 10_000) ** 0.5
            stats[f"mean_recon_target.{side}.{m}"] = mean
            stats[f"std_recon_target.{side}.{m}"] = std
    return stats


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """A pickled dict of tensors; anything else in the file is refused, not run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:          # whatever a file that is broken makes the unpickler say
        raise UserError(f"{path} is not a pickled dict of tensors ({first_line(error)})") from None
    if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(w, Tensor)
                                              for name, w in state.items()):
        raise UserError(f"{path}: expected a dict of tensors by name")
    return state


def read_flat_yaml(path: Path) -> dict:
    """`key: value` lines, and lists of `- value` lines; no more YAML than args.yaml needs."""
    values, key = {}, ""
    for i, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip().startswith("- "):
            if not isinstance(values.get(key, ""), list | None):
                raise UserError(f"{path}, line {i}: {line.strip()!r} stands in no list")
            values[key] = [*(values.get(key) or []), scalar(line.strip()[2:])]
        elif ":" in line and not line.startswith((" ", "#")):
            key, text = line.split(":", 1)
            values[key] = [scalar(part.strip()) for part in text.strip(" []").split(",")] \
                if text.strip().startswith("[") else scalar(text.strip())
    return values


def scalar(text: str) -> str | float | int | bool | None:
    words = {"true": True, "false": False, "null": None, "~": None, "": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text.strip("'\"")
