"""A published student loads in plain transformers elsewhere, and its card tells the run's facts."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from launch.distillation.config import read_run_config
from launch.publish import main
from launch.publishing.student_folder import load_options, publish
from pretrain.training.metrics import read_metrics


@pytest.fixture
def published(finished_run, tmp_path):
    output = tmp_path / "students" / "small-zh"
    output.parent.mkdir()
    assert publish(finished_run, "small", output) < 1e-5
    return output


def test_it_answers_in_another_process_with_nothing_of_ours_as_the_live_student(published, finished_run):
    code = (
        "import sys; from transformers import AutoModel, AutoTokenizer; import torch;"
        "m = AutoModel.from_pretrained(sys.argv[1]).eval(); t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "print(m.config.model_type, tuple(m(**t(['天地 玄黄'], return_tensors='pt')).last_hidden_state.shape));"
        "from safetensors.torch import load_file; live = load_file(sys.argv[2]);"
        "found = m(input_ids=live['input_ids']).last_hidden_state;"
        "torch.testing.assert_close(found, live['last_hidden_state'], rtol=0, atol=1e-5)"
    )
    live = finished_run / "checkpoints/step_6/small/outputs.safetensors"
    command = [sys.executable, "-c", code, published, live]
    done = subprocess.run(command, capture_output=True, text=True, cwd=published.parent, check=True, timeout=240)
    assert done.stdout.startswith("bert (1, ")
    assert done.stdout.strip().endswith(", 12)")


def test_whoever_reads_the_folder_reads_its_weights(published, finished_run):
    models = [published, finished_run / "start/small", finished_run / "checkpoints/step_6/small/model"]
    for folder in models:
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert modes["model.safetensors"] == modes["config.json"], modes


def test_its_weights_are_the_checkpoints(published, finished_run):
    ours = load_file(published / "model.safetensors")
    theirs = load_file(finished_run / "checkpoints/step_6/small/model/model.safetensors")
    assert theirs.keys() - ours.keys() == {"pooler.dense.weight", "pooler.dense.bias"}, "no objective reached it"
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert AutoModel.from_pretrained(published).config.hidden_dropout_prob == 0.1


def test_its_tokenizer_is_of_a_class_that_every_transformers_has(published):
    values = json.loads((published / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_its_tokenizer_cuts_where_its_positions_end(published, finished_run):
    for folder in (published, finished_run / "start/small"):
        assert AutoTokenizer.from_pretrained(folder).model_max_length == 40


def test_the_card_tells_the_runs_facts(published, finished_run):
    tokens = read_metrics(finished_run)[-1]["tokens"]  # without padding
    assert 700 < tokens <= 6 * 8 * 16
    card = (published / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: zh\n")
    for fact in (
        "6 of 6, 8 rows of 16 tokens",
        f"| tokens seen | {tokens} (",
        "300 documents",
        "`minilm_v2`",
        "tiny (not stated)",
    ):
        assert fact in card
    assert "- `pooler.dense.weight`" in card and "| hidden/2 | " in card
    size = (published / "model.safetensors").stat().st_size / 1e6
    assert f"| size on disk | {size:.1f} MB of weights (float32) |" in card
    assert re.search(
        r"\| speed \| [\d,]+ texts a second in batches of 32, [\d.]+ ms for one text \(texts of \d+ tokens, float32",
        card,
    )
    assert "https://arxiv.org/abs/2012.15828" in card, "the paper of minilm_v2"
    assert "Positions beyond 16 tokens" in card


def test_it_loads_without_a_table_of_weights_that_are_not_there(published, caplog):
    option = load_options(published)
    assert option == "add_pooling_layer=False" and option in (published / "README.md").read_text(encoding="utf-8")
    transformers_logging.set_verbosity_warning()
    AutoModel.from_pretrained(published)
    assert "pooler.dense.weight" in caplog.text, "else there is nothing to avoid"
    caplog.clear()
    model = AutoModel.from_pretrained(published, add_pooling_layer=False)
    assert caplog.text == "" and model.pooler is None


def test_no_option_is_given_where_the_folder_has_a_pooler_or_its_family_has_none(finished_run, tmp_path):
    assert load_options(finished_run / "start/small") == "" and load_options(tmp_path) == ""
    folder = shutil.copytree(finished_run / "start/small", tmp_path / "electra")
    state = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in state.items() if "pooler" not in n}, folder / "model.safetensors")
    assert load_options(folder) == "add_pooling_layer=False"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "electra"}))
    assert load_options(folder) == ""


def test_its_training_configuration_makes_it_again_and_names_no_path_of_this_machine(published, finished_run):
    again, before = (read_run_config(path) for path in (published / "training.json", finished_run / "config.json"))
    assert [one.name for one in again.students] == ["small"] and again.students[0] in before.students
    assert (again.training, again.deepspeed) == (before.training, before.deepspeed)
    assert again.corpus.manifest == "corpus/manifest.json" and again.corpus.row_tokens == before.corpus.row_tokens
    assert again.teacher.path == Path(before.teacher.path).name
    for name in ("README.md", "training.json"):
        text = (published / name).read_text(encoding="utf-8")
        assert (
            str(Path(before.teacher.path).parent) not in text and str(Path(before.corpus.manifest).parent) not in text
        )


def test_the_command_says_what_was_checked_and_nothing_of_the_libraries(finished_run, tmp_path, monkeypatch, capfd):
    output = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["publish", "--run", str(finished_run), "--student", "small", f"--output={output}"]
    )
    transformers_logging.enable_progress_bar()
    transformers_logging.set_verbosity_warning()
    main()
    told = capfd.readouterr()
    assert told.out.startswith(f"{output}: loads with AutoModel and answers as in training (") and told.err == ""


def test_an_earlier_step_can_be_published(finished_run, tmp_path):
    publish(finished_run, "other", tmp_path / "early", step=3)
    assert "3 of 6, 8 rows" in (tmp_path / "early" / "README.md").read_text(encoding="utf-8")


def test_what_cannot_be_published_is_said(finished_run, published, tmp_path):
    with pytest.raises(ValueError, match=r"not a run folder \(no config.json and run.json\)"):
        publish(tmp_path, "small", tmp_path / "x")
    with pytest.raises(ValueError, match="no checkpoint of step 5; steps there: 3, 6"):
        publish(finished_run, "small", tmp_path / "x", step=5)
    with pytest.raises(ValueError, match="no student 'tall'; students: other, small"):
        publish(finished_run, "tall", tmp_path / "x")
    with pytest.raises(ValueError, match=r"^/proc/x/y: cannot be written: No such file or directory$"):
        publish(finished_run, "small", Path("/proc/x/y"))
    with pytest.raises(ValueError, match="is already there; publish to a new folder"):
        publish(finished_run, "small", published)


def test_a_checkpoint_before_the_first_logged_losses_is_refused(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"step": 0, "small/probe/neighbour_accuracy": 0.5}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl: no step was logged up to 3, that of .*step_3/state.json"):
        publish(run, "small", tmp_path / "x", step=3)


def test_a_damaged_checkpoint_is_not_published(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    weights = run / "checkpoints/step_6/small/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"step_6/small/model/model.safetensors: the checksum does not match"):
        publish(run, "small", tmp_path / "x", step=6)
    with pytest.warns(UserWarning, match="model.safetensors: the checksum does not match.*; using step_3 instead"):
        publish(run, "small", tmp_path / "x")


def test_outputs_that_differ_from_the_live_students_are_not_published(finished_run, tmp_path, monkeypatch):
    live = load_file(finished_run / "checkpoints/step_6/small/outputs.safetensors")
    live["last_hidden_state"] = live["last_hidden_state"] + 0.01
    save_file(live, tmp_path / "outputs.safetensors")
    monkeypatch.setattr(
        "launch.publishing.student_folder.load_file", lambda path: load_file(tmp_path / "outputs.safetensors")
    )
    with pytest.raises(ValueError, match=r"not published: outputs differ from the live student's by 0.01"):
        publish(finished_run, "small", tmp_path / "x")
    assert not (tmp_path / "x").exists()
