"""What sentence-transformers files say of a model: pooling, map, prompts; and what is known not to be done here."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from pretrain.models.sentence_files import Prompts, read_prompts, read_recipe

IDENTITY = "torch.nn.modules.linear.Identity"


def write(folder, pooling='{"pooling_mode_mean_tokens": true}', prompts=None, dense=None, kinds=("Dense",)):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(pooling)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if dense is not None:
        for number, kind in enumerate(kinds, 2):
            (folder / f"{number}_{kind}").mkdir()
            (folder / f"{number}_{kind}/config.json").write_text(json.dumps(dense))
            save_file({"linear.weight": torch.ones(3, 2)}, folder / f"{number}_{kind}/model.safetensors")
            modules.append((f"{number}_{kind}", kind))
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules]
    (folder / "modules.json").write_text(json.dumps([*listed, {"path": "9", "type": "x.Normalize"}]))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def test_without_files_a_vector_is_the_mean(tmp_path):
    recipe, problem = read_recipe(str(tmp_path))
    assert (recipe.pooling, recipe.projection, recipe.is_recorded, problem) == ("mean", None, False, "")
    assert recipe.prompts.of("query") == ""


def test_pooling_map_and_prompts_are_read(tmp_path):
    prompts = {"prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": "query"}
    write(tmp_path, '{"pooling_mode_cls_token": true}', prompts, {"activation_function": IDENTITY, "bias": False})
    recipe, problem = read_recipe(str(tmp_path))
    assert recipe.pooling == "first" and recipe.projection.shape == (3, 2) and recipe.is_recorded and not problem
    assert [recipe.prompts.of(*names) for names in (("query",), ("document", "passage"), ())] == ["q: ", "p: ", "q: "]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pooling": '{"pooling_mode_max_tokens": true}'}, "pools in another way than mean, first or last token"),
        ({"pooling": '{"pooling_mode_mean_tokens": true, "include_prompt": false}', "prompts": {"prompts": {"a": "b"}}},
         r"leaves the tokens of prompts out \(include_prompt\), which is not done here"),
        ({"dense": {"activation_function": "torch.nn.modules.activation.Tanh"}}, "Dense after the pooling is more"),
        ({"dense": {"bias": True}}, "Dense after the pooling is more than linear maps without bias"),
        ({"dense": {}, "kinds": ("Dense", "LayerNorm")}, "Dense, LayerNorm after the pooling is more than linear"),
    ],
)  # fmt: skip
def test_what_is_not_done_here_is_said_and_the_mean_taken(tmp_path, given, message):
    recipe, problem = read_recipe(str(write(tmp_path, **given)))
    assert not recipe.is_recorded and recipe.pooling == "mean" and recipe.projection is None
    assert re.search(message, problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not JSON: it must be an object"),
        ('{"prompts": ["query: "]}', r'prompts must be texts by their names, such as {"query": "query: "}, got \['),
        ('{"prompts": {"a": 1}}', "prompts must be texts by their names"),
        ('{"prompts": {"a": "b"}, "default_prompt_name": "query"}', "default_prompt_name is 'query', but the"),
    ],
)
def test_damaged_prompts_are_named(tmp_path, text, message):
    (tmp_path / "config_sentence_transformers.json").write_text(text)
    with pytest.raises(ValueError, match=f"config_sentence_transformers.json: {message}"):
        read_prompts(str(tmp_path))


@pytest.mark.parametrize("text", ["{}", '{"prompts": null}', '{"prompts": {}, "default_prompt_name": null}'])
def test_no_prompts_are_no_error(tmp_path, text):
    (tmp_path / "config_sentence_transformers.json").write_text(text)
    assert read_prompts(str(tmp_path)) == Prompts()
