"""Weights of an encoder that a model does not read are refused, those of heads and poolers are not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM

from pretrain.models.family import BERT_FAMILIES
from pretrain.models.pretrained import load_encoder, read_shape
from pretrain.models.teacher import load_teacher_head
from tests.pretrain.tiny import batch, teacher_model

HARMLESS = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.extra.weight")
HEADS = ("cls.seq_relationship.weight", "classifier.weight", "fit_dense.weight", "qa_outputs.bias")
UNREAD = ("encoder.LayerNorm.weight", "embeddings.word_norm.weight", "encoder.layer.4.output.dense.weight", "own.bias")


def save(model, folder: Path, rename=lambda name: name, **more: torch.Tensor) -> str:
    """Save a model with further weights under its base model's names, or under names that `rename` gives."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors") | more
    save_file(
        {rename(name): weight for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return str(folder)


def set_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForMaskedLM])
@pytest.mark.parametrize("family", BERT_FAMILIES)
def test_what_no_encoder_reads_may_be_there_and_nothing_else(tmp_path, family, auto_class):
    model = teacher_model(family, auto_class)
    prefix = "" if auto_class is AutoModel else f"{model.base_model_prefix}."
    extra = {f"{prefix}{name}": torch.ones(3) for name in HARMLESS} | {name: torch.ones(3) for name in HEADS}
    loaded = load_encoder(save(model, tmp_path / "whole", **extra))
    torch.testing.assert_close(loaded(**batch()).last_hidden_state, model.base_model(**batch()).last_hidden_state)
    for name in UNREAD[: 4 if prefix else 3]:
        folder = save(model, tmp_path / name, **extra, **{f"{prefix}{name}": torch.ones(3)})
        with pytest.raises(ValueError, match=rf"reads 1 weights of this encoder not at all.*: {prefix}{name}; "):
            load_encoder(folder)
        with pytest.raises(ValueError, match=rf": {prefix}{name}; "):
            load_teacher_head(folder)


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["encoder.layer.0.attention.self.distance_embedding.weight"], "relative positions are not computed by"),
        (["embeddings.task_type_embeddings.weight"], 'set "model_type": "ernie" and "use_task_id": true'),
        (
            ["encoder.layer.4.output.dense.weight", "encoder.layer.10.output.dense.bias"],
            "config.json says num_hidden_layers 4, but there are 11 layers",
        ),
        (["encoder.LayerNorm.weight"], "give config.json the model_type and the settings that it was trained with"),
    ],
)
def test_the_message_says_what_to_do(tmp_path, names, advice):
    folder = save(teacher_model(), tmp_path, **{name: torch.ones(3) for name in names})
    with pytest.raises(ValueError, match=f"{names[0]}.*{advice}"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("family", "prefix", "advice"),
    [
        ("roberta", "bert.", 'config.json says roberta; set "model_type": "bert" in its config.json'),
        ("bert", "electra.", 'config.json says bert; set "model_type": "electra"'),
        ("bert", "module.bert.", "save the model again without 'module.bert.', which a wrapper such as DataParallel"),
    ],
)
def test_weights_under_another_prefix_are_found(tmp_path, family, prefix, advice):
    folder = save(teacher_model(family), tmp_path, lambda name: prefix + name)
    first = rf"weights are missing, such as embeddings\.LayerNorm\.bias, but there is {prefix}embeddings"
    with pytest.raises(ValueError, match=f"{first}.*{advice}"):
        load_encoder(folder)


def test_weights_under_foreign_names_are_named(tmp_path):
    """As another toolkit saves them."""
    foreign = lambda name: name.replace("embeddings", "embedding").replace("layer.", "block.")  # noqa: E731
    with pytest.raises(ValueError, match=r"others are there, such as encoder\.block\..*: convert them to tran"):
        load_encoder(save(teacher_model(), tmp_path, foreign))


@pytest.mark.parametrize("family", BERT_FAMILIES)
def test_norms_under_the_names_of_tensorflow_are_read(tmp_path, family):
    """gamma and beta, as in the first conversions from TensorFlow."""
    model = teacher_model(family)
    renamed = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(  # noqa: E731
        "LayerNorm.bias", "LayerNorm.beta"
    )
    loaded = load_encoder(save(model, tmp_path, renamed))
    torch.testing.assert_close(loaded(**batch()).last_hidden_state, model(**batch()).last_hidden_state)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize("load", [load_encoder, read_shape])
def test_positions_that_are_not_computed_are_refused(tmp_path, kind, load):
    folder = save(teacher_model("electra"), tmp_path)
    set_config(tmp_path, position_embedding_type=kind)
    with pytest.raises(ValueError, match=f"position_embedding_type '{kind}' is not computed by transformers 5"):
        load(folder)
    set_config(tmp_path, position_embedding_type="absolute")
    load(folder)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_positions_that_are_numbered_from_a_padding_id_need_one(tmp_path, family):
    save(teacher_model(family), tmp_path)
    set_config(tmp_path, pad_token_id=None)
    with pytest.raises(ValueError, match=rf"pad_token_id is null, but {family} numbers positions from it on"):
        read_shape(str(tmp_path))
    save(teacher_model(), tmp_path)
    set_config(tmp_path, pad_token_id=None)
    assert read_shape(str(tmp_path)).max_row_tokens == 40
