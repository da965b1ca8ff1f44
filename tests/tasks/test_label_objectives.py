"""Task losses equal torch's for equal rows; padding and ignored labels do not count."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pretrain.models.encoder import Features, Reads
from pretrain.training.micro_batches import step_counts
from tasks.label_objectives import TaskObjective, choices
from tasks.rows import IGNORED, UNLABELLED
from tests.pretrain.tiny import shape

NUM_ROWS, NUM_TOKENS, NUM_CLASSES = 8, 6, 5
KINDS = ("text", "tokens", "reading")
NAMES = ("labels", "soft_labels", "logits_mse")


def objective(**values):
    config = TypeAdapter(TaskObjective).validate_python(values)
    assert list(config.problems(shape(), shape())) == []
    return config.build(shape(), shape())


def draw(kind, seed=0):
    """Logits as a model of that kind gives them, and a batch without padding."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"text": (NUM_CLASSES,), "tokens": (NUM_TOKENS, NUM_CLASSES), "reading": (NUM_TOKENS, 2)}[kind]
    logits = torch.randn(NUM_ROWS, *sizes, generator=generator)
    labels = {name: torch.randint(NUM_TOKENS, (NUM_ROWS,)) for name in ("start_positions", "end_positions")}
    if kind != "reading":
        labels = {"labels": torch.randint(NUM_CLASSES, (NUM_ROWS, *sizes[:-1]), generator=generator)}
    ids = torch.ones(NUM_ROWS, NUM_TOKENS, dtype=torch.int64)
    return logits, {"input_ids": ids, "attention_mask": ids, **labels}


def loss(name, student, batch, teacher=None, **keys):
    (value,) = objective(type=name, **keys)(Features(logits=teacher), Features(logits=student), batch).values()
    return value


