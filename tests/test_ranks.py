"""Two processes by torchrun beside one: the same gradients, losses, weights and tables."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, ROOT, TINY, refused, train_tiny
from safetensors.torch import load_file

from utils import ranks

RANKS = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0",
         "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0"]


def torchrun(file: str | Path, *flags, check: bool = True, start: list[str] = RANKS,
             cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """`torchrun --nproc_per_node=2 FILE.py flags` of the tiny models in fp32."""
    words = [*start, file, *TINY, "--dtype", "float32", *flags]
    return subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True,
                          check=check, timeout=300, env=os.environ | {
                              "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT}/tests"})


def losses(out: Path) -> torch.Tensor:
    return torch.tensor([json.loads(line)["loss"] for line in (out / "log.jsonl").open()])


def mtlora(out: Path, tasks: Path, *flags) -> list:
    """A run without dropout, whose draws are others on every rank."""
    return ["--mode", "mtlora", "--tasks", tasks, "--out", out, "--steps", 20, "--eval-samples", 2,
            "--lr", 0.01, *flags]


@pytest.mark.quick
def test_parts_of_a_batch_weigh_as_the_whole_and_gradients_add_up():
    linear, x = torch.nn.Linear(3, 1), torch.randn(7, 3)
    linear(x).pow(2).mean().backward()
    whole = linear.weight.grad.clone()
    linear.zero_grad()
    for rows, weight in ranks.parts(None, list(x), 3):
        (linear(torch.stack(rows)).pow(2).mean() * weight).backward()
    torch.testing.assert_close(linear.weight.grad, whole)
    assert len(list(ranks.parts(None, [1, 2], 5))) == 2                 # no empty part


def test_accumulate_gives_the_run_of_the_whole_batch(tiny_tasks, tmp_path):
    train_tiny(*mtlora(tmp_path / "whole", tiny_tasks, "--batch-size", 8))
    train_tiny(*mtlora(tmp_path / "parts", tiny_tasks, "--batch-size", 8, "--accumulate", 3))
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)
    assert whole[-1] < whole[0] - 0.1


@pytest.mark.slow
def test_two_ranks_train_and_evaluate_as_one_process_with_twice_the_batch(tiny_tasks, tmp_path):
    train_tiny(*mtlora(tmp_path / "one", tiny_tasks, "--batch-size", 8))
    done = torchrun("train.py", *mtlora(tmp_path / "two", tiny_tasks, "--batch-size", 4))
    torchrun("train.py", *mtlora(tmp_path / "parts", tiny_tasks, "--batch-size", 4,
                              "--accumulate", 2))
    torchrun("train.py", *mtlora(tmp_path / "shard", tiny_tasks, "--batch-size", 4, "--shard"))
    one = losses(tmp_path / "one")
    for name in ("two", "parts", "shard"):
        torch.testing.assert_close(losses(tmp_path / name), one, atol=1e-3, rtol=0)
        for key, w in load_file(tmp_path / "one" / "adapter_model.safetensors").items():
            other = load_file(tmp_path / name / "adapter_model.safetensors")[key]
            torch.testing.assert_close(other, w, atol=1e-3, rtol=0)
        for file in ("results.json", "config.json"):
            a, b = (json.loads((tmp_path / run / file).read_text()) for run in ("one", name))
            for entry in ("command", "finished"):
                a.pop(entry, None), b.pop(entry, None)
            assert a == b, file
    assert done.stdout.count("min in all") == 1                         # rank 0 alone speaks


@pytest.mark.slow
def test_two_ranks_share_what_eval_asks_and_find_the_same(tiny_tasks, tmp_path):
    """One sample a batch; every answer is compared, not the scores alone."""
    train_tiny(*mtlora(tmp_path / "one", tiny_tasks, "--batch-size", 8))
    (tmp_path / "ask.py").write_text(ASK)
    for name, start in (("e1", [sys.executable]), ("e2", RANKS)):
        torchrun(tmp_path / "ask.py", "--ckpt", tmp_path / "one", "--tasks", tiny_tasks,
                 "--eval-samples", 3, "--out", tmp_path / name, start=start, cwd=tmp_path)
    e1, e2 = ((tmp_path / name / "results.json").read_bytes() for name in ("e1", "e2"))
    assert e1 == e2
    alone, *both = (json.loads((tmp_path / f"asked{i}.json").read_text()) for i in ("", 0, 1))
    assert all(sorted(found["seen"]) == sorted(alone["seen"]) for found in both)
    assert 0 < both[0]["generated"] < alone["generated"] and len(alone["seen"]) > 20
    assert both[0]["generated"] + both[1]["generated"] == alone["generated"]


ASK = """
import json, os, sys
import eval
from utils.cli import run
eval.BATCH, found = 1, {"seen": [], "generated": 0}
right, generate = eval.right_answers, eval.generate
def right_answers(answered, *form):
    found["seen"] += [repr(pair) for pair in answered]
    return right(answered, *form)
def counted(*args, **how):
    found["generated"] += 1
    return generate(*args, **how)
