"""A law of the tiny teacher: exact points of a known curve."""

import pytest

from launch.distillation.config import read_run_config
from launch.planning.fitting import Point, fit_law
from launch.planning.law import Curve, Setting, TeacherSizes, common_config
from pretrain.models.pretrained import load_encoder, read_shape
from pretrain.models.teacher import fingerprint

KNOWN = Curve(floor=0.4, size=(30.0, 0.3), tokens=(20.0, 0.5), kept=(0.5, 1.2))


def known_points(sizes=(500, 1_000, 2_000, 8_000), lengths=(200, 400, 800, 3_200)):
    losses = [(size, tokens, KNOWN.loss(size, tokens)) for size in sizes for tokens in lengths]
    return [
        Point(
            run=f"r{tokens}", student=f"s{size}", parameters=size, tokens=tokens, loss=loss, kept=KNOWN.kept_score(loss)
        )
        for size, tokens, loss in losses
    ]


@pytest.fixture(scope="session")
def setting(config_file):
    config = read_run_config(config_file)
    path = config.teacher.path
    return Setting(
        teacher=path,
        teacher_fingerprint=fingerprint(load_encoder(path)),
        teacher_sizes=TeacherSizes.of(read_shape(path)),
        corpus="0" * 64,
        heldout="1" * 64,
        heldout_rows=8,
        relation_heads=4,
        task="tnews",
        teacher_score=0.5,
        config=common_config(config, config.students[0]),
    )


@pytest.fixture(scope="session")
def law(setting):
    return fit_law(setting, known_points(), "exact")


@pytest.fixture
def law_file(law, tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(law.model_dump_json())
    return path
