#!/bin/bash
# Students on TNEWS in every form: torch, ONNX, int8 after training, and int8 trained for; see
# bench/results/quantization.md. Wants data/teacher, data/tasks/tnews and the students given.
#
#     PYTHON=.venv/bin/python bench/quantization/task.sh students/a students/b ...
#
# What is there is not made again. To measure speed on a quiet machine, remove data/quantization/exported and run it again.
set -e
python=${PYTHON:-python} config=bench/quantization/task.json data=data/quantization
mkdir -p $data/exported
$python - <<'PYTHON'
import random
from pathlib import Path
for name, file, number in (("train", "train", 4000), ("dev", "dev_clean", 2000)):
    lines = [line for line in Path(f"data/tasks/tnews/{file}.jsonl").read_text(encoding="utf-8").split("\n") if line]
    random.Random(1).shuffle(lines)
    Path(f"data/quantization/{name}.jsonl").write_text("\n".join(lines[:number]) + "\n", encoding="utf-8")
PYTHON
runs=runs/quantization
[ -e $runs/ft/ft/done.json ] || $python launch/td.py --config $config --run $runs/ft --set stages.td2=null
taught=(teacher.path=$runs/ft/ft/model stages.ft=null)
for student in "$@"; do
    name=$(basename $student)
    for form in plain int8; do
        rounding=$([ $form = int8 ] && echo 'stages.td2.quantization={"weights":8,"begin":0.5}' || true)
        [ -e $runs/$name-$form/td2/done.json ] ||
            $python launch/td.py --config $config --run $runs/$name-$form --set "${taught[@]}" student=$student $rounding
    done
done
for student in "$@"; do
    for form in plain int8; do
        to=$data/exported/$(basename $student)-$form
        [ -e $to ] || $python launch/export.py --student $runs/$(basename $student)-$form/td2/model --output $to --int8 --force \
            --task $config
    done
done
