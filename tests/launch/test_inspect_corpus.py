import json
import re

import pytest

from corpus.shards.manifest import load_manifest
from launch.build_corpus import main as build
from launch.inspect_corpus import epoch_line, main
from tests.corpus.conftest import corpus_folder, documents, unigram, wordpiece  # noqa: F401  (fixtures)


@pytest.fixture
def mixed(tmp_path, wordpiece):  # noqa: F811
    """A corpus with rejects and changes."""
    (tmp_path / "a.txt").write_text("天地\n天地\n玄（）黄\nEnglish\n" + "宇" * 40, encoding="utf-8")
    source = {"name": "mixed", "licence": "MIT", "format": "lines", "inputs": [str(tmp_path / "a.txt")]}
    state = {"sources": [source], "tokenizer": str(wordpiece), "output": str(tmp_path / "out")}
    (tmp_path / "c.json").write_text(json.dumps(state))
    assert build(["--config", str(tmp_path / "c.json")]) == 0
    return tmp_path / "out"


def inspect(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_tables_show_sources_rejects_changes_and_lengths(mixed, capsys):
    out = inspect(capsys, mixed)
    assert re.search(r"mixed +lines +MIT +5 +3 +44 +100\.0% +15 +1\.000", out)
    assert re.search(r"mixed +duplicate +1 +20\.00% +a\.txt:2\n", out)
    assert re.search(r"mixed +too_little_chinese +1 +20\.00% +a\.txt:4\n", out)
    assert re.search(r"mixed +empty_brackets +1 +20\.00%\n", out)
    assert "length of 3 documents: quartiles 2, 2, 21, longest 40 tokens" in out
    assert re.search(r"2 to 3 +2 +66\.7% +9\.1% +#{40}\n32 to 63 +1 +33\.3% +90\.9% +#{20}\n", out)


def test_a_corpus_without_rejects_says_so(corpus_folder, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("launch.inspect_corpus._MAX_SAMPLED_BLOCKS", 5)
    out = inspect(capsys, corpus_folder)
    assert "nothing was rejected" in out and "changed of" not in out
    assert re.search(r"length of \d+ documents in 5 of \d\d+ blocks", out)


def test_rows_are_decoded_and_the_same_for_a_seed(corpus_folder, documents, capsys):  # noqa: F811
    arguments = (corpus_folder, "--rows", 3, "--row-tokens", 16, "--seed")
    first, again, other = (inspect(capsys, *arguments, seed) for seed in (1, 1, 2))
    assert first == again != other
    rows = re.findall(r"^row [\d,]+ \((\d+) tokens\): (.*)$", first, flags=re.M)
    assert len(rows) == 3 and all(2 < int(count) <= 16 for count, _ in rows)
    text = "\n".join(documents)
    for _, row in rows:
        pieces = row.replace(" ", "").replace("##", "").replace("[CLS]", "").split("[SEP]")
        assert all(piece in text for piece in pieces)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "-1"], "--rows: must be 0 or more, got -1"),
        (["--rows", "2", "--row-tokens", "2"], "--row-tokens: must be at least 8, got 2"),
    ],
)
def test_rows_that_cannot_be_are_refused_before_anything_is_shown(corpus_folder, capsys, flags, message):  # noqa: F811
    with pytest.raises(SystemExit):
        main([str(corpus_folder), *flags])
    said = capsys.readouterr()
    assert message in said.err and not said.out


def test_an_epoch_counts_the_weights_of_the_run(corpus_folder, config_values, tmp_path):  # noqa: F811
    epochs = []
    for weight in (1, 2):
        path = tmp_path / f"{weight}.json"
        corpus = config_values["corpus"] | {"weights": {"tiny": weight}}
        path.write_text(json.dumps(config_values | {"corpus": corpus}))
        line = epoch_line(load_manifest(corpus_folder), path)
        epochs.append(int(re.search(r"one epoch = ([\d,]+) rows", line)[1].replace(",", "")))
    assert epochs[1] == 2 * epochs[0]


def test_an_epoch_is_shown_in_steps_of_a_run(corpus_folder, config_file, capsys):  # noqa: F811
    out = inspect(capsys, corpus_folder, "--run-config", config_file)
    epoch = r"one epoch = ([\d,]+) rows of 16 tokens = ([\d,.]+) steps of 8 rows"
    rows, steps, epochs = re.search(rf"{epoch}; this run of 6 steps covers ([\d.]+) epochs", out).groups()
    assert float(steps) == pytest.approx(int(rows) / 8, abs=0.06) and float(epochs) == pytest.approx(
        48 / int(rows), abs=0.01
    )


def test_verify_names_every_fault(mixed, capsys):
    assert "verified: 1 blocks are intact" in inspect(capsys, mixed, "--verify")
    shard = next(mixed.glob("shard-*"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert main([str(mixed), "--verify"]) == 1
    assert "block 0: the checksum does not match" in capsys.readouterr().out


def test_errors_are_a_line(mixed, unigram, tmp_path, capsys):  # noqa: F811
    assert main([str(tmp_path / "none")]) == 2
    assert "error: " in (err := capsys.readouterr().err) and "there is no manifest" in err
    assert main([str(mixed), "--rows", "1", "--tokenizer", str(unigram)]) == 2
    assert "is not the one the corpus was built with" in capsys.readouterr().err
