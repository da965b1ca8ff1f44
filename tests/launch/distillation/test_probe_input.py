"""The data of a probe is checked and the same in every run; and a run with a probe under the real launcher."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest
from corpus.shards.store import StoreLost
from launch.distillation.config import RunConfig, read_run_config
from launch.distillation.probe_input import ProbeData, build_probe, read_probe_data
from launch.distillation.run_facts import ProbeFacts, read_facts
from launch.reports.charts import draw_run
from launch.reports.run import read_run
from pretrain.ranks.process_group import start_distributed
from pretrain.training.metrics import read_metrics
from tests.corpus.conftest import HAN, unigram  # noqa: F401  (a fixture)
from tests.launch.conftest import launch
from tests.launch.jobs import final_tensors, free_port


def write_corpus(folder: Path, tokenizer: Path) -> str:
    """Twenty documents that the tiny corpus does not hold."""
    folder.mkdir()
    documents = [" ".join((HAN[i % 7 :] + HAN)[: 5 + 3 * i]) for i in range(20)]
    (folder / "text.txt").write_text("\n".join(documents), encoding="utf-8")
    source = {"name": "held", "format": "lines", "inputs": [str(folder / "text.txt")]}
    state = {"sources": [source], "tokenizer": str(tokenizer), "output": str(folder / "corpus")}
    build_corpus(BuildConfig.model_validate(state, strict=False))
    return str(folder / "corpus")


@pytest.fixture(scope="module")
def heldout(tmp_path_factory, wordpiece) -> str:
    return write_corpus(tmp_path_factory.mktemp("heldout") / "made", wordpiece)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> dict[str, object]:
    """48 titles to search, sorted by their two labels, and 24 to ask about, 16 of one label; 4 stand in both."""
    folder = tmp_path_factory.mktemp("task")
    texts = [f"{HAN[i % 2]} {HAN[2 + i % 20]} {HAN[2 + i // 4]}" for i in range(68)]
    sides = {"train": sorted(texts[:48]), "dev": [*texts[48:], *texts[:4]]}
    for name, side in sides.items():
        records = [{"title": text, "label": text[0] if name == "train" else HAN[i % 3 // 2]}
                   for i, text in enumerate(side)]  # fmt: skip
        (folder / f"{name}.json").write_text("".join(json.dumps(one) + "\n" for one in records))
    paths = {name: str(folder / f"{name}.json") for name in sides}
    return {"name": "titles", "kind": "sentence", "columns": {"text": "title"}, "row_tokens": 16, **paths}


def run_config(config_file: Path, **probe: object) -> RunConfig:
    return read_run_config(config_file, [f"probe={json.dumps(probe)}"])


def read(config_file: Path, corpus_folder: Path, **probe: object) -> ProbeData:
    data = read_probe_data(run_config(config_file, **probe), load_manifest(str(corpus_folder)))
    assert data
    return data


def test_the_same_examples_of_every_label_are_drawn_each_time(config_file, corpus_folder, task):
    first, again = (read(config_file, corpus_folder, task=task, max_train=12, max_dev=9) for _ in range(2))
    assert first.texts == again.texts and first.facts == again.facts
    (train, labels), (dev, _) = first.texts
    assert len(set(train)) == 12 and len(dev) == 9 and set(labels) == {0, 1}
    whole = read(config_file, corpus_folder, task=task)
    assert whole.facts.model_dump(exclude={"texts"}) == ProbeFacts(
        task="titles", num_train=48, num_dev=24, num_classes=2, chance=16 / 24
    ).model_dump(exclude={"texts"})
    assert whole.facts.texts != first.facts.texts and whole.facts.texts is not None


def test_differences_from_the_configuration_are_remarked(config_file, corpus_folder, task, heldout):
    asked = {"max_train": 100, "max_dev": 24, "max_heldout_rows": 500}
    data = read(config_file, corpus_folder, task=task | {"metric": "f1"}, heldout=heldout, **asked)
    num_rows = data.facts.num_heldout_rows
    assert data.remarks == [
        f"probe.max_train: {task['train']} has only 48 examples, not 100; all are used",
        "probe.task: 4 of 24 texts to classify are also among the texts to search",
        "probe.task.metric: the probe measures accuracy; f1 is for fine-tuning",
        f"probe.max_heldout_rows: {heldout} has only {num_rows} rows, not 500; all are used",
    ]


def test_held_out_rows_are_cut_as_those_trained_on_and_each_is_there_once(config_file, corpus_folder, heldout):
    data = read(config_file, corpus_folder, heldout=heldout)
    rows = torch.cat([batch["input_ids"] for batch in data.heldout])
    manifest = load_manifest(heldout)
    assert rows.shape == (RowStream(manifest, 16, 0).rows_per_epoch, 16) and len(rows) > 20
    assert (rows > 4).sum() == manifest.totals.tokens  # special ids are 0 to 4
    assert data.facts.heldout == manifest.fingerprint and data.facts.num_heldout_rows == len(rows)
    few = read(config_file, corpus_folder, heldout=heldout, max_heldout_rows=19)
    assert [len(batch["input_ids"]) for batch in few.heldout] == [16, 3]


def test_every_problem_of_a_probe_is_reported_at_once(config_file, corpus_folder, task):
    gone = {"task": task | {"train": "no/such.json"}, "heldout": "no/corpus"}
    with pytest.raises(ValueError) as caught:
        read(config_file, corpus_folder, **gone)
    assert not isinstance(caught.value, StoreLost), "the other problem stays"
    first, second = str(caught.value).splitlines()
    assert first == "probe.task: no/such.json: cannot be read: No such file or directory"
    assert second.startswith("probe.heldout: no/corpus") and "there is no manifest" in second


def test_a_held_out_corpus_that_is_gone_may_come_back(config_file, corpus_folder, task):
    with pytest.raises(StoreLost, match=r"^probe.heldout: no/corpus/manifest.json: there is no manifest"):
        read(config_file, corpus_folder, task=task, heldout="no/corpus")


def test_too_few_examples_and_a_single_label_are_refused(config_file, corpus_folder, task, tmp_path):
    lines = Path(str(task["train"])).read_text().splitlines(keepends=True)
    few, one = tmp_path / "few.json", tmp_path / "one.json"
    few.write_text("".join(lines[20:28]))
    one.write_text("".join(lines[:1] * 5000 + lines[-1:]))
    with pytest.raises(ValueError, match=r"^probe.task: .*few.json: has 8 examples; the probe needs at least 10"):
        read(config_file, corpus_folder, task=task | {"train": str(few)})
    with pytest.raises(ValueError, match=r"^probe.task: .*one.json: all 10 sampled examples have the same label"):
        read(config_file, corpus_folder, task=task | {"train": str(one)}, max_train=10)


def test_a_held_out_corpus_that_does_not_fit_is_refused(config_file, corpus_folder, unigram, tmp_path):  # noqa: F811
    other = write_corpus(tmp_path / "other", unigram)
    message = f"probe.heldout: {other} was built with the tokenizer {unigram}, but corpus.manifest with .*; build the"
    with pytest.raises(ValueError, match=message):
        read(config_file, corpus_folder, heldout=other)
    with pytest.raises(ValueError, match="is the training corpus; give another one"):
        read(config_file, corpus_folder, heldout=str(corpus_folder))


@pytest.fixture
def device(monkeypatch) -> torch.device:
    """Of a world of one; what says so in the environment is not left to the jobs of later tests."""
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in alone.items():
        monkeypatch.setenv(name, str(value))
    return start_distributed()


def test_the_teacher_is_measured_once_and_other_texts_cause_a_warning(
    device, config_file, corpus_folder, task, tmp_path, monkeypatch
):
    manifest, folder = load_manifest(str(corpus_folder)), tmp_path / "run"
    config = run_config(config_file, task=task)
    data = read_probe_data(config, manifest)
    assert data and config.teacher
    teacher = AutoModel.from_pretrained(config.teacher.path)
    build = lambda: build_probe(config, data, manifest, teacher, folder, device)  # noqa: E731
    probe, facts = build()
    assert facts.teacher_accuracy is not None and 0 <= facts.teacher_accuracy <= 1 and probe.heldout is None
    corpus = {"fingerprint": "f", "tokens": 1, "documents": 1, "sources": []}
    noted = {"corpus": corpus, "teacher": None, "unreached_parameters": {}, "probe": facts.model_dump()}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(noted))
    with monkeypatch.context() as patch:
        patch.setattr("pretrain.probes.live_probe.LiveProbe.accuracy", lambda *_: pytest.fail("measured again"))
        assert build()[1] == facts
    (folder / "run.json").write_text(json.dumps(noted | {"probe": {"texts": "others", "teacher_accuracy": 0.125}}))
    with pytest.warns(UserWarning, match="probe: texts or rows have changed; scores from before"):
        assert build()[1] == facts
    alone, facts = build_probe(config, data, manifest, None, tmp_path / "none", device)
    assert alone.texts and facts == data.facts  # nobody to compare with


@pytest.fixture(scope="module")
def probed_run(config_file, task, heldout, tmp_path_factory):
    probe = {"every_steps": 3, "task": task, "heldout": heldout, "max_train": 60}
    run = tmp_path_factory.mktemp("runs") / "probed"
    done = launch("--config", str(config_file), "--run", str(run), "--set", f"probe={json.dumps(probe)}", num_ranks=2)
    assert done.returncode == 0, done.stderr
    return run, done


def test_a_run_with_a_probe_ends_with_the_same_bits(probed_run, finished_run):
    ours, theirs = final_tensors(probed_run[0]), final_tensors(finished_run)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_its_scores_are_in_the_metrics_on_the_screen_and_in_the_report(probed_run):
    run, done = probed_run
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == [0, 2, 3, 4, 6]
    names = {f"{student}/probe/{name}" for student in ("small", "other")
             for name in ("neighbour_accuracy", "heldout_relation_loss")}  # fmt: skip
    assert [line["step"] for line in lines if names <= line.keys()] == [0, 3, 6]
    assert [line["step"] for line in lines if names & line.keys()] == [0, 3, 6]
    assert re.search(
        r"step 3: small neighbour_accuracy 0\.\d{4}, small heldout_relation_loss \d\.\d{4}, other", done.stderr
    )
    assert done.stderr.count("probe.max_train: ") == 1 and "loss at step 2" in done.stdout
    facts = read_facts(run / "run.json").probe
    assert facts and facts.num_dev == 24 and facts.heldout and facts.teacher_accuracy is not None
    charts = dict(draw_run(read_run(run)))
    assert {
        "Neighbour accuracy while training, by the run's own probe",
        "Held-out relation loss while training",
    } < charts.keys()
    assert all("probe" not in term for term in read_run(run).loss_terms("small"))
