"""A captured teacher: the features of the plain one, whatever comes after what."""

import warnings

import pytest
import torch

from pretrain.models.encoder import Reads
from pretrain.models.teacher import Teacher, no_teacher
from pretrain.training import captured_teacher
from pretrain.training.captured_teacher import Capture, CapturedTeacher, captured
from tests.pretrain import tiny

READS = Reads(hidden_states=frozenset({0, 2}), projections=frozenset({2}))


@pytest.fixture
def teacher() -> Teacher:
    return Teacher(tiny.teacher_model(), [READS], "float32", "cpu")


def batch(rows: int, length: int, mask: str, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {"input_ids": torch.randint(5, 20, (rows, length), generator=generator), "labels": torch.zeros(seed)}
    if mask == "padding":
        made["attention_mask"] = (
            torch.arange(length) < torch.randint(2, length, (rows, 1), generator=generator)
        ).long()
    if mask == "documents":
        made["document_ids"] = torch.randint(0, 2, (rows, length), generator=generator)
    return made


class Repeated:
    """What a CUDA graph does, on any device: computes on its own inputs, and writes over its own features."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, teacher, inputs) -> Capture:
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        features = teacher(own)
        self.shapes.append(tuple(own["input_ids"].shape))

        def replay() -> None:
            again = teacher(own)
            for name in ("hidden_states", "query", "key", "value"):
                for layer, tensor in getattr(features, name).items():
                    tensor.copy_(getattr(again, name)[layer])

        return Capture(own, replay, features)


def assert_same(ours, theirs) -> None:
    for name in ("hidden_states", "query", "key", "value"):
        found, expected = getattr(ours, name), getattr(theirs, name)
        assert found.keys() == expected.keys() and len(found)
        assert all(torch.equal(found[layer], expected[layer]) for layer in found)


def test_every_batch_has_the_features_of_the_plain_teacher(teacher):
    record = Repeated()
    ours = CapturedTeacher(teacher, record)
    for seed, (length, mask) in enumerate(
        [(8, "none"), (8, "padding"), (8, "none"), (16, "documents"), (8, "padding")]
    ):
        one = batch(2, length, mask, seed)
        assert_same(ours(one), teacher(one))
    assert record.shapes == [(2, 8), (2, 8), (2, 16)]  # a mask makes another pass, other labels do not


def test_more_shapes_than_are_kept_are_computed_as_usual(teacher, monkeypatch):
    monkeypatch.setattr(captured_teacher, "MAX_SHAPES", 2)
    record = Repeated()
    ours = CapturedTeacher(teacher, record)
    for length in (8, 16, 24, 8, 24):
        one = batch(1, length, "none", length)
        assert_same(ours(one), teacher(one))
    assert record.shapes == [(1, 8), (1, 16)]


def test_a_pass_that_cannot_be_captured_is_computed_as_usual_with_one_warning(teacher):
    def fail(*_: object) -> Capture:
        raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    ours = CapturedTeacher(teacher, fail)
    with pytest.warns(UserWarning) as caught:
        assert_same(ours(batch(1, 8, "none", 1)), teacher(batch(1, 8, "none", 1)))
    assert [str(one.message) for one in caught] == [
        "teacher.capture: the teacher's pass cannot be captured and is computed as usual: CUDA error: operation not "
        "permitted when stream is capturing"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(ours(batch(1, 16, "none", 2)), teacher(batch(1, 16, "none", 2)))


@pytest.mark.parametrize("kind", ["a teacher", "vectors"])
def test_what_cannot_be_captured_stays_as_it_is_with_a_warning(teacher, kind):
    given, device, why = {
        "a teacher": (teacher, "cpu", "a cpu has no CUDA graphs"),
        "vectors": (no_teacher, "cuda", "objectives read text vectors alone"),
    }[kind]
    with pytest.warns(UserWarning, match=f"^teacher.capture: the teacher's pass is not captured: {why}$"):
        assert captured(given, torch.device(device)) is given
