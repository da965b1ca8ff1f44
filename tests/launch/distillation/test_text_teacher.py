"""Text vectors of a teacher, with its prompt and from a folder: the same losses, made once, again if damaged."""

import copy
import gc
import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from launch.distillation import text_teacher
from launch.distillation.session import distil_alone
from pretrain.models.teacher import Teacher
from pretrain.training.metrics import read_metrics
from tests.launch.conftest import launch, with_pooling

SENTENCE = {"type": "sentence", "pooling": "mean", "similarities": 10.0}


@pytest.fixture
def own_teacher(tmp_path, teacher_folder):
    """The teacher with files of sentence-transformers."""
    folder = with_pooling(teacher_folder, tmp_path / "own")
    prompts = {"prompts": {"query": "天地:", "long": "天地玄黄宇宙洪荒"}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture
def values(config_values, own_teacher):
    values = copy.deepcopy(config_values)
    values["corpus"] |= {"rows": "texts", "bucket_steps": 2}
    values["teacher"]["path"] = str(own_teacher)
    values["students"] = values["students"][:1]
    values["students"][0] |= {"objective": [SENTENCE], "optimizer": {"lr": 2e-4}}
    values["training"] = {"total_steps": 6, "log_every_steps": 1, "save_every_steps": 6}
    values["deepspeed"]["torch_autocast"] = {"enabled": False}
    return values


def losses(values, run):
    assert not distil_alone(values, run)
    return [line["small/loss"] for line in read_metrics(run)]


def vectors_of(folder):
    (own,) = folder.iterdir()
    return own, sorted(own.glob("*.npy"))


@pytest.fixture
def calls(monkeypatch):
    """How many batches the teacher reads for vectors that are kept."""
    seen, original = [], text_teacher.TextTeacher.__call__
    monkeypatch.setattr(text_teacher.TextTeacher, "__call__", lambda *given: seen.append(1) or original(*given))
    return seen


@pytest.mark.job
@pytest.mark.parametrize("prompt", [{}, {"prompt": "query"}, {"prompt": "query", "prompts_students": False}])
def test_kept_vectors_give_the_losses_of_the_live_teacher_and_are_made_once(values, tmp_path, calls, prompt):
    values["teacher"] |= prompt
    live = losses(values, tmp_path / "live")
    calls.clear()
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    kept = losses(values, tmp_path / "first")
    assert kept[0] == pytest.approx(live[0], rel=1e-3)  # float16 keeps 11 bits
    assert kept == pytest.approx(live, rel=5e-3)  # Adam's first steps go by the signs of gradients
    made = len(calls)
    values["corpus"] |= {"seed": 3, "bucket_steps": 1}
    values["training"]["total_steps"] = 2
    values["students"][0] |= {"num_layers": 1, "init": {"layers": "last"}}
    losses(values, tmp_path / "second")
    assert made and len(calls) - made < made, "another order of the same corpus needs few others"
    made = len(calls)
    losses(values, tmp_path / "third")
    assert len(calls) == made


@pytest.mark.job
@pytest.mark.parametrize("damage", ["flip", "cut", "shape"])
def test_damaged_vectors_are_made_again_and_the_others_kept(values, tmp_path, calls, damage):
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    first = losses(values, tmp_path / "first")
    _, files = vectors_of(tmp_path / "vectors")
    whole, data = len(calls), bytearray(files[1].read_bytes())
    data[-20] ^= 1
    new = {"flip": data, "cut": data[:-5], "shape": files[0].read_bytes() if damage == "shape" else b""}
    sizes = {len(file.read_bytes()) for file in files[:2]}
    files[1].write_bytes(new[damage])
    if damage == "shape" and len(sizes) == 1:
        pytest.skip("blocks of equal size")
    with pytest.warns(
        UserWarning, match=rf"{files[1].name}: the checksum or size does not match; its vectors are made"
    ):
        assert losses(values, tmp_path / "second") == first
    assert 0 < len(calls) - whole < whole


@pytest.mark.job
def test_making_goes_on_where_it_was_stopped(values, tmp_path, calls, monkeypatch):
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    write, written = text_teacher.StoredVectors.write, []

    def stopping(self, *given):
        if len(written) == 2:
            raise ValueError("no space left")
        written.append(given[0])
        write(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(text_teacher.StoredVectors, "write", stopping)
        with pytest.raises(ValueError, match="no space left"):
            distil_alone(values, tmp_path / "run")
    before = {file.name: file.stat().st_mtime_ns for file in vectors_of(tmp_path / "vectors")[1]}
    losses(values, tmp_path / "run")
    after = {file.name: file.stat().st_mtime_ns for file in vectors_of(tmp_path / "vectors")[1]}
    assert len(before) == 2 < len(after) and before.items() <= after.items()


def test_files_are_numpy_arrays_of_unit_vectors(values, tmp_path):
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    losses(values, tmp_path / "run")
    folder, files = vectors_of(tmp_path / "vectors")
    found = np.load(files[0])
    made = found[~np.isnan(found[:, 0])].astype(np.float32)
    assert found.dtype == np.float16 and len(made) and np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-3)
    identity = json.loads((folder / "vectors.json").read_text())
    assert identity["pooling"] == "mean" and identity["text_tokens"] == 16 and identity["prompt"] == []


@pytest.mark.parametrize("key", ["teacher", "corpus"])
def test_vectors_of_another_teacher_or_corpus_are_refused(values, tmp_path, key):
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    losses(values, tmp_path / "run")
    folder, _ = vectors_of(tmp_path / "vectors")
    identity = json.loads((folder / "vectors.json").read_text())
    (folder / "vectors.json").write_text(json.dumps(identity | {key: "other"}))
    message = rf"vectors.json: these are vectors of another {key}; give another folder"
    with pytest.raises(ValueError, match=message):
        distil_alone(values, tmp_path / "second")
    (folder / "vectors.json").write_text("{")
    with pytest.raises(ValueError, match=r"vectors.json: damaged: .*; delete .*, and its vectors are made again"):
        distil_alone(values, tmp_path / "second")


def test_a_folder_in_which_another_run_makes_vectors_is_refused(values, tmp_path, monkeypatch):
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    monkeypatch.setattr(text_teacher, "try_lock", lambda file: False)
    with pytest.raises(ValueError, match="another run makes vectors there; start again when it trains"):
        distil_alone(values, tmp_path / "run")


def test_vectors_that_vanish_while_training_are_named(values, tmp_path, monkeypatch):
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    monkeypatch.setattr(text_teacher.VectorMaker, "make", lambda *_: None)
    with pytest.raises(ValueError, match=r"block \d+: row \d+ has no vector: files were deleted since the run began"):
        distil_alone(values, tmp_path / "run")


def test_a_teacher_whose_vectors_are_not_finite_is_named(values, tmp_path, monkeypatch):
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    call = text_teacher.TextTeacher.__call__
    broken = lambda *given: SimpleNamespace(text_vectors=call(*given).text_vectors * float("nan"))  # noqa: E731
    monkeypatch.setattr(text_teacher.TextTeacher, "__call__", broken)
    with pytest.raises(ValueError, match=r"teacher.vectors: block \d+: a vector of the teacher is not finite"):
        distil_alone(values, tmp_path / "run")


HIDDEN = {"type": "hidden_states"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": "v", "objective": [SENTENCE, HIDDEN]},
         r"teacher.vectors: students.0.objective.1 \(hidden_states\) reads more of the teacher than its text vectors"),
        ({"prompt": "query", "prompts_students": False, "objective": [HIDDEN, SENTENCE]},
         r"teacher.prompts_students: students.0.objective.0 \(hidden_states\) reads more of the teacher"),
        ({"vectors": "v", "objective": [{"type": "mlm"}], "masking": {}},
         "teacher.vectors: corpus.masking changes what the teacher reads in every epoch; leave out one of them"),
        ({"vectors": "v", "objective": [{"type": "mlm"}], "masking": {}},
         "teacher.vectors: needs objectives of type sentence with one pooling, got no"),
        ({"prompt": "query", "rows": "packed", "objective": [HIDDEN]}, r'rows: must be "texts" with teacher.prompt'),
        ({"prompt": "passage"}, r"teacher.prompt: .*own records no prompt 'passage', but 'query', 'long'; name one"),
        ({"prompt": "long", "row_tokens": 15},
         r"teacher.prompt: 'long' takes 8 of the 15 tokens of a row and leaves 7, but at least 8 are needed: raise"),
        ({"objective": [{"type": "sentence"}]},
         r"pooling: must say how the teacher's vectors are made, as its 1_Pooling/config.json does: mean \(E5, "),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(values, tmp_path, changes, message):
    values["teacher"] |= {key: changes[key] for key in ("prompt", "prompts_students", "vectors") if key in changes}
    values["corpus"] |= {key: changes[key] for key in ("rows", "masking", "row_tokens") if key in changes}
    values["students"][0]["objective"] = changes.get("objective", [SENTENCE])
    with pytest.raises(ValueError, match=message):
        distil_alone(values, tmp_path / "run")


def test_prompts_that_a_mean_leaves_out_are_refused(values, own_teacher, tmp_path):
    values["teacher"]["prompt"] = "query"
    (own_teacher / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true, "include_prompt": false}')
    with pytest.raises(ValueError, match=r"teacher.prompt: .*leaves the tokens of prompts out of the mean"):
        distil_alone(values, tmp_path / "run")


def test_a_prompt_that_has_changed_since_the_run_began_is_refused(values, own_teacher, tmp_path):
    values["teacher"]["prompt"] = "query"
    values["training"]["total_steps"] = 2
    losses(values, tmp_path / "run")
    (tmp_path / "run/done.json").unlink()
    (own_teacher / "config_sentence_transformers.json").write_text('{"prompts": {"query": "玄黄:"}}')
    with pytest.raises(ValueError, match=r"teacher.prompt: is '玄黄:', but .*run was started with '天地:'"):
        distil_alone(values, tmp_path / "run")


def test_a_teacher_that_does_not_say_how_it_pools_causes_a_warning(values, own_teacher, tmp_path):
    (own_teacher / "1_Pooling/config.json").unlink()
    values["training"]["total_steps"] = 1
    message = r"students.0.objective.0.pooling: .*own has no 1_Pooling/config.json that says how .*; mean is taken"
    with pytest.warns(UserWarning, match=message):
        losses(values, tmp_path / "run")


def test_a_stored_run_frees_the_teacher(values, tmp_path, monkeypatch):
    teachers, original = [], Teacher.__init__
    monkeypatch.setattr(
        Teacher, "__init__", lambda self, *a, **k: original(self, *a, **k) or teachers.append(weakref.ref(self))
    )
    values["teacher"]["vectors"] = str(tmp_path / "vectors")
    values["training"]["total_steps"] = 1
    alive, train = [], text_teacher.stored_teacher

    def watched(batch):
        gc.collect()
        alive.append(any(one() is not None for one in teachers))
        return train(batch)

    monkeypatch.setattr(text_teacher, "stored_teacher", watched)
    losses(values, tmp_path / "run")
    assert teachers and alive and not any(alive)


@pytest.mark.job
def test_two_ranks_share_the_making_and_show_the_losses_of_one(values, tmp_path):
    found = {}
    values["training"]["total_steps"] = 2
    for num_ranks in (1, 2):
        values["teacher"]["vectors"] = str(tmp_path / f"vectors_{num_ranks}")
        (tmp_path / f"{num_ranks}.json").write_text(json.dumps(values))
        run = tmp_path / f"run_{num_ranks}"
        done = launch("--config", str(tmp_path / f"{num_ranks}.json"), "--run", str(run), num_ranks=num_ranks)
        assert done.returncode == 0, done.stderr
        files = vectors_of(tmp_path / f"vectors_{num_ranks}")[1]
        found[num_ranks] = (
            [line["small/sentence/cosine"] for line in read_metrics(run)],
            [(file.name, np.load(file)) for file in files],
        )
    assert found[1][0] == pytest.approx(found[2][0], rel=1e-3)
    assert [name for name, _ in found[1][1]] == [name for name, _ in found[2][1]]
    for (_, one), (_, other) in zip(found[1][1], found[2][1], strict=True):
        assert np.allclose(one, other, atol=1e-3, equal_nan=True)
