"""Retrieval and similarity of live students: as their published folders will be measured."""

import math

import pytest
import torch

from pretrain.models.encoder import Encoder, Reads
from pretrain.models.sentence_files import VectorRecipe
from pretrain.probes.live_probe import LabelledPairs, LiveProbe, TitledDocuments, own_recipe
from pretrain.probes.vectors import mean_pooled, retrieval_accuracy, similarity_auc
from pretrain.ranks.process_group import start_distributed
from pretrain.students.student import build_student
from tests.pretrain.probes.test_live_probe import texts, tokenizer
from tests.pretrain.tiny import student_config, teacher_model

TITLES, TEXTS = texts(30, 3)[0], texts(30, 4)[0]
LABELS = [index % 2 for index in range(30)]
SENTENCE = {"type": "sentence", "pooling": "first"}


def build(objective, **more):
    return build_student(student_config(objective=objective, **more), teacher_model(), seed=1)


def probe_of(prompt=""):
    device = start_distributed()
    settings = tokenizer(), 10, device, 0, 1, prompt
    documents, pairs = TitledDocuments(TITLES, TEXTS, *settings), LabelledPairs(TITLES, TEXTS, LABELS, *settings)
    probe = LiveProbe(4, device, "float32", documents=documents, pairs=pairs)
    reader = Encoder(teacher_model(), Reads()).eval()
    documents.teacher_vectors = probe.embed(documents, reader, VectorRecipe("first")).chunk(2)[1]
    reader.release()
    return probe


def scores(probe, student):
    found = probe.measure(0, [student])
    return {name.removeprefix("small/probe/"): value for name, value in found.items() if "/probe/" in name}


@pytest.mark.parametrize("prompt", ["", "丂七"])
def test_a_student_of_vectors_is_scored_by_its_pooling_its_map_and_its_prompt(prompt):
    student, probe = build([SENTENCE]), probe_of(prompt)
    found = scores(probe, student)
    recipe = VectorRecipe("first", student.objectives[0].projection.weight.detach())
    options = {"prompt": prompt, "max_tokens": 10}
    titles, documents = (
        mean_pooled(student.encoder.model, tokenizer(), side, recipe=recipe, **options) for side in (TITLES, TEXTS)
    )
    teacher = mean_pooled(teacher_model(), tokenizer(), TEXTS, recipe=VectorRecipe("first"), **options)
    assert titles.shape == teacher.shape == (30, 24)
    expected = {
        "retrieval": retrieval_accuracy(titles, documents)[0],
        "asymmetric_retrieval": retrieval_accuracy(titles, teacher)[0],
        "similarity_auc": similarity_auc(titles, documents, LABELS)[0],
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_student_of_other_objectives_has_no_place_in_the_teachers_space():
    found = scores(probe_of(), build([{"type": "hidden_states"}]))
    assert found.keys() == {"retrieval", "similarity_auc"}


def test_equal_widths_need_no_map():
    recipe = own_recipe(build([SENTENCE], hidden_size=24).objectives)
    assert recipe.is_recorded and recipe.projection is None and recipe.pooling == "first"


def test_vectors_that_are_not_finite_are_left_out_with_a_warning():
    student, probe = build([SENTENCE]), probe_of()
    with torch.no_grad():
        student.objectives[0].projection.weight.fill_(math.nan)
    with pytest.warns(UserWarning, match="step 0: small: retrieval is not finite; left out"):
        assert scores(probe, student) == {}
