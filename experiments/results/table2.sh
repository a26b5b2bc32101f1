#!/usr/bin/env bash
# The paper's Table 2 in miniature, and what the flags of --mode sft give: sections 2, 13 and 14 of
# experiments/README.md. About four hours on two cores (minutes are behind each line); in a second
# start every run goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."                                         # the repo root
ALL="q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"

# run OUT MODULE flags …: trains into out/OUT, without a table.
run() {
    local resume=""
    if test -e "out/$1/config.json" -o -e "out/$1/train_state.pt"; then resume=--resume; fi
    python -m "$2" "${@:3}" --eval-samples 0 --out "out/$1" $resume
}

run lora train --mode lora                                         # 64 oracles: 24
for seed in 0 1 2; do
    run s$seed train --mode sft --seed $seed                                               # 8
    run rs$seed train --mode mtlora --describe prompt --seed $seed                         # 10
done
run mt0 train --mode mtlora                                                                # 8
run hyper0 experiments.hyperdecoder                                                        # 8
for arch in L M S bank; do
    test $arch = bank || run $arch train --mode sft --arch $arch                           # 8
    run recon-$arch train --mode recon --loras out/lora --arch $arch                       # 1 to 3
done
run seven train --mode sft --modules $ALL                                                  # 13
run r7 train --mode mtlora --describe prompt --lr 1e-3 --modules $ALL                      # 16
run readwith train --mode sft --read-with out/rs0                                          # 9
run both train --mode sft --describe both                                                  # 12

python -m experiments.baselines --loras out/lora --eval-samples 6 --out out/eval/baselines --ckpt \
    out/rs{0,1,2} out/mt0 out/hyper0 out/{L,M,S} out/recon-{L,M,S,bank} out/s{0,1,2}       # 15
python eval.py --ckpt out/s{0,1,2} out/rs{0,1,2} --seeds --eval-samples 6 --out out/eval/default
python eval.py --ckpt out/seven out/readwith out/both out/r7 out/rs0 --eval-samples 6 \
    --out out/eval/flags
