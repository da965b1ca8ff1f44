"""The report from models on disk to page and JSON, and every fault of its inputs in one line."""

import html
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from corpus.shards.manifest import load_manifest
from corpus.vocabulary.training import build_unigram, save_backend
from launch.distillation.probe_pairs import read_documents
from launch.report import check_output, main
from launch.reports.models import labels_task, measure_heldout, read_models, read_texts
from tests.launch.tiny_e5 import PIECES, SCORES

STEPS = [
    {"step": s, "rows": 8 * s, "tokens": 1e6 * s, "seconds": 90.0 * s, "tokens_per_second": 11_000.0}
    | {
        "small/loss": 3.0 / s,
        "small/relation/query": 2.0 / s,
        "small/learning_rate": 1e-3,
        "small/grad_norm": 1.0,
    }
    for s in (1, 2, 3)
]
CONFIG = {
    "about": "a tiny run",
    "teacher": {"path": "somewhere/big-teacher"},
    "students": [{"name": "small", "num_layers": 1, "hidden_size": 8}],
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A run, labels and two models (`big` with a pooler, `small` without)."""
    root = tmp_path_factory.mktemp("report")
    for name in ("run", "labels", "big", "small"):
        (root / name).mkdir()
    (root / "run/metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in STEPS))
    (root / "run/config.json").write_text(json.dumps(CONFIG))
    (root / "run/run.json").write_text(json.dumps({"machine": "two cores"}))
    for name, num_texts in (("train", 24), ("dev", 10)):
        rows = [
            {"text": "天地人"[: 1 + i % 3] * (1 + i % 2), "label": "天" if i % 3 else "人"} for i in range(num_texts)
        ]
        (root / f"labels/{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for name, layers, width in (("big", 2, 16), ("small", 1, 8)):
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2}
        sizes |= {"vocab_size": len(PIECES), "intermediate_size": 16, "max_position_embeddings": 128}
        config = BertConfig(**sizes, pad_token_id=1)
        BertModel(config, add_pooling_layer=name == "big").save_pretrained(root / name)
        save_backend(build_unigram(PIECES, SCORES), 64, root / name)
    break_models(root)
    return root


def break_models(root: Path) -> None:
    """`empty` without weights, `partial` without the queries', `foreign` with few embeddings."""
    for name in ("empty", "partial", "foreign"):
        shutil.copytree(root / "small", root / name)
    (root / "empty/model.safetensors").unlink()
    state = load_file(root / "small/model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if "query" not in name}
    save_file(kept, root / "partial/model.safetensors", metadata={"format": "pt"})
    config = BertConfig.from_pretrained(root / "small", vocab_size=9)
    BertModel(config, add_pooling_layer=False).save_pretrained(root / "foreign")


def arguments(root: Path, output: Path, **changes: str) -> list[str]:
    """Flags and values; an empty value leaves a flag out."""
    values = {"run": str(root / "run"), "labels": str(root / "labels"), "output": str(output)} | changes
    models = changes.pop("models", f"teacher={root / 'big'} small={root / 'small'}").split()
    return ["--models", *models, *(x for k, v in values.items() if k != "models" and v for x in (f"--{k}", v))]


def test_page_and_json_hold_the_same_numbers(workplace, tmp_path, capsys):
    assert main(arguments(workplace, tmp_path / "deep/report.html")) == 0
    page = (tmp_path / "deep/report.html").read_text("utf-8")
    report = json.loads((tmp_path / "deep/report.json").read_text("utf-8"))
    teacher, small = report["models"]
    assert (teacher["name"], teacher["num_layers"], small["hidden_size"]) == ("teacher", 2, 8)
    for model in (teacher, small):
        assert f"{100 * model['accuracy']:.1f} ± {100 * model['standard_error']:.1f}" in page
    assert report["probe"] == {
        "task": "labels",
        "num_neighbours": 10,
        "max_tokens": 64,
        "num_train": 24,
        "num_queries": 10,
        "chance": 0.6,
    }
    assert report["last_step"]["small/loss"] == 1.0 and report["config"] == CONFIG
    sentence = "small (1 layers × 8) learned from big-teacher (2 layers × 16, 0.0 million parameters) by reading "
    assert report["summary"] == f"{sentence}3.0 million tokens of unlabelled text in 3 steps, 4.5 minutes."
    assert report["summary"] in page
    (verdict,) = report["verdicts"]
    shown = capsys.readouterr().out
    for sentence in (verdict["headline"], *verdict["details"]):
        assert sentence in html.unescape(page).replace("\N{NO-BREAK SPACE}", " ") and sentence in " ".join(
            shown.split()
        )
    assert " keeps " in verdict["headline"] or " above chance" in verdict["headline"]
    assert "Training loss of small" in page and "Held-out" not in page and "two cores" in page


@pytest.fixture(scope="module")
def heldout(workplace) -> Path:
    """A corpus of the models' own tokenizer, with the documents it was made of beside it."""
    documents = [{"title": "天地人"[i % 3] * (1 + i % 4), "text": "天地人人地"[i % 5 :] * 20} for i in range(9)]
    text = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    (workplace / "documents.jsonl").write_text(text, "utf-8")
    source = {
        "name": "held",
        "format": "jsonl",
        "inputs": [str(workplace / "documents.jsonl")],
        "text_fields": ["text"],
    }
    state = {"sources": [source], "tokenizer": str(workplace / "big"), "output": str(workplace / "heldout")}
    build_corpus(BuildConfig.model_validate(state, strict=False))
    return workplace / "heldout"


def test_retrieval_and_held_out_loss_fill_their_columns(workplace, tmp_path, heldout):
    more = {"heldout": str(heldout), "documents": str(workplace / "documents.jsonl")}
    assert main(arguments(workplace, tmp_path / "report.html", **more)) == 0
    teacher, small = json.loads((tmp_path / "report.json").read_text("utf-8"))["models"]
    assert teacher["heldout_relation_loss"] == pytest.approx(0, abs=1e-5) and small["heldout_relation_loss"] > 1e-5
    assert 0 <= small["retrieval"] <= 1 and small["file_megabytes"] > 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Title finds its text" in page and "the titles of 9 held-out documents" in page


def test_a_held_out_corpus_of_another_tokenizer_is_refused(workplace, heldout, monkeypatch):
    monkeypatch.setattr("launch.reports.models.tokenizer_fingerprint", lambda tokenizer: "another")
    with pytest.raises(ValueError, match="heldout: was built with another tokenizer than the first model's"):
        measure_heldout(read_models({"a": str(workplace / "big")}), load_manifest(heldout))


def test_a_model_with_another_tokenizer_has_no_held_out_loss(workplace, heldout, monkeypatch):
    both = read_models(dict.fromkeys("ab", str(workplace / "big")))
    prints = iter([load_manifest(heldout).tokenizer.fingerprint, "another"])
    monkeypatch.setattr("launch.reports.models.tokenizer_fingerprint", lambda tokenizer: next(prints))
    with pytest.warns(UserWarning, match="b: another tokenizer, so no held-out relation loss"):
        assert set(measure_heldout(both, load_manifest(heldout))) == {"a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "pairs.jsonl:1: want"),
        (None, "cannot be read: No such file"),
        ('{"title": "a", "text": "b"}', "pairs.jsonl: 1 documents; a search needs at least 2"),
    ],
)
def test_faulty_documents_are_named(tmp_path, text, message):
    if text:
        (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / "pairs.jsonl")


def test_models_are_read_in_float32_without_pooler(workplace):
    models = read_models({"a": str(workplace / "big"), "b": str(workplace / "small")})
    assert list(models) == ["a", "b"]
    for model, tokenizer in models.values():
        assert not any("pooler" in name for name, _ in model.named_parameters())
        assert isinstance(tokenizer, PreTrainedTokenizerFast) and not model.training


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("teacher", "--models teacher: want NAME=FOLDER, each name once"),
        ("=x", "--models =x: want NAME=FOLDER"),
        ("a={root}/small a={root}/small", "want NAME=FOLDER, each name once"),
        ("a=nowhere", "--models a=nowhere: no model could be loaded from folder or hub id 'nowhere'"),
        ("a={root}/empty", "empty': Error no file named"),
        ("a={root}/partial", "2 weights are missing"),
        ("a={root}/foreign", "foreign' has 9 embeddings, but the tokenizer has 16 ids"),
    ],
)
def test_a_wrong_model_is_one_line(workplace, tmp_path, capsys, models, message):
    output = tmp_path / "report.html"
    assert main(arguments(workplace, output, models=models.format(root=workplace))) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("name", "beside", "message"),
    [
        ("report.json", None, "report.json: is where the numbers go; give the page a name that ends in .html"),
        ("config.html", '{"students": []}', "config.json, which is no report's; give another name"),
        ("results.html", '{"models": [], "seeds": []}', "results.json, which is no report's; give another name"),
        ("words.html", "no JSON", "words.json, which is no report's; give another name"),
    ],
)
def test_a_file_that_is_no_report_is_not_replaced(tmp_path, name, beside, message):
    page = tmp_path / name
    if beside:
        page.with_suffix(".json").write_text(beside)
    with pytest.raises(ValueError, match=message):
        check_output(page)


