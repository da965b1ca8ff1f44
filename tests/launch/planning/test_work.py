"""The work of a run: what objectives read and compute, and the memory of a rank."""

import pytest

from launch.distillation.config import read_run_config
from launch.planning.work import read_work, relation_operations, vocabulary_operations


def test_operations_of_a_run_by_hand(config_values):
    """Teacher 4 x 24, read to its last state; students 2 x 12 with 20 inside, relations and three states."""
    work = read_work(read_run_config(config_values), None)
    teacher_layer = 2 * (4 * 24 * 24 + 2 * 24 * 32) + 4 * 16 * 24
    assert work.work.teacher_operations == 4 * teacher_layer
    student_layer = 2 * (4 * 12 * 12 + 2 * 12 * 20) + 4 * 16 * 12
    relations, projections = 3 * 2 * 16 * (24 + 3 * 12), 3 * 3 * 2 * 12 * 24
    for one in work.students:
        assert one.work.operations == 3 * 2 * student_layer + relations + projections
        assert one.work.relation_numbers == 3 * 4 * 16
        assert one.work.gradients == one.trained == one.cost.parameters + 3 * (12 + 1) * 24


def test_relations_alone_read_less(config_values):
    relations = {"type": "minilm_v2", "num_relation_heads": 4, "teacher_layer": 3}
    student = config_values["students"][0] | {"objective": [relations]}
    work = read_work(read_run_config(config_values | {"students": [student]}), None)
    assert work.teacher_reads.num_layers == 3
    whole = read_work(read_run_config(config_values), None)
    assert work.work.teacher_operations < 0.75 * whole.work.teacher_operations
    assert work.students[0].trained < work.students[0].cost.parameters
    assert work.memory_bytes(4, 4, 4) < whole.memory_bytes(4, 4, 4)


def test_losses_on_predictions_count_masked_tokens(config_values):
    student = config_values["students"][0] | {"objective": [{"type": "mlm"}]}
    corpus = config_values["corpus"] | {"masking": {"prob": 0.25}}
    config = read_run_config(config_values | {"students": [student], "corpus": corpus})
    [one] = read_work(config, None).students
    layers = 3 * one.cost.operations(one.reads, 16)
    assert one.work.operations == pytest.approx(layers + 0.25 * 6 * 12 * one.cost.num_ids)


@pytest.mark.parametrize(
    ("objective", "operations"),
    [({"type": "hidden_states", "projection": "shared"}, 3 * 3 * 2 * 12 * 24),
     ({"type": "pkd", "layer_map": [2]}, 3 * 2 * 12 * 24 / 16)],
)  # fmt: skip
def test_projections_count_as_often_as_they_are_used(config_values, objective, operations):
    student = config_values["students"][0] | {"objective": [objective]}
    [one] = read_work(read_run_config(config_values | {"students": [student]}), None).students
    assert one.work.operations == pytest.approx(3 * one.cost.operations(one.reads, 16) + operations)


def test_an_elastic_student_costs_what_its_sizes_cost_alone(config_values):
    """The largest of its memory, the sum of all operations; of more than three, sandwich trains one of the inner."""
    whole = config_values["students"][0]
    elastic = whole | {"elastic": {"depths": [1, 2], "feed_forward": [10, 20]}}

    def plan(*students):
        return read_work(read_run_config(config_values | {"students": list(students)}), None)

    alone = plan(*[whole | {"name": f"{depth}x{width}", "num_layers": depth, "intermediate_size": width}
                   for depth in (2, 1) for width in (20, 10)])  # fmt: skip
    largest, *inner, smallest = [one.work.operations for one in alone.students]
    [together] = plan(elastic).students
    assert together.work.operations == pytest.approx(largest + sum(inner) + smallest)
    [sandwich] = plan(elastic | {"elastic": elastic["elastic"] | {"sample": "sandwich"}}).students
    assert sandwich.work.operations == pytest.approx(largest + sum(inner) / 2 + smallest)
    assert together.cost == alone.students[0].cost
    assert together.loss_parameters == (3 + 2) * (12 + 1) * 24  # projections of two and of one layer's states
    assert plan(elastic).teacher_reads == alone.teacher_reads


def test_electra_pays_for_its_generator(config_values):
    corpus = config_values["corpus"] | {"masking": {"prob": 0.25}}
    student = {key: config_values["students"][0][key] for key in ("name", "num_layers", "hidden_size", "optimizer",
               "num_attention_heads", "intermediate_size", "schedule")}  # fmt: skip
    student |= {"architecture": {"model_type": "electra"}, "init": {"embeddings": "scratch"}}

    def plan(ratio):
        objective = {"type": "replaced_tokens", "generator": {"width_ratio": ratio, "layer_ratio": 0.5}}
        values = config_values | {"teacher": None, "students": [student | {"objective": [objective]}], "corpus": corpus}
        [one] = read_work(read_run_config(values), (300, 0)).students
        return one

    half, whole = plan(0.5), plan(1.0)
    predictions = 0.25 * 6 * 12 * 300
    assert half.work.operations > 3 * half.cost.operations(half.reads, 16) + predictions
    assert whole.work.operations > half.work.operations and whole.loss_parameters > half.loss_parameters > 0


def test_losses_of_one_token():
    assert relation_operations(24, 12, 10) == 2 * 10 * 24 + 3 * 2 * 10 * 12
    assert vocabulary_operations(24, 12, 100) == 2 * 100 * 24 + 3 * 2 * 100 * 12


def test_memory_grows_with_rows_and_shrinks_with_shards(config_values):
    work = read_work(read_run_config(config_values), None)
    few, many = work.memory_bytes(1, 4, 4), work.memory_bytes(9, 4, 4)
    assert many - few == pytest.approx(8 * (work.memory_bytes(2, 4, 4) - few))
    saved = work.memory_bytes(1, 4, 4) - work.memory_bytes(1, 4, 4, shards=2)
    assert saved == pytest.approx(4 * sum(one.trained for one in work.students))


def test_a_student_without_a_teacher_needs_the_corpus(config_values):
    student = {key: config_values["students"][0][key] for key in ("name", "num_layers", "hidden_size", "optimizer",
               "num_attention_heads", "intermediate_size", "schedule")}  # fmt: skip
    student |= {"architecture": {"model_type": "bert"}, "objective": [{"type": "mlm"}]}
    student |= {"init": {"embeddings": "scratch"}}
    corpus = config_values["corpus"] | {"masking": {"prob": 0.15}}
    config = read_run_config(config_values | {"teacher": None, "students": [student], "corpus": corpus})
    with pytest.raises(ValueError, match="without a teacher needs the corpus for its vocabulary: build it first"):
        read_work(config, None)
    work = read_work(config, (300, 0))
    assert work.teacher is None and work.work.teacher_operations == 0
    assert work.students[0].cost.num_ids == 300 and work.memory_bytes(2, 4, 4) > 0
