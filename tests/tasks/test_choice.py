"""Multiple choice: C3's and ChID's files are read as published, encoded, trained on and answered."""

import json

import pytest
import torch
from transformers import AutoModelForMultipleChoice

from pretrain.models.encoder import Encoder, Features, Reads
from pretrain.objectives.relation_loss import MASKED
from tasks.batches import collate
from tasks.config import TaskConfig
from tasks.examples import Choice
from tasks.kinds.registry import KINDS
from tasks.label_objectives import SoftLabelsConfig, choices
from tasks.readers import encode, read_task
from tasks.rows import Row
from tasks.stage import encode_task
from tests.pretrain.tiny import shape, teacher_model
from tests.tasks.test_stage import dev_scores, stage

DIALOGUE = ["男：你今天晚上有时间吗?", "女：我喜欢喜剧片。"]
FILMS = {"question": "女的最喜欢哪种电影?", "choice": ["恐怖片", "爱情片", "喜剧片"], "answer": "喜剧片"}
TIME = {"question": "什么时候？", "choice": ["今天", "明天"], "answer": "今天"}
C3 = [[DIALOGUE, [FILMS, TIME], "25-35"], [["一行"], [TIME], "31-109"]]
CHID = {"content": ["今天希望能#idiom000378#再进一步。", "去#idiom000379#？还是#idiom000380#远比随大流更辛苦。"],
        "candidates": ["百尺竿头", "随波逐流", "方兴未艾", "身体力行"]}  # fmt: skip
ANSWERS = {"#idiom000378#": 0, "#idiom000379#": 1, "#idiom000380#": 3}


def task(folder, kind, files, **keys):
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    values = {"train": str(folder / "train.json"), "dev": str(folder / "dev.json")} | keys
    return TaskConfig(name="t", kind=kind, **values)


