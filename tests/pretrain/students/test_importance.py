"""What is kept of a teacher by its activations: as slow references say, the same again, refused where it cannot be."""

import pytest
import torch

from pretrain.models.shape import EncoderShape
from pretrain.models.structure import layers_of
from pretrain.students.importance import head_sizes, important_channels, important_layers, neuron_sizes
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, student_config, teacher_model

FAMILIES = ["bert", "roberta"]
SAMPLE = batch(5)
MASK = SAMPLE["attention_mask"].bool()


def seen_by(model):
    """The inputs and outputs of every module for the sample."""
    seen = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda module, args, kwargs, out, name=name: seen.update(
                {name: (args[0] if args else kwargs.get("hidden_states"), out[0] if isinstance(out, tuple) else out)}
            ),
            with_kwargs=True,
        )
    model(input_ids=SAMPLE["input_ids"], attention_mask=SAMPLE["attention_mask"])
    return seen


@pytest.mark.parametrize("family", [*FAMILIES, "modernbert", "qwen3"])
def test_layers_that_change_their_input_most_are_chosen_in_order(family):
    model, changes = teacher_model(family, num_hidden_layers=6, initializer_range=0.3), []
    seen, names = seen_by(model), {module: name for name, module in model.named_modules()}
    for layer in layers_of(model):
        before, after = (states[MASK] for states in seen[names[layer]])
        cosines = [float(a @ b / a.norm() / b.norm()) for a, b in zip(before, after, strict=True)]
        changes.append(1 - sum(cosines) / len(cosines))
    wanted = sorted(sorted(range(1, 7), key=lambda number: -changes[number - 1])[:3])
    assert important_layers(model, SAMPLE, 3) == wanted == important_layers(model, SAMPLE, 3)


def mean_then_norm(values):
    """[rows, tokens, parts] to [parts]: means over the real tokens of a row, root of the sum of squares over rows."""
    means = [row[mask].mean(0) for row, mask in zip(values, MASK, strict=True)]
    return sum(mean**2 for mean in means) ** 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_a_slow_reference(family):
    model = teacher_model(family)
    seen = seen_by(model)
    layers = [model.encoder.layer[1], model.encoder.layer[3]]
    heads, neurons = head_sizes(model, layers, SAMPLE), neuron_sizes(model, layers, SAMPLE)
    for place, number in enumerate((1, 3)):
        given = seen[f"encoder.layer.{number}.attention.output.dense"][0]
        each = torch.stack([part.norm(dim=-1) for part in given.split(6, dim=-1)], -1)
        torch.testing.assert_close(heads[place], mean_then_norm(each))
        given = seen[f"encoder.layer.{number}.output.dense"][0]
        torch.testing.assert_close(neurons[place], mean_then_norm(given.abs()))
    norms = [out for name, (_, out) in seen.items() if name.endswith("LayerNorm")]
    wanted = sum(mean_then_norm(out.abs()) for out in norms).topk(12).indices.sort().values
    kept = important_channels(model, SAMPLE, 12)
    assert len(norms) == 9
    assert torch.equal(kept.argmax(0), wanted) and torch.equal(kept.sum(0), torch.ones(12))


def start(model, init):
    config = student_config(init=init, num_attention_heads=2)
    return build_student(config, model, seed=0, sample=SAMPLE)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_option_chooses_and_does_so_again(family):
    model = teacher_model(family, num_hidden_layers=5)
    plain = start(model, {"layers": [1, 3]}).state_dict()
    for option in ("heads", "neurons", "channels"):
        first, again = (start(model, {"layers": [1, 3], option: "activations"}).state_dict() for _ in range(2))
        assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
        assert any(not torch.equal(tensor, plain[name]) for name, tensor in first.items())


def test_chosen_layers_are_said_and_start_as_listed_ones(capsys):
    model = teacher_model(num_hidden_layers=5, initializer_range=0.3)
    numbers = important_layers(model, SAMPLE, 2)
    chosen = start(model, {"layers": "importance"}).state_dict()
    assert capsys.readouterr().err == f"[rank 0] starts from layers {numbers[0]}, {numbers[1]} of its teacher\n"
    listed = start(model, {"layers": numbers}).state_dict()
    assert all(torch.equal(tensor, listed[name]) for name, tensor in chosen.items())


