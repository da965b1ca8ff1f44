"""What depends on the device: run on the CPU by make test, and on the GPU, where there is one, by test_gpu.py.

A process has one accelerator, DeepSpeed's, so the GPU's tests are a process of their own.
"""

import pytest
import torch
from transformers import AutoModelForMaskedLM

from bench.gpu_job import job
from pretrain.models.encoder import Encoder, Reads
from pretrain.models.teacher import Teacher
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.objectives.kernel_choice import exact_loss_and_gradients, relative_error
from pretrain.objectives.relation_loss import relation_loss
from pretrain.objectives.vocabulary import with_places
from pretrain.ranks.process_group import start_distributed
from pretrain.students.student import build_student
from pretrain.training.captured_teacher import captured
from tests.pretrain import tiny

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device() -> torch.device:
    return start_distributed()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, device) -> dict[str, torch.Tensor]:
    """Eight steps in bfloat16 at stage 0."""
    return tiny.train(tmp_path_factory.mktemp("undisturbed"), 8, dtype="bfloat16")["small"]


def assert_near(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Equal but for the order in which a GPU adds up."""
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, rtol=2e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_steps_move_weights_and_leave_them_finite(undisturbed, device):
    start = build_student(tiny.student_config(), tiny.teacher_model(), seed=1).state_dict()
    assert all(tensor.device.type == device.type and tensor.isfinite().all() for tensor in undisturbed.values())
    moved = [name for name, tensor in undisturbed.items() if not torch.equal(tensor.cpu(), start[name].cpu())]
    assert len(moved) > 10


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, undisturbed):
    tiny.train(tmp_path, 4, dtype="bfloat16")
    assert_near(tiny.train(tmp_path, 8, dtype="bfloat16")["small"], undisturbed)


@pytest.mark.parametrize("stage", [1, 2])
def test_zero_ends_where_stage_0_does(tmp_path, undisturbed, stage):
    assert_near(tiny.train(tmp_path, 8, zero_stage=stage, dtype="bfloat16")["small"], undisturbed)


@pytest.mark.parametrize("mask", ["none", "padding", "documents"])
def test_what_a_mask_hides_changes_nothing(device, mask):
    """Hidden states of the first 7 tokens are those of these 7 alone, and the same as a CPU's."""
    model = tiny.teacher_model()
    reads = Reads(hidden_states=frozenset({0, 4}))
    alone = tiny.batch(padding=False)
    alone = {name: tensor[:, :7] for name, tensor in alone.items() if name != "attention_mask"}
    batch = dict(alone) if mask == "none" else tiny.batch(padding=False)
    if mask == "padding":
        batch["attention_mask"][:, 7:] = 0
    elif mask == "documents":
        del batch["attention_mask"]
        batch["document_ids"] = (torch.arange(tiny.ROW_TOKENS) >= 7).long().expand(3, -1).contiguous()
    with torch.no_grad():
        expected = Encoder(model, reads)(alone).hidden_states[4]
        encoder = Encoder(tiny.teacher_model().to(device), reads)
        found = encoder({name: tensor.to(device) for name, tensor in batch.items()}).hidden_states[4]
    torch.testing.assert_close(found[:, :7].cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("same", [True, False], ids=["QQ", "QK"])
def test_relation_losses_are_those_of_float64(device, dtype, same):
    """Under autocast, as in a run: on a GPU float32 is multiplied as TF32, by Triton where that works."""
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(2, 70, 48, generator=generator).to(device, dtype) for _ in range(2)]
    student = [torch.randn(2, 70, 24, generator=generator).to(device, dtype).requires_grad_() for _ in range(2)]
    pairs = (teacher[0], teacher[0] if same else teacher[1]), (student[0], student[0] if same else student[1])
    mask = torch.ones(2, 70, dtype=torch.bool, device=device)
    mask[1, 30:] = False
    with torch.autocast(device.type, torch.bfloat16):
        loss = relation_loss(*pairs, mask, 3, "auto")
    found = [loss, *torch.autograd.grad(loss, student[:1] if same else student)]
    expected = exact_loss_and_gradients(*pairs, mask, 3)
    assert relative_error(found[0], expected[0]) < 1e-3
    assert all(relative_error(a, b) < 1e-2 for a, b in zip(found[1:], expected[1:], strict=True))


def test_distilbert_gives_the_same_loss_as_on_a_cpu(device):
    config = tiny.student_config(objective=[{"type": "distilbert"}])
    batch = tiny.batch()
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] % 4 > 0, -100)
    losses = []
    for where in (torch.device("cpu"), device):
        head = VocabularyHead(tiny.teacher_model(auto_class=AutoModelForMaskedLM))
        student = build_student(config, head.model.base_model, 1, teacher_head=head).to(where)
        teacher = Teacher(head.model.base_model, [student.teacher_reads], "float32", where, head)
        there = {name: tensor.to(where) for name, tensor in with_places(batch).items()}
        loss, _ = student(there, teacher(there))
        loss.backward()
        assert all(one.grad.isfinite().all() for one in student.parameters() if one.grad is not None)
        losses.append(loss.detach().cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; test_captured_teacher.py has a stand-in for graphs")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_captured_teacher_gives_the_features_of_one_launched_kernel_by_kernel(device, dtype):
    reads = Reads(hidden_states=frozenset({0, 2, 4}), projections=frozenset({3}))
    teacher = Teacher(tiny.teacher_model(), [reads], dtype, device)
    ours = captured(teacher, device)
    assert ours is not teacher
    for padding in (True, False, True):
        batch = {name: tensor.to(device) for name, tensor in tiny.batch(padding=padding).items()}
        expected = {layer: state.clone() for layer, state in teacher(batch).hidden_states.items()}
        found = ours(batch).hidden_states
        assert found.keys() == expected.keys()
        for layer, state in expected.items():
            torch.testing.assert_close(found[layer], state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; on the CPU tests/bench/test_gpu_check.py runs it")
def test_the_real_job_is_stopped_continued_and_published(tmp_path):
    facts = job(True, tmp_path)
    assert facts["relative distance"] < 1e-2 and facts["difference when published"] < 1e-3
    assert "cuda" in facts["ran on"][0]["device"] or "NVIDIA" in facts["ran on"][0]["device"]
