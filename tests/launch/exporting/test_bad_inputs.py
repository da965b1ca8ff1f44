"""What cannot be exported is said in one line, with what to do, and nothing is left behind."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultipleChoice, AutoModelForNextSentencePrediction
from transformers import AutoModelForSequenceClassification as SequenceClassification

from launch.export import main
from launch.exporting import graph
from launch.exporting.onnx_process import OnnxProcess
from launch.exporting.student import read_student
from tests.launch.exporting.conftest import TEXTS

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="pip install -r requirements-export.txt"
)


@pytest.fixture
def folder(student, tmp_path):
    return shutil.copytree(student, tmp_path / "student")


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """A function that exports to a new folder, expects a refusal, and returns its line."""

    def refused(student, *arguments):
        output = tmp_path / "out"
        assert main(["--student", str(student), "--output", str(output), *map(str, arguments)]) == 2
        assert not output.exists() and not list(tmp_path.glob(".out*"))
        told = capsys.readouterr()
        refused.table = told.out
        return told.err.strip().splitlines()[-1]

    return refused


def test_missing_libraries_come_with_the_command_that_installs_them(student, run, monkeypatch):
    monkeypatch.setattr(graph.importlib.util, "find_spec", lambda name: None)
    assert run(student) == "error: needs onnx and onnxruntime: pip install -r requirements-export.txt"


@needs_library
def test_folders_that_are_none(run, tmp_path, student, capsys):
    assert run(tmp_path / "nothing") == f"error: --student {tmp_path / 'nothing'}: there is no such folder"
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").touch()
    assert main(["--student", str(student), "--output", str(used)]) == 2
    assert f"{used}: already exists; remove it or choose another output folder" in capsys.readouterr().err
    assert (used / "mine").is_file()


@needs_library
@pytest.mark.parametrize("auto_class", [AutoModelForMultipleChoice, AutoModelForNextSentencePrediction])
def test_heads_that_cannot_be_exported_are_named(auto_class, make_student, run):
    folder, kind = make_student("bert", auto_class), auto_class.__name__.removeprefix("AutoModel")
    assert run(folder).endswith(
        f"is a Bert{kind}, whose head cannot be exported; heads that can: "
        "ForSequenceClassification, ForTokenClassification, ForQuestionAnswering"
    )


@needs_library
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mpnet"}, "model_type 'mpnet' is not supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not computed"),
    ],
)
def test_models_that_cannot_be_exported_are_named(changes, message, folder, run):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    assert f"{folder}: cannot be exported: " in (told := run(folder)) and message in told


@needs_library
def test_an_operator_that_onnx_lacks_is_named(student, tmp_path, capfd):
    class Odd(torch.nn.Module):
        def forward(self, states, mask):
            return torch.linalg.eigvalsh(states @ states.transpose(1, 2))

    answers = read_student(student).answers
    answers.vectors, answers.outputs = Odd(), ("last_hidden_state", "sentence_embedding")
    with pytest.raises(ValueError, match="cannot be exported: Exporting the operator 'aten::linalg_eigvalsh'"):
        graph.write_graph(answers, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")  # torch would print the whole graph


@needs_library
def test_more_ids_than_the_graph_has_are_refused(make_student, run):
    assert "has 30 embeddings, but the tokenizer has" in run(make_student("bert", vocab_size=30))


@needs_library
def test_a_tokenizer_without_a_mask_is_refused(folder, run):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "its tokenizer gives no attention_mask: add it to model_input_names" in run(folder)


@needs_library
def test_more_weights_than_a_file_holds_are_refused(student, run, monkeypatch):
    monkeypatch.setattr("launch.exporting.student.BYTES_OF_A_FILE", 1000)
    assert "cannot be exported: " in (told := run(student)) and "GB of weights, and an ONNX file holds 0 GB" in told


@needs_library
def test_weights_that_8_bits_cannot_hold_are_refused_unless_forced(folder, texts, run, tmp_path, capsys):
    state = load_file(folder / "model.safetensors")
    for name, weight in state.items():
        if "dense.weight" in name:
            weight[:, 0] *= 300  # an input far from the others: the rest of each row falls between two steps
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    told = run(folder, "--int8", "--check", texts)
    assert f"error: {tmp_path / 'out'}: not written: int8: mean cosine 0." in told
    assert told.endswith("; at least 0.98 is wanted; --force writes it as it is")
    assert "| int8 | " in run.table
    arguments = ["--student", str(folder), "--output", str(tmp_path / "out"), "--int8", "--check", str(texts)]
    assert main([*arguments, "--force"]) == 0
    assert "written although it lost: int8: mean cosine 0." in capsys.readouterr().out
    assert "lost more than is allowed" in (tmp_path / "out/README.md").read_text()


@needs_library
@pytest.mark.parametrize("int8", [True, False])
def test_a_graph_that_answers_otherwise_is_refused(int8, student, texts, run, monkeypatch):
    whole = OnnxProcess.answer

    def off(self, path, batch):
        found, seconds = whole(self, path, batch)
        return {name: value + 0.001 for name, value in found.items()}, seconds

    monkeypatch.setattr(OnnxProcess, "answer", off)
    told = run(student, "--check", texts, *(["--int8"] if int8 else []))
    assert "not written: onnx: differs by up to 0.001; at most 0.0001 is allowed" in told


@needs_library
def test_texts_that_cannot_be_read_are_named(student, tmp_path, run):
    (tmp_path / "a.txt").write_text("one\n\n")
    assert run(student, "--check", tmp_path / "a.txt").endswith(
        "has 1 texts; at least 2 are wanted, better some hundreds"
    )
    (tmp_path / "a.jsonl").write_text('{"text": "天"}\n{"title": "地"}\n')
    assert run(student, "--check", tmp_path / "a.jsonl").endswith('a.jsonl:2: want {"text": ...}, got {"title": "地"}')
    (tmp_path / "A.JSONL").write_text('{"title": "天"}\n')
    assert run(student, "--check", tmp_path / "A.JSONL").endswith('A.JSONL:1: want {"text": ...}, got {"title": "天"}')
    (tmp_path / "b.jsonl").write_text("[1]\n")
    assert run(student, "--check", tmp_path / "b.jsonl").endswith('b.jsonl:1: want {"text": ...}, got [1]')
    (tmp_path / "b.txt").write_bytes("天地".encode("gb18030"))
    assert "b.txt: cannot be read as UTF-8" in run(student, "--check", tmp_path / "b.txt")
    assert "no.txt: cannot be read as UTF-8: [Errno 2]" in run(student, "--check", tmp_path / "no.txt")


@needs_library
def test_only_the_first_texts_are_compared_and_that_is_said(student, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("launch.exporting.material.MOST_TEXTS", 20)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS))
    command = ["--student", str(student), "--output", str(tmp_path / "out"), "--check", str(tmp_path / "a.jsonl")]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "a.jsonl: the first 20 of 48 texts are compared" in told.err and "on 20 texts" in told.out


@needs_library
def test_a_tokenizer_file_that_gives_other_ids_is_refused(student, texts, run, monkeypatch):
    monkeypatch.setattr(OnnxProcess, "tokenize", lambda self, folder, found, most: [[1]] * len(found))
    assert "its tokenizer.json gives other ids than its tokenizer for 48 of 48 texts" in run(student, "--check", texts)


@needs_library
def test_a_graph_that_onnxruntime_cannot_open_is_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with (
        OnnxProcess() as process,
        pytest.raises(ValueError, match=r"model.onnx: cannot be answered with outside .*ONNX"),
    ):
        process.answer(tmp_path / "model.onnx", {})


@needs_library
def test_a_task_model_needs_its_task(make_student, texts, run):
    folder = make_student("bert", SequenceClassification)
    needs = "is a BertForSequenceClassification: give --task, whose development examples it is to answer"
    assert run(folder).endswith(needs)
    assert run(folder, "--check", texts).endswith(f"{needs}, in place of --check")
