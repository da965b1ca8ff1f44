"""A BiLSTM through td.py: begun from the teacher, trained, resumed, scored, predicted with and exported."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from corpus.vocabulary.saved import save_tokenizer
from launch import predict
from launch.command_line.config_file import read_strictly
from launch.distillation.checks import check_input
from launch.distillation.config import read_run_config
from launch.evaluation.config import Evaluation, EvaluationConfig
from launch.exporting.exporter import export
from launch.exporting.onnx_server import open_graph
from launch.stages.chain import Chain
from launch.stages.config import TaskRunConfig
from tasks.bilstm import BiLSTMSizes, build_bilstm
from tasks.models import load_task_model
from tests.processes import run_script

STAGE = {"epochs": 6, "optimizer": {"lr": 3e-3}}
BILSTM = {"bilstm": {"hidden_size": 12, "embedding_size": 16}}
DEEPSPEED = {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4, "torch_autocast": {"enabled": False}}
pytestmark = pytest.mark.job
KINDS = ("sentence", "pair")


def write_task(folder, kind):
    """Rows whose class is their first text's character, or whether both texts begin with the same."""
    records = [{"text": f"{a} {rest}", "other": f"{b} {rest}", "label": a if kind == "sentence" else str(a == b)}
               for a in "天地" for b in "天地" for rest in "玄黄宇宙洪荒"]  # fmt: skip
    (folder / "data.json").write_text("".join(json.dumps(one) + "\n" for one in records))
    columns = {"text": "text"} | ({"text_b": "other"} if kind == "pair" else {})
    data = str(folder / "data.json")
    return {"name": "t", "kind": kind, "train": data, "dev": data, "columns": columns, "row_tokens": 16}


@pytest.fixture(scope="module")
def chain(teacher_folder, tmp_path_factory):
    """A finished run: its folder, its configuration, and what it said."""
    folder = tmp_path_factory.mktemp("chain")
    distil = [{"type": "labels"}, {"type": "soft_labels", "temperature": 2.0}, {"type": "logits_mse"}]
    values = {
        "task": write_task(folder, "sentence"),
        "teacher": {"path": str(teacher_folder), "dtype": "float32"},
        "student": BILSTM,
        "stages": {
            "ft": STAGE | {"epochs": 1, "objective": [{"type": "labels"}]},
            "td2": STAGE | {"objective": distil},
        },
        "deepspeed": DEEPSPEED,
    }
    (folder / "t.json").write_text(json.dumps(values))
    done = run_script("launch/td.py", "--config", str(folder / "t.json"), "--run", str(folder / "run"))
    assert done.returncode == 0, done.stderr
    return folder / "run", values, done.stdout


@pytest.fixture(scope="module", params=KINDS)
def made(request, chain, teacher_folder, tmp_path_factory):
    """A model for each kind of task, and the task: the run's for texts, an untrained one for pairs."""
    if request.param == "sentence":
        return chain[0] / "td2/model", chain[1]["task"]
    folder = tmp_path_factory.mktemp("pair")
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    sizes = BiLSTMSizes(hidden_size=12, embedding_size=16)
    build_bilstm(sizes, "pair", str(teacher_folder), tokenizer.sep_token_id, 0).save_pretrained(folder / "begun")
    load_task_model(str(folder / "begun"), "pair", ["False", "True"], 0).save_pretrained(folder / "model")
    save_tokenizer(tokenizer, folder / "model", 40)
    return folder / "model", write_task(folder, "pair")


def test_a_chain_begins_it_trains_it_and_says_how_to_load_it(chain):
    run, _, said = chain
    assert sorted(path.name for path in (run / "start").iterdir() if "token" not in path.name) == [
        "config.json", "model.safetensors", "vocab.txt"
    ]  # fmt: skip
    assert not [*run.rglob("*.bin"), *run.rglob("*.pt")]
    assert AutoTokenizer.from_pretrained(run / "td2/model").model_max_length == 40
    assert json.loads((run / "td2/scores.json").read_text())["accuracy"] > 0.5
    terms = json.loads((run / "td2/metrics.jsonl").read_text().splitlines()[-1])
    assert {"td2/labels", "td2/soft_labels", "td2/logits_mse"} <= terms.keys()
    assert re.search(rf"python -i -c 'import tasks.bilstm; from .*{run / 'td2/model'}", said)


