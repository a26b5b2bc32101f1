#!/usr/bin/env bash
# Regenerates everything in RESULTS.md: the oracles, Table 1 and Figure 3 in miniature, zero-shot.
set -euo pipefail
cd "$(dirname "$0")/.."

# 64 oracles → out/lora; a second start of this script goes on with what is there
python train.py --mode lora $(test -e out/lora/config.json && echo --resume)

recon() { python train.py --mode recon --loras out/lora "$@"; }

nine() { recon --max-tasks 9 --eval-samples 12 --arch $1 --steps $2 "${@:3}"; }
for seed in 0 1 2; do                                              # nine oracles, three heads
    for head in "L 600" "M 1500" "S 3000"; do
        nine $head --seed $seed --out out/table1/${head% *}-text-$seed
        nine $head --seed $seed --one-hot --out out/table1/${head% *}-one-hot-$seed
    done
done
python plots.py out/table1/*

for n in 8 16 32 64; do                                            # ever more into one T2L
    for arch in L S; do
        recon --max-tasks $n --arch $arch --out out/figure3/$arch-$n
        recon --max-tasks $n --arch $arch --canonical --out out/figure3/$arch-canonical-$n
    done
done
python plots.py out/figure3/* --figure results/compression.png

python eval.py --ckpt out/figure3/L-64 --eval-samples 6            # zero-shot, with controls
python train.py --mode sft --init out/figure3/L-64 --out out/sft-from-recon
