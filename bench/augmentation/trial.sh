#!/bin/bash
# TD2 on 1,000 examples of TNEWS without and with augmented texts, for the same number of steps; see
# bench/results/augmentation.md. Wants data/teacher, data/tasks/tnews, and a student in data/augmentation/student.
set -e
python=${PYTHON:-python}
folder=data/augmentation config=bench/augmentation/td.json
mkdir -p $folder
$python - <<'PYTHON'
import json, random
from pathlib import Path
for name, source, number in (("train", "train", 1000), ("dev", "dev_clean", 2000)):
    lines = Path(f"data/tasks/tnews/{source}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    Path(f"data/augmentation/{name}.jsonl").write_text("".join(lines[:number]), encoding="utf-8")
lines = Path("data/tasks/tnews/train.jsonl").read_text(encoding="utf-8").splitlines()
titles = (json.loads(line)["sentence"].replace("\n", " ") for line in lines)
Path("data/augmentation/titles.txt").write_text("\n".join(titles), encoding="utf-8")
PYTHON
for source in neighbours mask_and_ngram; do
    words=$([ $source = neighbours ] && echo "--words-from $folder/titles.txt" || true)
    [ -d $folder/$source ] || $python launch/augment_task.py --config $config --source $source --model data/teacher \
        --copies 5 --output $folder/$source --workers 1 $words
done
teacher=teacher.path=runs/augmentation/ft/ft/model
$python launch/td.py --config $config --run runs/augmentation/ft --set stages.td2=null
for seed in 17 18 19; do
    $python launch/td.py --config $config --run runs/augmentation/none-$seed --set $teacher stages.ft=null training.seed=$seed
    for source in neighbours mask_and_ngram; do
        $python launch/td.py --config $config --run runs/augmentation/$source-$seed --set $teacher stages.ft=null \
            training.seed=$seed stages.td2.epochs=1 task.augmented=$folder/$source/augmented.jsonl
    done
done
head -n 1 runs/augmentation/*/*/scores.json