def test_a_chain_that_goes_on_keeps_its_start(chain, tmp_path):
    config = read_strictly(TaskRunConfig, chain[1])
    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer_path)
    one = SimpleNamespace(config=config, run=tmp_path, task=SimpleNamespace(tokenizer=tokenizer))
    one._save_tokenizer = lambda *arguments: Chain._save_tokenizer(one, *arguments)
    Chain._begin_student(one)
    begun = (tmp_path / "start/model.safetensors").read_bytes()
    assert begun == (chain[0] / "start/model.safetensors").read_bytes()  # from the seed alone
    (tmp_path / "start/model.safetensors").write_bytes(b"")
    Chain._begin_student(one)
    assert (tmp_path / "start/model.safetensors").read_bytes() == b""


def test_it_labels_text_as_it_was_scored(chain, tmp_path):
    run, values, _ = chain
    (tmp_path / "task.json").write_text(json.dumps({"task": values["task"]}))
    flags = {"model": run / "td2/model", "task": tmp_path / "task.json", "input": values["task"]["dev"],
             "output": tmp_path / "out.jsonl"}  # fmt: skip
    arguments = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    predict.run(predict.parse_arguments([*arguments, "--probabilities"]), SimpleNamespace(reason=0))
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    wanted = [json.loads(line)["label"] for line in Path(values["task"]["dev"]).read_text().splitlines()]
    right = sum(one["label"] == label for one, label in zip(answers, wanted, strict=True))
    assert right / len(wanted) == json.loads((run / "td2/scores.json").read_text())["accuracy"]


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="pip install -r requirements-export.txt")
def test_its_graph_answers_as_it_does(made, tmp_path):
    folder, task = made
    (tmp_path / "task.json").write_text(json.dumps({"task": task}))
    record = export(folder, tmp_path / "out", int8=True, task=str(tmp_path / "task.json"))
    assert record["head"] == "BiLSTMForSequenceClassification"
    assert record["inputs"] == ("input_ids", "attention_mask") and record["outputs"] == ("logits",)
    assert record["forms"]["onnx"]["difference"] < 1e-5 and record["forms"]["onnx"]["changed"] == 0
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    graph, generator = open_graph(str(tmp_path / "out/onnx/model.onnx")), torch.Generator().manual_seed(0)
    for num_rows, length in ((1, 1), (1, 2), (3, 17), (2, 38)):
        ids = torch.randint(0, model.config.vocab_size, (num_rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, (length + 1) // 2 :] = 0
        batch = {"input_ids": ids, "attention_mask": mask}
        (found,) = graph.run(None, {one.name: batch[one.name].numpy() for one in graph.get_inputs()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(**batch).logits, atol=1e-5, rtol=0)


def test_a_trained_one_is_trained_further_and_is_refused_elsewhere(chain, config_file, tmp_path):
    run, values, _ = chain
    model = str(run / "td2/model")
    further = values | {"student": model, "stages": {"td2": values["stages"]["td2"]}}
    config = read_strictly(TaskRunConfig, further, [f"teacher.path={run / 'ft/model'}"])
    config.check()
    config.check_heads(["地", "天"])
    td1 = {"td1": STAGE | {"objective": [{"type": "hidden_states"}]}}
    with pytest.raises(ValueError, match=r"^stages.td1.objective.0: hidden_states reads layers of the student, and"):
        read_strictly(TaskRunConfig, further | {"stages": values["stages"] | td1}).check()
    with pytest.raises(ValueError, match=r"is a BiLSTM for tasks of kind sentence, not pair$"):
        read_strictly(TaskRunConfig, further | {"task": write_task(tmp_path, "pair")}).check_heads(["False", "True"])
    with pytest.raises(
        ValueError, match=r"^teacher.path: '.*model': a bilstm has no layers to read: it can be the stu"
    ):
        read_strictly(TaskRunConfig, values, [f"teacher.path={model}"]).check()
    evaluation = Evaluation(EvaluationConfig.model_validate({"deepspeed": DEEPSPEED}), {"b": model}, {}, (1,))
    with pytest.raises(ValueError, match=r"^--models b: '.*model': a bilstm has no layers to read"):
        evaluation.check()
    with pytest.raises(ValueError, match=r"^teacher.path: '.*model': a bilstm has no layers to read"):
        check_input(read_run_config(config_file, [f"teacher.path={model}"]), tmp_path / "gd", 1)