def test_chosen_layers_of_the_students_own_sizes_are_copied():
    model = teacher_model("modernbert", num_hidden_layers=6, initializer_range=0.3)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "architecture": {"model_type": "modernbert"}}
    config = student_config(**sizes, init={"layers": "importance"})
    student = build_student(config, model, seed=0, sample=SAMPLE).encoder.model
    for layer, number in zip(student.layers, important_layers(model, SAMPLE, 2), strict=True):
        assert torch.equal(layer.mlp.Wi.weight, model.layers[number - 1].mlp.Wi.weight)


def test_chosen_channels_are_the_teachers_coordinates_and_the_way_back():
    model = teacher_model()
    student = start(model, {"channels": "activations"})
    kept = important_channels(model, SAMPLE, 12).argmax(0)
    words = [one.get_input_embeddings().weight for one in (student.encoder.model, model)]
    assert torch.equal(words[0], words[1][:, kept])
    assert torch.equal(student.objectives[1].projections[0].weight.argmax(0), kept)


@pytest.mark.parametrize("init", [{"layers": "importance"}, {"channels": "activations"}, {"layers": "last"}])
def test_without_text_nothing_is_chosen(init):
    with pytest.raises(ValueError, match="projecting layers and choosing by activations need a sample of text"):
        build_student(student_config(init=init), teacher_model(), seed=0)


SAME = {"hidden_size": 24, "intermediate_size": 32}
NO_HEADS = (
    "init.heads",
    "chooses heads of projected layers for a student with fewer: leave it out, or give init.layers and "
    "num_attention_heads below the teacher's 4",
)
NO_NEURONS = (
    "init.neurons",
    "chooses neurons of projected layers for a student with fewer: leave it out, or give init.layers and "
    "intermediate_size below the teacher's 32",
)
NO_CHANNELS = (
    "init.channels",
    "chooses coordinates of the teacher's embeddings for a narrower student, where both are BERT's and as wide as the "
    "layers: leave it out",
)
NO_LAYERS = ("init.layers", "importance cannot choose 5 of the teacher's 4 layers; list layers instead")
SHARED = ("init.layers", "must be scratch because the layers of an ALBERT teacher share their weights")


@pytest.mark.parametrize(
    ("init", "sizes", "family", "problem"),
    [
        ({"layers": "importance"}, {"num_layers": 5}, "bert", NO_LAYERS),
        ({"layers": "importance"}, SAME, "albert", SHARED),
        ({"heads": "activations"}, {"num_attention_heads": 2}, "bert", NO_HEADS),
        ({"heads": "activations", "layers": "uniform"}, {}, "bert", NO_HEADS),
        ({"neurons": "activations", "layers": "last"}, SAME, "bert", NO_NEURONS),
        ({"channels": "activations"}, SAME, "bert", NO_CHANNELS),
        ({"channels": "activations", "embeddings": "scratch"}, {}, "bert", NO_CHANNELS),
        ({"channels": "activations"}, {}, "electra", NO_CHANNELS),
        ({"channels": "activations"}, {"architecture": {"model_type": "bert"}}, "modernbert", NO_CHANNELS),
    ],
)
def test_where_nothing_is_to_be_chosen_that_is_said(init, sizes, family, problem):
    config = student_config(init=init, **sizes, objective=[{"type": "hidden_states", "layer_map": "last"}])
    assert problem in list(config.problems(EncoderShape.of(teacher_model(family).config)))


@pytest.mark.parametrize("key", [{"channels": "activations"}, {"heads": "activations"}, {"layers": "importance"}])
def test_a_published_student_leaves_nothing_to_choose(tmp_path, key):
    teacher_model().save_pretrained(tmp_path)
    config = student_config(num_layers=4, **SAME, init={"student": str(tmp_path)} | key)
    message = ("init.student", "gives all weights, so the other keys of init must be left out")
    assert list(config.problems(EncoderShape.of(teacher_model().config))) == [message]