def test_a_report_is_replaced_by_the_next_one(tmp_path):
    (tmp_path / "r.json").write_text('{"title": "Compared: a, b", "models": []}')
    check_output(tmp_path / "r.html")
    check_output(tmp_path / "new.html")


def test_a_run_that_is_not_there_is_one_line(workplace, tmp_path, capsys):
    assert main(arguments(workplace, tmp_path / "report.html", run=str(tmp_path / "none"))) == 2
    assert re.fullmatch(r"error: .*none: no such run folder\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "dev.jsonl: contains no labelled examples"),
        ('{"text": "a", "label": 1}\n{"text": "b"}\n', "dev.jsonl:2: has no label; it has text"),
        ('{"text": "a", "label": 1.5}\n', "dev.jsonl:1: label must be text, got 1.5"),
        ("{\n", "dev.jsonl:1: not a JSON object"),
        (None, "dev.jsonl: cannot be read: No such file or directory"),
    ],
)
def test_faulty_labels_are_named(workplace, tmp_path, text, message):
    shutil.copy(workplace / "labels/train.jsonl", tmp_path)
    if text is not None:
        (tmp_path / "dev.jsonl").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_texts(labels_task(tmp_path))


def write_task(workplace: Path, path: Path, **changes: object) -> str:
    """A task file as td.py reads it, of the same labels under other names."""
    files = {}
    for part in ("train", "dev"):
        rows = map(json.loads, (workplace / f"labels/{part}.jsonl").read_text("utf-8").splitlines())
        table = "".join(f"{row['label']}\t{row['text']}\n" for row in rows)
        files[part] = str(path.with_name(f"{part}.tsv"))
        Path(files[part]).write_text(f"kind\ttitle\n{table}", "utf-8")
    columns = {"text": "title", "label": "kind"}
    task = {"name": "titles", "kind": "sentence", "format": "table", "columns": columns, "row_tokens": 32, **files}
    path.write_text(json.dumps({"task": task | changes, "stages": {"ft": {"epochs": 3}}}))
    return str(path)


