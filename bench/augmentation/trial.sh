#!/bin/bash
# TD1 and TD2 on 1,000 examples of each task, alone and with five times as many texts more, for the same number of steps;
# see bench/results/augmentation.md. Wants data/teacher, data/tasks/TASK, and a student in data/augmentation/student.
#
#     PYTHON=.venv/bin/python [SOURCES="neighbours unlabelled"] [SEEDS="17 18 19"] [EPOCHS=3] [SET=stages.td1=null] \
#         bench/augmentation/trial.sh [TASK ...]
#
# Sources: those of launch/augment_task.py, and unlabelled, other texts of the task. EPOCHS: passes over all texts, of
# each of the two stages. SET: a key to change in every run.
set -e
python=${PYTHON:-python} config=bench/augmentation/td.json
for task in ${*:-tnews thucnews10 ocnli chnsenticorp}; do
    folder=data/augmentation/$task
    mkdir -p $folder
    $python - $task <<'PYTHON'
import json, random, sys
from pathlib import Path
task = sys.argv[1]
source, folder = Path("data/tasks", task), Path("data/augmentation", task)
clean = source / "dev_clean.jsonl"
for name, file, number in (("train", source / "train.jsonl", 1000), ("dev", clean if clean.exists() else source / "dev.jsonl", 2000)):
    lines = [line + "\n" for line in file.read_text(encoding="utf-8").split("\n") if line]
    random.Random(1).shuffle(lines)
    (folder / f"{name}.jsonl").write_text("".join(lines[:number]), encoding="utf-8")
    if name == "train":
        (folder / "unlabelled.jsonl").write_text("".join(lines[number : 6 * number]), encoding="utf-8")
lines = (source / "train.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
texts = (text for line in lines for key, text in json.loads(line).items() if key.startswith("sentence"))
(folder / "texts.txt").write_text("\n".join(text.replace("\n", " ") for text in texts), encoding="utf-8")
PYTHON
    case $task in
        ocnli | afqmc) what=(task.kind=pair 'task.columns={"text":"sentence1","text_b":"sentence2"}') ;;
        thucnews10) what=('task.columns={"text":"sentence","label":"label_desc"}') ;;
        *) what=() ;;
    esac
    what=(task.name=$task task.train=$folder/train.jsonl task.dev=$folder/dev.jsonl "${what[@]}")
    $python - $config $folder/task.json "${what[@]}" <<'PYTHON'
import json, sys
from pathlib import Path
from launch.command_line.config_file import read_strictly
from launch.stages.config import TaskRunConfig
config, output, *overrides = sys.argv[1:]
read = read_strictly(TaskRunConfig, Path(config), overrides)
open(output, "w").write(json.dumps({"task": read.task.model_dump(mode="json", exclude_unset=True)}))
PYTHON
    for source in ${SOURCES:=neighbours unlabelled}; do
        [ $source = unlabelled ] || [ -d $folder/$source ] && continue
        words=$([ $source = neighbours ] && echo "--words-from $folder/texts.txt" || true)
        $python launch/augment_task.py --config $folder/task.json --source $source --model data/teacher --copies 5 \
            --output $folder/$source --workers 1 $words
    done
    runs=runs/augmentation/$task
    $python launch/td.py --config $config --run $runs/ft --set "${what[@]}" stages.td1=null stages.td2=null
    taught=("${what[@]}" teacher.path=$runs/ft/ft/model stages.ft=null)
    for seed in ${SEEDS:-17 18 19}; do
        alone=$((6 * ${EPOCHS:=3}))
        $python launch/td.py --config $config --run $runs/none-$seed --set "${taught[@]}" training.seed=$seed \
            stages.td1.epochs=$alone stages.td2.epochs=$alone $SET
        for source in $SOURCES; do
            more=task.augmented=$folder/$source/augmented.jsonl
            [ $source = unlabelled ] && more=task.unlabelled=$folder/unlabelled.jsonl
            $python launch/td.py --config $config --run $runs/$source-$seed --set "${taught[@]}" training.seed=$seed \
                stages.td1.epochs=$EPOCHS stages.td2.epochs=$EPOCHS $SET $more
        done
    done
done
head -n 1 runs/augmentation/*/*/*/scores.json