eval.right_answers, eval.generate = right_answers, counted
run(eval.main)
json.dump(found, open(f"asked{os.environ.get('RANK', '')}.json", "w"))
"""


@pytest.mark.slow
def test_sft_with_a_sharded_language_model_that_also_reads_the_descriptions(tiny_tasks, tmp_path):
    """The first loss, before dropout's draws have changed any weight much, is the one process'."""
    flags = ["--mode", "sft", "--tasks", tiny_tasks, "--steps", 3, "--eval-samples", 1,
             "--encoder", f"{GOLDEN / 'bert'}+states"]
    train_tiny(*flags, "--batch-size", 8, "--out", tmp_path / "one")
    for name, more in (("shard", ["--shard"]), ("lean", ["--shard", "--activation-checkpointing"]),
                       ("plain", [])):
        torchrun("train.py", *flags, "--batch-size", 4, *more, "--out", tmp_path / name)
        found, one = losses(tmp_path / name), losses(tmp_path / "one")
        torch.testing.assert_close(found[0], one[0], atol=2e-2, rtol=0)
        assert found.isfinite().all() and (tmp_path / name / "results.json").exists()


@pytest.mark.slow
def test_gradients_of_two_ranks_are_those_of_one_batch(tmp_path):
    """T2L itself, in fp32 without dropout: 2 x b against 1 x 2b, to 1e-6."""
    (tmp_path / "go.py").write_text(GRADIENTS)
    torchrun(tmp_path / "go.py", tmp_path)
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert found["far"] and max(found["far"].values()) < 1e-6, found
    assert min(found["own"].values()) > 1e-3               # a rank's own gradient is another


GRADIENTS = '''
import sys, torch, torch.distributed as dist
from conftest import GOLDEN
from mistral import load_model
from t2l import T2L, T2LConfig, adapted_modules
from utils import ranks

torch.manual_seed(0)
dist.init_process_group("gloo")
model = load_model(GOLDEN / "llama", torch.float32)
cfg = T2LConfig("L", 16, model.cfg.num_hidden_layers, adapted_modules(model.cfg), dropout=0.0)
t2l = T2L(cfg)
for linear in t2l.heads.values():
    torch.nn.init.normal_(linear.weight, std=0.01)
emb, ids = torch.randn(8, 16), torch.randint(3, 90, (8, 12))

class Source(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.t2l = t2l
    def adapters(self, rows):
        return self.t2l.adapters(emb[rows])

def gradients(adapters, rows, n):
    t2l.zero_grad()
    for part, weight in ranks.parts(adapters, rows, n):
        logits = model(ids[part], lora=adapters(part))
        (0.1 * logits.log_softmax(-1)[..., 5].mean() * weight).backward()
    return {k: w.grad.clone() for k, w in t2l.named_parameters()}

source = Source()
whole = gradients(source.adapters, list(range(8)), 1)
own = gradients(source.adapters, list(range(8))[ranks.rank()::2], 1)
adapters, batches = ranks.share(source, iter([list(range(8))] * 2))
far = {}
for n in (1, 2):
    for k, g in gradients(adapters, next(batches), n).items():
        far[k] = max(far.get(k, 0.0), (g - whole[k]).abs().max().item())
heads = [k for k in whole if k.startswith("heads")]
if ranks.rank() == 0:
    torch.save({"far": far, "own": {k: (own[k] - whole[k]).abs().max().item() for k in heads}},
               sys.argv[-1] + "/gradients.pt")
dist.barrier()
dist.destroy_process_group()
'''


@pytest.mark.slow
def test_resume_with_another_number_of_ranks(tiny_tasks, tmp_path):
    whole = mtlora(tmp_path / "whole", tiny_tasks, "--batch-size", 8, "--save-every", 10)
    train_tiny(*whole)
    out = tmp_path / "cut"
    cut = mtlora(out, tiny_tasks, "--save-every", 10)
    killed = subprocess.Popen([sys.executable, "-c", KILLED.format(step=13, rank=0), *map(str, [
        *TINY, "--dtype", "float32", *cut, "--batch-size", 8])], cwd=ROOT)
    assert killed.wait(120) == -signal.SIGKILL and (out / "train_state.pt").exists()
    torchrun("train.py", *cut, "--batch-size", 4, "--resume")
    torch.testing.assert_close(losses(out), losses(tmp_path / "whole"), atol=1e-3, rtol=0)


# train.py that is killed at a step.
KILLED = """
import os, signal, sys
from utils import run_folder
write = run_folder.StepLog.write
def dies(self, step, *rest):
    if step == {step} and os.environ.get("RANK", "{rank}") == "{rank}":
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, step, *rest)
run_folder.StepLog.write = dies
import train
from utils.cli import run
sys.argv[0] = "train.py"
run(train.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_the_run_with_one_line_and_a_state_to_go_on_from(dies, tiny_tasks,
                                                                              tmp_path):
    (tmp_path / "train_killed.py").write_text(KILLED.format(step=13, rank=dies))
    out = tmp_path / "out"
    flags = mtlora(out, tiny_tasks, "--batch-size", 4, "--save-every", 10)
    began = time.monotonic()
    done = torchrun(tmp_path / "train_killed.py", *flags, check=False)
    assert done.returncode and time.monotonic() - began < 100
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(ours) == dies, done.stderr                # rank 0 cannot say that it was killed
    assert all("another rank has ended" in line and "--resume" in line for line in ours)
    torchrun("train.py", *flags, "--resume")
    assert len(losses(out)) == 20 and not (out / "train_state.pt").exists()


@pytest.mark.slow
def test_ranks_refuse_what_is_not_for_them(tiny_tasks, tmp_path):
    done = torchrun("train.py", "--mode", "lora", "--tasks", tiny_tasks, "--out", tmp_path / "lora",
                    check=False)
    assert "--shard is for several processes" in refused(
        "train", *TINY, *mtlora(tmp_path / "s", tiny_tasks, "--shard"))
    assert done.returncode and "error: torchrun is for --mode sft and mtlora" in done.stderr
