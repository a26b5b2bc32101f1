#!/usr/bin/env bash
# Regenerates everything in RESULTS.md: the oracles, Table 1 and Figure 3 in miniature, zero-shot.
set -euo pipefail
cd "$(dirname "$0")/.."

# 64 oracles → out/lora. In a second start of this script these go on where they stopped; the
# recon runs begin again.
python train.py --mode lora $(test -e out/lora/config.json && echo --resume)

recon() { python train.py --mode recon --loras out/lora "$@"; }
nine() { recon --max-tasks 9 --arch $1 --steps $2 "${@:3}"; }

for seed in 0 1 2; do                                              # nine oracles, three heads
    for form in text one-hot; do
        flags="--seed $seed --eval-samples 12 $(test $form = text || echo --one-hot)"
        nine L 600 $flags --out out/table1/L-$form-$seed
        nine M 2000 $flags --out out/table1/M-$form-$seed
        nine S 500 $flags --eval-samples 0 --out out/starts/S-$form-$seed
        nine S 1000 $flags --recon-space delta --init out/starts/S-$form-$seed \
            --out out/table1/S-$form-$seed
    done
done
for form in text one-hot; do                                       # S by the paper's loss alone
    nine S 3000 --eval-samples 12 $(test $form = text || echo --one-hot) \
        --out out/table1/S-$form-factors-0
done
python plots.py out/table1/*

for n in 8 16 32 64; do                                            # ever more into one T2L
    for arch in L S; do
        rate=$(test $arch-$n != S-64 || echo --lr 0.005)           # at 0.01 this one collapses
        recon --max-tasks $n --arch $arch $rate --out out/figure3/$arch-$n
        recon --max-tasks $n --arch $arch $rate --canonical --out out/figure3/$arch-canonical-$n
    done
done
for seed in 1 2; do
    recon --max-tasks 32 --seed $seed --out out/figure3/L-32-seed-$seed
    recon --max-tasks 32 --seed $seed --canonical --out out/figure3/L-canonical-32-seed-$seed
done
python plots.py out/figure3/* --figure results/compression.png

python eval.py --ckpt out/figure3/L-16 out/figure3/L-64 --eval-samples 6     # with controls
python train.py --mode sft --init out/figure3/L-64 --out out/sft-from-recon
