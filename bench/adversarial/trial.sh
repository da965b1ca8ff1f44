#!/bin/bash
# A student fine-tuned on 1,000 titles of TNEWS by labels alone, with FGM and with PGD. See bench/results/adversarial.md.
# Wants the data that bench/quantization/task.sh makes, and a student.
#
#     PYTHON=.venv/bin/python [SEEDS="17 18 19"] bench/adversarial/trial.sh students/a
set -e
python=${PYTHON:-python} config=bench/quantization/task.json student=$1
mkdir -p data/adversarial
head -n 1000 data/quantization/train.jsonl > data/adversarial/train.jsonl
none=null fgm='{"type":"fgm"}' pgd='{"type":"pgd"}'
for seed in ${SEEDS:=17 18 19}; do
    for way in none fgm pgd; do
        $python launch/td.py --config $config --run runs/adversarial/$way-$seed --set "stages.ft.adversarial=${!way}" \
            task.train=data/adversarial/train.jsonl teacher.path=$student stages.td2=null stages.ft.epochs=6 \
            stages.ft.optimizer.lr=3e-4 training.seed=$seed
    done
done
head -n 2 runs/adversarial/*/ft/scores.json
