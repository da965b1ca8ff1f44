"""The tokens of a step are counted over all its micro-batches and ranks, and means over them are means of the step."""

import json
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from pretrain.models.encoder import real_tokens
from pretrain.objectives.layers import HiddenStatesConfig, TinyBERTConfig
from pretrain.objectives.vocabulary import MaskedLMConfig
from pretrain.training.micro_batches import step_counts
from tests.pretrain.objectives.test_vocabulary import labelled_batch, models
from tests.pretrain.tiny import shape, spawn

CPU = torch.device("cpu")


def parts_of(batch):
    """A batch of four rows, and its two halves, with different numbers of tokens in their rows."""
    rows = [0, 1, 2, 1]
    whole = {name: tensor[rows] for name, tensor in batch.items()}
    return whole, [{name: tensor[start : start + 2] for name, tensor in whole.items()} for start in (0, 2)]


def test_counts_of_a_step():
    whole, parts = parts_of(labelled_batch())
    counts = {name: value.item() for name, value in step_counts(parts, CPU).items()}
    real, pairs = (9 + 4 + 9 + 4) / 2, (81 + 16 + 81 + 16) / 2
    labels = {"num_labelled": 4 / 2, "num_known": 4 / 2, "num_ordered": 0}
    assert counts == {"num_real": real, "num_pairs": pairs} | labels
    unknown = [part | {"labels": part["labels"].masked_fill(part["labels"] >= 0, -101)} for part in parts]
    assert step_counts(unknown, CPU)["num_labelled"] == 2 and step_counts(unknown, CPU)["num_known"] == 0
    assert step_counts([whole | {"order_labels": torch.tensor([0, 1, -100, 1])}], CPU)["num_ordered"] == 3
    documents = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, -1, -1, -1, -1, -1]] * 2)
    pairs = step_counts([whole | {"document_ids": documents}], CPU)["num_pairs"]
    assert pairs == 2 * (4 + 49 + 1 + 9)
    unmasked = {name: tensor for name, tensor in whole.items() if name != "attention_mask"}
    assert step_counts([unmasked], CPU)["num_real"] == 36
    answers = {"start_positions": torch.tensor([1, -100, 3, 4]), "end_positions": torch.tensor([1, -100, 3, 4])}
    assert step_counts([{"input_ids": whole["input_ids"], **answers}], CPU)["num_labelled"] == 6


def test_micro_batches_with_the_counts_of_their_step_average_to_the_whole():
    whole, parts = parts_of(labelled_batch())
    teacher, student = models()
    both = [shape(), shape(2, 12)]
    objectives = [
        MaskedLMConfig(type="mlm").build(*both),
        HiddenStatesConfig(type="hidden_states").build(*both),
        TinyBERTConfig(type="tinybert", layer_map=[2, 4]).build(*both),
    ]

    def features_of(model, rows):
        chosen = type(model)(head=model.head)
        for kind in ("hidden_states", "query", "key", "value"):
            for layer, tensor in getattr(model, kind).items():
                getattr(chosen, kind)[layer] = tensor[rows]
        return chosen

    counts = step_counts(parts, CPU)
    assert not torch.equal(real_tokens(parts[0])[0], real_tokens(parts[0])[1]), "rows are ragged"
    for objective in objectives:
        assert objective.reduction == "tokens"
        expected = objective(features_of(teacher, [0, 1, 2, 1]), features_of(student, [0, 1, 2, 1]), whole)
        found = [
            objective(features_of(teacher, rows), features_of(student, rows), part | counts)
            for rows, part in zip(([0, 1], [2, 1]), parts, strict=True)
        ]
        for name, value in expected.items():
            torch.testing.assert_close((found[0][name] + found[1][name]) / 2, value)


def count_on_rank(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=2))
    batch = {"input_ids": torch.zeros(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    batch["attention_mask"][0, 1 + rank :] = 0
    counts = {name: value.item() for name, value in step_counts([batch, batch], CPU).items()}
    (folder / f"counts_{rank}").write_text(json.dumps(counts))
    dist.destroy_process_group()


@pytest.mark.job
def test_counts_are_over_all_ranks(tmp_path):
    spawn(count_on_rank, (tmp_path,))
    found = [json.loads((tmp_path / f"counts_{rank}").read_text()) for rank in range(2)]
    labels = {"num_labelled": 0, "num_known": 0, "num_ordered": 0}
    assert found == [{"num_real": (6 + 7) / 2, "num_pairs": (26 + 29) / 2} | labels] * 2