def test_task_files_and_finished_models_without_a_run_are_enough(workplace, tmp_path, capsys):
    task = write_task(workplace, tmp_path / "titles.json")
    assert main(arguments(workplace, tmp_path / "a.html", run="", labels="", task=task)) == 0
    shown = capsys.readouterr().out
    assert main(arguments(workplace, tmp_path / "b.html")) == 0
    compared, of_a_run = (json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in "ab")
    assert compared["probe"] == of_a_run["probe"] | {"task": "titles", "max_tokens": 32}
    assert [one["accuracy"] for one in compared["models"]] == [one["accuracy"] for one in of_a_run["models"]]
    assert compared["summary"].startswith("Compared without fine-tuning: teacher (2 layers × 16, ")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "config" not in compared and "Training loss" not in page and "<h2>Facts" not in page
    browser, load, evaluate = re.findall(r"^next: (.*)$", shown, re.MULTILINE)
    assert browser == f"open {tmp_path / 'a.html'} in a browser"
    assert f'from_pretrained("{workplace / "small"}", add_pooling_layer=False)' in load
    words = shlex.split(evaluate)
    assert Path(words[1]).is_file() and words[words.index("--tasks") + 1] == task


def test_a_task_that_has_no_neighbours_is_refused(workplace, tmp_path, capsys):
    task = write_task(workplace, tmp_path / "pair.json", kind="pair", columns={"text": "title", "text_b": "kind"})
    long = write_task(workplace, tmp_path / "long.json", row_tokens=200)
    for file, message in ((task, "neighbours are found for single sentences (sentence), got pair"),
                          (long, f"--models teacher={workplace / 'big'}: has 128 positions, the task wants 200"),
                          ("nothing", "--task nothing: no such file; must be a path or one of afqmc, ")):  # fmt: skip
        assert main(arguments(workplace, tmp_path / "x.html", labels="", task=file)) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments(workplace, tmp_path / "x.html"), "--queries", "天"])
    assert "--queries: there is nothing to search; give --documents" in capsys.readouterr().err


def test_queries_are_searched_for_and_shown(workplace, tmp_path, heldout, capsys):
    more = {"documents": str(workplace / "documents.jsonl"), "queries": "地地地"}
    assert main(arguments(workplace, tmp_path / "report.html", **more)) == 0
    (one,) = json.loads((tmp_path / "report.json").read_text("utf-8"))["search"]
    assert one["query"] == "地地地" and list(one["found"]) == ["teacher", "small"]
    page, shown = (tmp_path / "report.html").read_text("utf-8"), capsys.readouterr().out
    assert "search for 地地地" in shown and "地地地" in page
    for results in one["found"].values():
        assert len(results) == 3 and not any(found["is_own"] for found in results)
        assert all(found["title"] in page and found["title"] in shown for found in results)


def test_a_start_folder_is_the_untrained_twin_of_the_student_published_from_it(workplace, tmp_path, capsys):
    run = shutil.copytree(workplace / "run", tmp_path / "run")
    shutil.copytree(workplace / "small", run / "start/small")
    student = shutil.copytree(workplace / "small", tmp_path / "published")
    (student / "distillation.json").write_text('{"name": "small"}')
    models = f"teacher={workplace / 'big'} student={student} untrained={run / 'start/small'}"
    assert main(arguments(workplace, tmp_path / "report.html", models=models)) == 0
    (verdict,) = json.loads((tmp_path / "report.json").read_text("utf-8"))["verdicts"]
    assert "Training did not measurably change its nearest-neighbour accuracy: from " in verdict["details"][1]
    assert f'from_pretrained("{student}"' in capsys.readouterr().out
