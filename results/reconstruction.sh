#!/usr/bin/env bash
# Regenerates everything in RESULTS.md: the oracles, Table 1 and Figure 3 in miniature, zero-shot.
set -euo pipefail
cd "$(dirname "$0")/.."

python train.py --mode lora                                        # 64 oracles → out/lora

recon() { python train.py --mode recon --loras out/lora "$@"; }

for arch in L M S; do                                              # nine oracles, three heads
    for seed in 0 1 2; do
        recon --max-tasks 9 --arch $arch --seed $seed --eval-samples 20 \
              --out out/table1/$arch-text-$seed
        recon --max-tasks 9 --arch $arch --seed $seed --eval-samples 20 --one-hot \
              --out out/table1/$arch-one-hot-$seed
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
