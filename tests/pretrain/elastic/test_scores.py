"""Scores and losses of every size: the probe's are those of the cut models, metrics are means of drawn steps."""

import pytest
import torch

from pretrain.elastic.slices import cut_model
from pretrain.models.encoder import Encoder, Reads
from pretrain.probes.heldout import HeldoutRows, heldout_relation_losses
from pretrain.probes.live_probe import LiveProbe
from pretrain.ranks.process_group import start_distributed
from pretrain.students.student import build_student
from pretrain.training.metrics import read_metrics, tensorboard_tag
from tests.pretrain.tiny import batch, student_config, teacher_model, train

CPU = torch.device("cpu")


def test_the_probe_scores_every_size_as_a_model_of_its_own():
    start_distributed()
    student = build_student(student_config(elastic={"depths": [1], "feed_forward": [8]}), teacher_model(), 1)
    heldout = HeldoutRows([batch()], Encoder(teacher_model(), Reads()), [12], CPU, "float32", 0, 1)
    found = LiveProbe(1, CPU, "float32", heldout=heldout).measure(0, [student])
    models = {"": student.encoder.model}
    models |= {f"/{size}": cut_model(student.encoder.model, size) for size in student.inner.sizes[1:]}
    wanted = heldout_relation_losses(teacher_model(), models, [batch()])
    assert len(wanted) == 4 and len(set(wanted.values())) == 3, "relations of one layer do not read its feed-forward"
    for name, value in wanted.items():
        assert found[f"small/probe/heldout_relation_loss{name}"] == pytest.approx(value, rel=1e-4)
    assert student.training


def test_the_loss_of_a_size_is_the_mean_over_the_steps_that_drew_it(tmp_path):
    """Were it divided by all steps, sizes that are drawn now and then would look much better than they are."""
    elastic = {"feed_forward": [4, 8, 12], "sample": "sandwich"}
    train(tmp_path, 8, [student_config(elastic=elastic)])
    lines = read_metrics(tmp_path)
    losses = [value for line in lines for key, value in line.items() if key.startswith("small/loss/")]
    assert len(losses) > 2 * len(lines) and max(losses) < 1.2 * min(losses)


def test_losses_of_sizes_are_a_group_of_their_own():
    assert tensorboard_tag("small/loss") == "loss/small"
    assert tensorboard_tag("small/loss/2x600") == "loss/2x600/small"
    assert tensorboard_tag("small/probe/neighbour_accuracy/2x600") == "probe/neighbour_accuracy/2x600/small"
