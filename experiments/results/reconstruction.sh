#!/usr/bin/env bash
# The oracles, the paper's Table 1 and Figure 3 in miniature, and zero-shot from reconstruction:
# everything on reconstruction in experiments/README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."                                         # the repo root

# 64 oracles → out/lora. In a second start of this script these go on where they stopped; the
# recon runs begin again.
python train.py --mode lora $(test -e out/lora/config.json && echo --resume)

# recon OUT N flags …: T2L learns to give the oracles, then both on N test inputs a task.
recon() {
    python train.py --mode recon --loras out/lora --out "$1" "${@:3}"
    python -m experiments.compare --loras out/lora --ckpt "$1" --out "$1" \
        --eval-samples "$2"
}
nine() { recon "$1" 12 --max-tasks 9 --arch "$2" --steps "$3" "${@:4}"; }  # nine OUT ARCH STEPS flags …

for seed in 0 1 2; do                                              # nine oracles, three heads
    for form in text one-hot; do
        flags="--seed $seed $(test $form = text || echo --one-hot)"
        nine out/table1/L-$form-$seed L 600 $flags
        nine out/table1/M-$form-$seed M 2000 $flags
        python train.py --mode recon --loras out/lora --max-tasks 9 --arch S --steps 500 $flags \
            --eval-samples 0 --out out/starts/S-$form-$seed
        nine out/table1/S-$form-$seed S 1000 $flags --recon-space delta \
            --init out/starts/S-$form-$seed
    done
done
for form in text one-hot; do                                       # S by the paper's loss alone
    nine out/table1/S-$form-factors-0 S 3000 $(test $form = text || echo --one-hot)
done
python -m experiments.plots out/table1/*

for n in 8 16 32 64; do                                            # ever more into one T2L
    for arch in L S; do
        rate=$(test $arch-$n != S-64 || echo --lr 0.005)           # at 0.01 this one collapses
        recon out/figure3/$arch-$n 6 --max-tasks $n --arch $arch $rate
        recon out/figure3/$arch-canonical-$n 6 --max-tasks $n --arch $arch $rate --canonical
    done
done
for seed in 1 2; do
    recon out/figure3/L-32-seed-$seed 6 --max-tasks 32 --seed $seed
    recon out/figure3/L-canonical-32-seed-$seed 6 --max-tasks 32 --seed $seed --canonical
done
python -m experiments.plots out/figure3/* --figure experiments/results/compression.png

python eval.py --ckpt out/figure3/L-16 out/figure3/L-64 --eval-samples 6     # with controls
python train.py --mode sft --init out/figure3/L-64 --out out/sft-from-recon
