#!/usr/bin/env bash
# Everything in experiments/README.md that needs only this repo, on two cores: minutes are behind
# each line. In a second start a run goes on where it stopped, and a table that is there stays.
#     experiments/results/all.sh              # 10 hours
#     experiments/results/all.sh table2       # 5 hours; also reconstruction, tables345, mixing
set -euo pipefail
cd "$(dirname "$0")/../.."                                         # the repo root
ALL="q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"

# run OUT MODULE flags …: trains into out/OUT, without a table. A run that was killed before its
# first saved state begins again.
run() {
    local resume=""
    if test -e "out/$1/train_state.pt" || grep -qs '"finished": true' "out/$1/config.json" ||
        test "$1" = lora -a -e out/lora/config.json; then resume=--resume; fi
    python -m "$2" "${@:3}" --eval-samples 0 --out "out/$1" $resume
}
# table FILE MODULE flags …: unless out/FILE is there; --out is its folder.
table() { test -e "out/$1" || python -m "$2" "${@:3}" --out "$(dirname "out/$1")"; }

table2() {                                        # Table 2, and the flags: sections 2, 13, 14
    run lora train --mode lora                                     # 64 oracles: 24
    for seed in 0 1 2; do
        run s$seed train --mode sft --seed $seed                                           # 8
        run rs$seed train --mode mtlora --describe prompt --seed $seed                     # 10
        run mt$seed train --mode mtlora --seed $seed                                       # 8
        run hyper$seed experiments.readers input --seed $seed                              # 9
    done
    for arch in L M S bank; do
        test $arch = bank || run $arch train --mode sft --arch $arch                       # 8 to 10
        run recon-$arch train --mode recon --loras out/lora --arch $arch                   # 1 to 3
    done
    run seven train --mode sft --modules $ALL                                              # 13
    run r7 train --mode mtlora --describe prompt --lr 1e-3 --modules $ALL                  # 16
    run readwith train --mode sft --read-with out/rs0                                      # 9
    run both train --mode sft --describe both                                              # 12

    table eval/baselines/baselines_unseen.json experiments.baselines --loras out/lora \
        --eval-samples 6 --ckpt out/rs{0,1,2} out/mt{0,1,2} out/hyper{0,1,2} out/{L,M,S} \
        out/recon-{L,M,S,bank} out/s{0,1,2}                                                # 20
    table eval/default/results.json eval --ckpt out/s{0,1,2} out/rs{0,1,2} --seeds \
        --eval-samples 6                                                                   # 15
    table eval/flags/results.json eval --ckpt out/seven out/readwith out/both out/r7 out/rs0 \
        --eval-samples 6                                                                   # 15
}

tables345() {                                     # Tables 3 to 5, Figure 5: section 15
    for n in 31 62 155 310; do
        run tasks-$n train --mode sft --max-tasks $n                                       # 8
        run tasks-$n-grown train --mode sft --max-tasks $n --steps $((n * 540 / 620))      # 1 to 4
    done
    run s0 train --mode sft
    run minilm train --mode sft --encoder all-MiniLM-L6-v2                                 # 8
    run base train --mode sft --encoder base                                               # 8
    run states train --mode sft --encoder states                                           # 8
    run random experiments.readers random                                                  # 8
    run number experiments.readers number                                                  # 8
    run lora train --mode lora
    run recon-L train --mode recon --loras out/lora --arch L

    table eval/table3/baselines_unseen.json experiments.baselines --eval-samples 6 --ckpt \
        out/tasks-{31,62,155,310}-grown out/tasks-{31,62,155,310} out/s0                   # 4
    table eval/table4/baselines_unseen.json experiments.baselines --eval-samples 6 --ckpt \
        out/{random,number,minilm,base,states,s0}                                          # 3
    table eval/wordings_recon-L.json experiments.wordings --eval-samples 6 --ckpt out/s0 \
        out/recon-L                                                                        # 8
    table eval/codes.json experiments.codes --figure experiments/results/codes.png         # 1
}

mixing() {                                        # what a hypernetwork makes possible: section 16
    for what in wordings between strength sum steering; do
        table eval/mixing_$what.json experiments.mixing $what --eval-samples 3             # 2
    done
    python -m experiments.plots --mixing out/eval experiments/results/mixing.png
    python -m experiments.cost                                                             # 1
}

# recon OUT N flags …: T2L learns to give the oracles, then both on N test inputs a task.
recon() {
    run "$1" train --mode recon --loras out/lora "${@:3}"
    table "$1/results_library.json" experiments.compare --loras out/lora --ckpt "out/$1" \
        --eval-samples "$2"
}
nine() { recon "$1" 12 --max-tasks 9 --arch "$2" --steps "$3" "${@:4}"; }  # OUT ARCH STEPS flags …

reconstruction() {                                # Table 1, Figure 3: sections 3 to 6; 2 hours
    run lora train --mode lora
    for form in text one-hot; do
        hot=$(test $form = text || echo --one-hot)
        for seed in 0 1 2; do                                      # nine oracles, three heads
            nine table1/L-$form-$seed L 600 --seed $seed $hot
            nine table1/M-$form-$seed M 2000 --seed $seed $hot
            run starts/S-$form-$seed train --mode recon --loras out/lora --max-tasks 9 --arch S \
                --steps 500 --seed $seed $hot
            nine table1/S-$form-$seed S 1000 --seed $seed $hot --recon-space delta \
                --init out/starts/S-$form-$seed
        done
        nine table1/S-$form-factors-0 S 3000 $hot                  # S by the paper's loss alone
    done
    python -m experiments.plots out/table1/*

    for n in 8 16 32 64; do                                        # ever more into one T2L
        for arch in L S; do
            rate=$(test $arch-$n != S-64 || echo --lr 0.005)       # at 0.01 this one collapses
            recon figure3/$arch-$n 6 --max-tasks $n --arch $arch $rate
            recon figure3/$arch-canonical-$n 6 --max-tasks $n --arch $arch $rate --canonical
        done
    done
    for seed in 1 2; do
        recon figure3/L-32-seed-$seed 6 --max-tasks 32 --arch L --seed $seed
        recon figure3/L-canonical-32-seed-$seed 6 --max-tasks 32 --arch L --seed $seed --canonical
    done
    python -m experiments.plots out/figure3/* --figure experiments/results/compression.png
    run sft-from-recon train --mode sft --init out/figure3/L-64
    table eval/recon/results.json eval --ckpt out/figure3/L-16 out/figure3/L-64 \
        out/sft-from-recon --eval-samples 6
}

for part in ${@:-table2 tables345 mixing reconstruction}; do $part; done