def test_c3_is_read_as_published_and_as_the_hub_has_it(tmp_path):
    rows = [{"id": 1, "context": DIALOGUE, **FILMS}, {"id": 2, "context": DIALOGUE, **TIME}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data = read_task(task(tmp_path, "choice", {"train.json": json.dumps(C3, indent=1), "dev.json": lines}))
    text = "\n".join(DIALOGUE)
    films = Choice("", text, FILMS["question"], tuple(FILMS["choice"]), 2)
    assert data.train[0] == films and [one.label for one in data.train] == [2, 0, 0]
    assert data.dev == data.train[:2] and data.labels == () and data.num_overlapping == 2


def test_a_pattern_reads_several_files(tmp_path):
    files = {"d-train.json": json.dumps(C3[:1]), "m-train.json": json.dumps(C3[1:]), "dev.json": json.dumps(C3)}
    config = task(tmp_path, "choice", files, train=str(tmp_path / "*-train.json"))
    assert read_task(config).train == read_task(config).dev
    config = task(tmp_path, "choice", {}, train=str(tmp_path / "x-*.json"))
    with pytest.raises(ValueError, match=r"x-\*.json: no file matches this pattern"):
        read_task(config)


def test_chid_is_read_with_the_answers_beside_it_or_in_itself(tmp_path):
    own = {"text": list(ANSWERS), "candidate_id": list(ANSWERS.values())}
    files = {"train.json": json.dumps(CHID), "train_answer.json": json.dumps(ANSWERS),
             "dev.json": json.dumps(CHID | {"answers": own})}  # fmt: skip
    data = read_task(task(tmp_path, "idioms", files))
    assert [(one.id, one.label, one.group) for one in data.train] == [
        (name, label, 0) for name, label in ANSWERS.items()
    ]
    assert data.dev == data.train and data.train[2].text == CHID["content"][1]


def changed(index, **keys):
    record = json.loads(json.dumps(C3))
    record[0][1][index] |= keys
    return json.dumps(record)


@pytest.mark.parametrize(
    ("kind", "text", "answers", "message"),
    [
        (
            "choice",
            changed(0, answer="动作片"),
            None,
            r"record 1: answer '动作片' is none of the choices 恐怖片, 爱情片",
        ),
        ("choice", changed(1, choice=["今天"]), None, r"record 1: has 1 choices; must have at least two"),
        ("choice", json.dumps([[DIALOGUE, [{"question": "?"}], "1"]]), None, r"record 1: must be \[\[text, .*KeyError"),
        ("choice", changed(1, choice="今天"), None, r"record 1: must be \[\[text, .*'choice is no list'"),
        ("idioms", json.dumps(CHID | {"candidates": "天地"}), {}, r"json:1: must be .*'candidates is no list'"),
        ("choice", '[[["a"], [], "1"]]', None, "train.json: contains no questions"),
        ("idioms", json.dumps(CHID), {"#idiom000378#": 9}, r"#idiom000378# has no answer from 0 to 3: got 9"),
        ("idioms", json.dumps(CHID), {"#idiom000378#": 1}, r"#idiom000379# has no answer from 0 to 3: got None"),
        ("idioms", json.dumps(CHID), None, r"#idiom000378# has no answer from 0 to 3: got None"),
        ("idioms", json.dumps(CHID), [1], r"train_answer.json: must be \{\"#idiom000001#\": index"),
        (
            "idioms",
            json.dumps({"content": ["a"]}),
            {},
            r"train.json:1: must be \{\"content\".*KeyError\('candidates'\)",
        ),
        ("idioms", json.dumps(CHID | {"content": ["无"]}), {}, r"train.json: contains no questions"),
    ],
)
def test_records_that_cannot_be_used_are_named(tmp_path, kind, text, answers, message):
    files = {"train.json": text, "dev.json": text} | (
        {} if answers is None else {"train_answer.json": json.dumps(answers)}
    )
    with pytest.raises(ValueError, match=message):
        read_task(task(tmp_path, kind, files))


def test_questions_in_a_table_to_train_on_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train.json:1: not a JSON object .*; questions are JSON$"):
        read_task(task(tmp_path, "choice", {"train.json": "context,question\n"}))


def test_an_answer_that_differs_by_blanks_or_case_is_the_choice(tmp_path):
    text = changed(0, choice=["A ", "b"], answer="a")
    assert read_task(task(tmp_path, "choice", {"train.json": text, "dev.json": text})).train[0].label == 0


def test_every_choice_is_encoded_with_the_passage_and_the_question(tokenizer):
    config = TaskConfig(name="t", kind="choice", train="", dev="")
    (row,) = encode([Choice("", "天地", "何", ("水", "冰冰"), 1)], config, (), tokenizer).rows
    pairs = [("天地", f"何{tokenizer.sep_token}{choice}") for choice in ("水", "冰冰")]
    expected = [tokenizer(*pair)["input_ids"] for pair in pairs]
    assert row.input_ids == [*expected[0], *expected[1]] and row.choices == tuple(map(len, expected))
    assert len(row.token_type_ids) == len(row.input_ids) and row.labels == {"labels": 1}


@pytest.mark.parametrize(("before", "after"), [(0, 40), (40, 0), (40, 40), (3, 40), (2, 2)])
def test_the_blank_is_always_in_its_window(tokenizer, before, after):
    text = "天" * before + "#idiom1#" + "地" * after
    example = Choice("#idiom1#", text, "#idiom1#", ("水", "冰水"), 0, 0)
    config = TaskConfig(name="t", kind="idioms", train="", dev="", row_tokens=24)
    encoded = encode([example], config, (), tokenizer)
    (row,) = encoded.rows
    mark = tokenizer.mask_token or "_"
    assert max(row.choices) <= 24 and encoded.num_cut == (before + after > 20)
    for size, start in ((row.choices[0], 0), (row.choices[1], row.choices[0])):
        tokens = tokenizer.convert_ids_to_tokens(row.input_ids[start : start + size])
        assert [token.strip("▁") for token in tokens].count(mark) == 1
    if before + after > 20:
        assert max(row.choices) >= 21, "the window is full"


def test_other_blanks_are_masks_and_candidates_longer_than_the_row_are_cut(wordpiece):
    example = Choice("#idiom1#", "#idiom1#水#idiom2#", "#idiom1#", ("天", "地" * 40), 0, 0)
    config = TaskConfig(name="t", kind="idioms", train="", dev="", row_tokens=16)
    (row,) = encode([example], config, (), wordpiece).rows
    assert max(row.choices) <= 16
    (row,) = encode(
        [Choice("#idiom1#", "#idiom1#水#idiom2#", "#idiom1#", ("天", "地"), 0, 0)], config, (), wordpiece
    ).rows
    assert row.input_ids[: row.choices[0]].count(wordpiece.mask_token_id) == 1 + 4


def test_blanks_of_a_group_take_different_idioms_the_surest_first():
    blanks = [Choice(str(n), "", "", ("a", "b", "c"), 0, group) for n, group in enumerate((0, 0, 0, 0, 1))]
    logits = [torch.tensor(values) for values in
              ([5.0, 1.0, 0.0], [6.0, 4.0, 0.0], [7.0, 3.0, 2.0], [9.0, 8.0, 1.0], [1.0, 0.0, 0.0])]  # fmt: skip
    # 3 takes a, 1 takes b (4), 2 takes c (2); nothing is left for 0, which takes its own best
    assert KINDS["idioms"].chosen(logits, blanks) == [0, 1, 2, 0, 0]
    assert KINDS["choice"].chosen(logits, blanks) == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert", "electra", "ernie"])
def test_logits_are_those_of_transformers(model_type):
    sizes = {"pad_token_id": 1} if model_type == "roberta" else {}
    model = teacher_model(model_type, AutoModelForMultipleChoice, **sizes)
    rows = [Row([5, 6, 7, 8, 9], [0] * 5, {"labels": 1}, 0, choices=(3, 2)), Row([5, 6, 7], [0] * 3, {"labels": 2}, 1,
            choices=(1, 1, 1))]  # fmt: skip
    batch = collate(rows, model.config.pad_token_id or 0)
    assert batch["input_ids"].shape == (5, 3) and batch["num_choices"].tolist() == [2, 3]
    with torch.no_grad():
        logits, labels = choices(Encoder(model, Reads(logits=True))(batch).logits, batch)
        first = {name: batch[name][None, :2] for name in ("input_ids", "attention_mask", "token_type_ids")}
        torch.testing.assert_close(logits[0, :, :2], model(**first).logits)
    assert logits.shape == (2, 1, 3) and logits[0, 0, 2] == MASKED and labels.tolist() == [[1], [2]]


def test_soft_labels_of_choices_are_the_cross_entropy_of_their_shares():
    batch = {"num_choices": torch.tensor([2, 3]), "labels": torch.tensor([0, 0]), "input_ids": torch.ones(5, 4)}
    teacher, student = torch.randn(5, 1), torch.randn(5, 1)
    loss = SoftLabelsConfig(type="soft_labels", temperature=2.0).build(shape(), shape())
    (value,) = loss(Features(logits=teacher), Features(logits=student), batch).values()
    slow = [
        -4 * ((teacher[part, 0] / 2).softmax(0) * (student[part, 0] / 2).log_softmax(0)).sum()
        for part in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(value, sum(slow) / 2)


@pytest.mark.parametrize("kind", ["choice", "idioms"])
def test_every_stage_trains(tmp_path, kind, general):
    """Fine-tuning learns that the answer is always 水; both stages of distillation run on the choices."""
    texts = ["天", "地", "水", "冰"]
    orders = [texts[place:] + texts[:place] for place in range(4)] * 4
    questions = [[["天地"], [{"question": "何", "choice": order[: 3 + n % 2], "answer": "水"}], "1"]
                 for n, order in enumerate(orders) if "水" in order[:3]]  # fmt: skip
    blanks = [{"content": [f"天#idiom{n}#地"], "candidates": order} for n, order in enumerate(orders)]
    answers = {f"#idiom{n}#": order.index("水") for n, order in enumerate(orders)}
    files = {"choice": json.dumps(questions), "idioms": "\n".join(map(json.dumps, blanks))}
    files = {"train.json": files[kind], "dev.json": files[kind]} | {
        f"{part}_answer.json": json.dumps(answers) for part in ("train", "dev")
    }
    config = task(tmp_path, kind, files, row_tokens=16)
    encoded = encode_task(config, read_task(config), general)
    ft = stage(tmp_path / "ft", encoded, general, epochs=20, dropout_prob=0.0)
    assert ft.trainer.train() == 0 and dev_scores(ft)["accuracy"] > 0.9
    ft.student.published.save_pretrained(tmp_path / "teacher")
    relations = [{"type": "minilm_v2", "num_relation_heads": 4}]
    td1 = stage(tmp_path / "td1", encoded, general, str(tmp_path / "teacher"), relations, epochs=1)
    assert td1.trainer.train() == 0
    both = [{"type": "labels"}, {"type": "soft_labels"}]
    td2 = stage(tmp_path / "td2", encoded, general, str(tmp_path / "teacher"), both, epochs=1)
    assert td2.trainer.train() == 0 and 0 <= dev_scores(td2)["accuracy"] <= 1
