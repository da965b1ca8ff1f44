"""Every family and head as ONNX: the graph answers as the model, by onnxruntime alone, for rows of any length."""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from launch.export import main
from launch.exporting.exporter import export
from launch.exporting.graph import write_graph, write_int8
from launch.exporting.onnx_server import open_graph
from launch.exporting.student import read_student
from pretrain.models.family import FAMILIES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="pip install -r requirements-export.txt"
)
LENGTHS = [(1, 1), (1, 2), (3, 17), (2, 38)]


def ask(path, batch):
    graph = open_graph(str(path))
    found = graph.run(None, {one.name: batch[one.name].numpy() for one in graph.get_inputs()})
    return dict(zip([one.name for one in graph.get_outputs()], map(torch.from_numpy, found), strict=True))


def rows(num_rows, length, pad, vocab_size=200):
    """Random ids; of several rows the second is half padding."""
    ids = torch.randint(5, vocab_size, (num_rows, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    if num_rows > 1:
        mask[1, (length + 1) // 2 :] = 0
    types = torch.zeros_like(ids)
    types[:, length // 2 :] = 1
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask, "token_type_ids": types}


def test_what_torchs_exporter_cannot_trace_is_refused(make_student, tmp_path):
    with pytest.raises(ValueError, match="cannot be exported: "):
        write_graph(read_student(make_student("gemma3_text")).answers, tmp_path / "model.onnx")


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma3_text"])
def test_a_graph_answers_as_the_model_for_any_number_and_length_of_rows(family, make_student, tmp_path):
    sizes = {"use_task_id": True} if family == "ernie" else {}
    student = read_student(make_student(family, **sizes))
    write_graph(student.answers, tmp_path / "model.onnx")
    live = AutoModel.from_pretrained(student.folder, dtype=torch.float32).eval()
    for num_rows, length in LENGTHS:
        batch = rows(num_rows, length, student.tokenizer.pad_token_id)
        if family in ("roberta", "xlm-roberta"):  # which have one type
            assert "token_type_ids" not in student.answers.inputs
        with torch.no_grad():
            wanted = live(**{name: batch[name] for name in student.answers.inputs}).last_hidden_state
        real = batch["attention_mask"].bool()
        found = ask(tmp_path / "model.onnx", batch)["last_hidden_state"]
        assert found.shape == wanted.shape and torch.allclose(found[real], wanted[real], atol=1e-5, rtol=0)


def test_the_inputs_are_those_that_the_tokenizer_gives(make_student):
    assert read_student(make_student("bert")).answers.inputs == ("input_ids", "token_type_ids", "attention_mask")
    folder = make_student("bert")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_student(folder).answers.inputs == ("input_ids", "attention_mask")


@pytest.mark.parametrize(
    ("auto_class", "outputs"),
    [
        (AutoModelForSequenceClassification, ("logits",)),
        (AutoModelForTokenClassification, ("logits",)),
        (AutoModelForQuestionAnswering, ("start_logits", "end_logits")),
    ],
)
def test_heads_are_in_the_graph(auto_class, outputs, make_student, tmp_path):
    student = read_student(make_student("electra", auto_class))
    write_graph(student.answers, tmp_path / "model.onnx")
    live, batch = auto_class.from_pretrained(student.folder).eval(), rows(3, 9, 0)
    with torch.no_grad():
        wanted = live(**batch)
    found = ask(tmp_path / "model.onnx", batch)
    assert tuple(found) == outputs
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5, rtol=0) for name in outputs)


def test_8_bit_weights_are_a_quarter_answer_nearly_the_same_and_are_the_same_bytes_again(make_student, tmp_path):
    student = read_student(make_student("bert", hidden_size=64, intermediate_size=128))
    write_graph(student.answers, tmp_path / "model.onnx")
    for name in ("a", "b"):
        write_int8(tmp_path / "model.onnx", tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a.onnx").stat().st_size < 0.35 * (tmp_path / "model.onnx").stat().st_size
    batch = rows(3, 17, 0)
    near, far = (ask(tmp_path / name, batch)["last_hidden_state"] for name in ("model.onnx", "a.onnx"))
    cosine = torch.cosine_similarity(near, far, dim=-1)
    assert 0.98 < cosine.mean() < 0.999999


def test_weights_of_8_bits_keep_to_7_so_that_cpus_without_vnni_add_them_exactly(student, tmp_path):
    import onnx

    write_graph(read_student(student).answers, tmp_path / "model.onnx")
    write_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(tmp_path / "int8.onnx").graph.initializer]
    whole = [one for one in weights if one.dtype == np.int8 and one.ndim == 2]
    assert len(whole) >= 12 and max(np.abs(one.astype(int)).max() for one in whole) <= 64


def test_the_command_writes_a_folder_that_onnxruntime_and_tokenizers_alone_open(student, texts, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["--student", str(student), "--output", str(output), "--int8", "--check", str(texts)]) == 0
    told = capsys.readouterr()
    assert (
        told.out.startswith(f"{output}: answers as the model does on 48 texts\n| form | MB on disk |") and not told.err
    )
    (code,) = re.findall("```python\n(.*?)```", (output / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code += "import sys\nassert 'torch' not in sys.modules\nprint(answer[0].mean(1)[0, :3].tolist())\n"
    model = AutoModel.from_pretrained(student, dtype=torch.float32).eval()
    with torch.no_grad():
        batch = AutoTokenizer.from_pretrained(student)("今天天气不错", return_tensors="pt")
        wanted = model(**batch).last_hidden_state.mean(1)[0, :3]
    for name, apart in (("onnx/model.onnx", 1e-5), ("onnx/model_quantized.onnx", 0.05)):
        command = [sys.executable, "-P", "-c", code.replace("onnx/model_quantized.onnx", name)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert torch.allclose(torch.tensor(json.loads(done.stdout)), wanted, atol=apart, rtol=0)
    assert not list(output.glob("*.safetensors"))


def test_the_record_and_the_card_have_what_was_measured(student, texts, tmp_path):
    (student / "README.md").write_text("---\nlanguage: zh\n---\n\n# tiny\n\n## As ONNX\n\nof an earlier time\n")
    record = export(student, tmp_path / "out", int8=True, check=texts)
    (student / "README.md").unlink()
    assert json.loads((tmp_path / "out/export.json").read_text())["forms"].keys() == {"torch", "onnx", "int8"}
    for name, one in record["forms"].items():
        assert set(one["milliseconds"]) == {16} and one["milliseconds"][16] > 0 and one["start_milliseconds"] > 0
        assert one["difference"] == 0 if name == "torch" else 0 < one["difference"] < 1
    assert record["forms"]["onnx"]["difference"] < 1e-4 and record["forms"]["onnx"]["least_cosine"] > 0.9999
    assert record["forms"]["int8"]["file"] == "onnx/model_quantized.onnx" and record["lost"] == []
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: zh\n") and card.count("## As ONNX") == 1 and "earlier" not in card
    assert "| int8 | " in card and 'folder = "out"' in card and "Compared on 48 texts with the model" in card


def test_a_masked_language_head_is_left_out_with_a_warning(make_student):
    folder = make_student("bert", AutoModelForMaskedLM)
    with pytest.warns(UserWarning, match="the head of BertForMaskedLM is left out; the encoder is exported"):
        assert read_student(folder).answers.outputs == ("last_hidden_state",)


def test_without_texts_rows_of_random_tokens_are_compared_with_a_warning(student, tmp_path):
    with pytest.warns(UserWarning, match="rows of random tokens only: give --check FILE of texts"):
        record = export(student, tmp_path / "out")
    assert record["checked_on"] == "64 rows of random tokens" and record["forms"]["onnx"]["cosine"] > 0.9999