def padded(logits, batch, kind, num_padding=3):
    """The same rows with tokens of padding after them, whose logits are large."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}
    wide = {
        name: torch.nn.functional.pad(values, (0, num_padding), value=fill[name]) if values.dim() == 2 else values
        for name, values in batch.items()
    }
    return (logits if kind == "text" else torch.nn.functional.pad(logits, (0, 0, 0, num_padding), value=50.0)), wide


def test_labels_are_torchs_cross_entropy_where_rows_are_alike():
    logits, batch = draw("text")
    torch.testing.assert_close(
        loss("labels", logits, batch), torch.nn.functional.cross_entropy(logits, batch["labels"])
    )
    logits, batch = draw("tokens")
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"])
    torch.testing.assert_close(loss("labels", logits, batch), expected)
    logits, batch = draw("reading")
    ends = [torch.nn.functional.cross_entropy(logits[..., n], batch[f"{name}_positions"]) for n, name in
            enumerate(("start", "end"))]  # fmt: skip
    torch.testing.assert_close(loss("labels", logits, batch), sum(ends) / 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_student_like_its_teacher_has_nothing_to_learn(kind, temperature):
    student, batch = draw(kind)
    student.requires_grad_()
    loss("soft_labels", student, batch, student.detach().clone(), temperature=temperature).backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)
    other = draw(kind, seed=1)[0]
    student.grad = None
    loss("soft_labels", student, batch, other, temperature=temperature).backward()
    assert student.grad.abs().sum() > 0.1


def test_soft_labels_are_hintons():
    (student, batch), (teacher, _) = draw("text"), draw("text", seed=1)
    for temperature in (1.0, 2.0, 8.0):
        targets = (teacher / temperature).softmax(-1)
        expected = temperature**2 * torch.nn.functional.cross_entropy(student / temperature, targets)
        torch.testing.assert_close(loss("soft_labels", student, batch, teacher, temperature=temperature), expected)


def test_a_high_temperature_keeps_the_size_of_the_gradient_and_matches_logits():
    (student, batch), (teacher, _) = draw("text"), draw("text", seed=1)
    student.requires_grad_()
    loss("soft_labels", student, batch, teacher, temperature=500.0).backward()
    centred = [one - one.mean(-1, keepdim=True) for one in (student.detach(), teacher)]
    torch.testing.assert_close(student.grad, (centred[0] - centred[1]) / NUM_CLASSES / NUM_ROWS, atol=1e-3, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_distillation_equals_a_reference_in_float64_a_label_at_a_time(kind, temperature):
    (student, batch), (teacher, _) = draw(kind), draw(kind, seed=1)
    ours, theirs = (choices(one, batch)[0].double().flatten(0, 1) for one in (student, teacher))
    soft, squared = [], []
    for own, target in zip(ours, theirs, strict=True):
        wanted = torch.exp(target / temperature) / torch.exp(target / temperature).sum()
        found = torch.exp(own / temperature) / torch.exp(own / temperature).sum()
        soft.append(-(wanted * found.log()).sum() * temperature**2)
        squared.append(((own - target) ** 2).mean())
    for name, values, keys in (("soft_labels", soft, {"temperature": temperature}), ("logits_mse", squared, {})):
        expected = torch.stack(values).mean()
        torch.testing.assert_close(loss(name, student, batch, teacher, **keys).double(), expected, atol=1e-5, rtol=1e-5)


def test_the_error_of_logits_does_not_count_impossible_choices():
    """Of rows with three answers and with two."""
    logits, batch = torch.tensor([[1.0], [2.0], [4.0], [1.0], [5.0]]), {"num_choices": torch.tensor([3, 2])}
    batch["labels"] = torch.tensor([0, 1])
    expected = ((1 + 4 + 16) / 3 + (1 + 25) / 2) / 2
    assert loss("logits_mse", logits, batch, torch.zeros_like(logits)).item() == pytest.approx(expected)


def test_errors_of_several_teachers_are_averaged():
    (student, batch), teachers = draw("text"), [draw("text", seed)[0] for seed in (1, 2)]
    several = Features(several=[(0.25, Features(logits=teachers[0])), (0.75, Features(logits=teachers[1]))])
    (found,) = objective(type="logits_mse")(several, Features(logits=student), batch).values()
    alone = [loss("logits_mse", student, batch, one) for one in teachers]
    torch.testing.assert_close(found, 0.25 * alone[0] + 0.75 * alone[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(kind, name):
    (student, batch), (teacher, _) = draw(kind), draw(kind, seed=1)
    (wide, wide_batch), (wide_teacher, _) = padded(student, batch, kind), padded(teacher, batch, kind)
    expected = loss(name, student, batch, teacher)
    torch.testing.assert_close(loss(name, wide, wide_batch, wide_teacher), expected)
    without_mask = {key: values for key, values in batch.items() if key != "attention_mask"}
    torch.testing.assert_close(loss(name, student, without_mask, teacher), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_two_halves_are_the_whole(kind, name):
    (student, batch), (teacher, _) = draw(kind), draw(kind, seed=1)
    if kind == "tokens":
        batch["labels"][0, 2:] = batch["labels"][3] = IGNORED  # rows with few labels, and with none
    of_halves = {key: value / 2 for key, value in step_counts([batch], torch.device("cpu")).items()}
    for reduction, counts in (("rows", {}), ("tokens", of_halves)):
        halves = [
            loss(name, student[part], {key: values[part] for key, values in batch.items()} | counts, teacher[part],
                 reduction=reduction)
            for part in (slice(0, 4), slice(4, 8))
        ]  # fmt: skip
        torch.testing.assert_close(sum(halves) / 2, loss(name, student, batch, teacher, reduction=reduction))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_without_a_label_count_nowhere(name):
    (student, batch), (teacher, _) = draw("tokens"), draw("tokens", seed=1)
    batch["labels"][:, 0] = batch["labels"][:, 4] = IGNORED
    kept = [1, 2, 3, 5]
    few = {key: values[:, kept] for key, values in batch.items()}
    student.requires_grad_()
    value = loss(name, student, batch, teacher)
    torch.testing.assert_close(value, loss(name, student[:, kept], few, teacher[:, kept]))
    value.backward()
    assert not student.grad[:, [0, 4]].any() and student.grad[:, kept].all()


def test_every_row_or_every_label_counts_the_same():
    student, batch = draw("tokens")
    batch["labels"][0, 1:] = IGNORED
    rows = [loss("labels", student[n : n + 1], {k: v[n : n + 1] for k, v in batch.items()}) for n in range(NUM_ROWS)]
    torch.testing.assert_close(loss("labels", student, batch, reduction="rows"), torch.stack(rows).mean())
    transformers_own = torch.nn.functional.cross_entropy(student.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(loss("labels", student, batch), transformers_own)


def test_no_answer_begins_or_ends_in_padding():
    wide, batch = padded(*draw("reading"), "reading")
    logits, labels = choices(wide, batch)
    probabilities = logits.softmax(-1)
    assert logits.shape == (NUM_ROWS, 2, NUM_TOKENS + 3) and labels.shape == (NUM_ROWS, 2)
    assert not probabilities[..., NUM_TOKENS:].any()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(NUM_ROWS, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_half_precision_are_float32(kind):
    student, batch = draw(kind)
    for name in NAMES:
        half = loss(name, student.bfloat16(), batch, student.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, loss(name, student.bfloat16().float(), batch, student.bfloat16().float()))


def test_labels_read_no_teacher_and_soft_labels_read_its_answer():
    hard, soft = objective(type="labels", weight=2.0), objective(type="soft_labels")
    assert hard.teacher_reads == Reads() and hard.student_reads == Reads(logits=True)
    assert soft.teacher_reads == soft.student_reads == Reads(logits=True)
    assert hard.total({"labels": torch.tensor(3.0)}).item() == 6.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "soft_labels", "temperature": 0}, "greater than 0"),
        ({"type": "labels", "temperature": 2}, "Extra inputs are not permitted"),
        ({"type": "labels", "weight": -1}, "greater than 0"),
        ({"type": "mlm"}, "unknown type 'mlm'; must be one of labels, soft_labels, logits_mse, minilm_v2"),
    ],
)
def test_objectives_that_are_none_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(TaskObjective).validate_python(values)


@pytest.mark.parametrize("name", ["minilm_v2", "minilm", "tinybert", "hidden_states", "pkd"])
def test_the_objectives_of_general_distillation_serve_tasks_too(name):
    keys = {"num_relation_heads": 4} if name == "minilm_v2" else {}
    built = objective(type=name, **keys)
    assert not built.student_reads.logits and built.student_reads.num_layers > 0


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_labels_teach_the_teachers_predictions_alone(kind):
    (student, batch), (teacher, _) = draw(kind), draw(kind, seed=1)
    known = slice(0, 3)
    hidden = {
        name: values.masked_fill(torch.arange(NUM_ROWS).view(-1, *[1] * (values.dim() - 1)) >= 3, UNLABELLED)
        if name not in ("input_ids", "attention_mask")
        else values
        for name, values in batch.items()
    }
    student.requires_grad_()
    value = loss("labels", student, hidden)
    torch.testing.assert_close(value, loss("labels", student[known], {k: v[known] for k, v in batch.items()}))
    value.backward()
    assert student.grad[known].abs().sum() > 0 and not student.grad[3:].any()
    student.grad = None
    torch.testing.assert_close(
        loss("soft_labels", student, hidden, teacher), loss("soft_labels", student, batch, teacher)
    )
    loss("soft_labels", student, hidden, teacher).backward()
    assert all(row.any() for row in student.grad)


def test_a_label_counts_the_same_in_any_micro_batch_however_few_there_are():
    student, batch = draw("text")
    batch["labels"][1:] = UNLABELLED  # one label in four micro-batches
    parts = [{name: values[n : n + 2] for name, values in batch.items()} for n in (0, 2, 4, 6)]
    counts = step_counts(parts, torch.device("cpu"))
    assert counts["num_known"] == 1 / 4 and counts["num_labelled"] == 2
    found = [loss("labels", student[2 * n : 2 * n + 2], part | counts) for n, part in enumerate(parts)]
    torch.testing.assert_close(sum(found) / 4, loss("labels", student, batch))
