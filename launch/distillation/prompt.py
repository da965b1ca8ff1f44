"""The teacher's prompt of a run: read by its name from the teacher's files, and as ids."""

import warnings
from dataclasses import dataclass

from corpus.rows.packing import MIN_ROW_TOKENS
from corpus.vocabulary.tokenizer import load_tokenizer
from launch.command_line.config_file import prefix_errors
from launch.distillation.config import RunConfig
from pretrain.models.sentence_files import leaves_prompt_out, read_prompts
from pretrain.objectives.sentence import SentenceConfig

_SAMPLE = "今天天气 fine"  # begins with a character that some tokenizers join to what stands before it


@dataclass(frozen=True)
class RunPrompt:
    """The prompt before every text of a run: its name, its text, its ids, and whether students read it too."""

    name: str
    text: str
    ids: tuple[int, ...]
    is_of_students: bool


def prompt_of_students(prompt: RunPrompt | None) -> tuple[int, ...]:
    """Return the ids that stand before the students' texts."""
    return prompt.ids if prompt and prompt.is_of_students else ()


def read_prompt(config: RunConfig) -> RunPrompt | None:
    """Return the prompt that `teacher.prompt` names; None without one.

    Raise ValueError if the teacher records no such prompt, leaves prompts out of its mean, or if the prompt fills the
    row. Warn if the tokenizer joins prompt and text, so that prompted vectors are not exactly the teacher's.
    """
    if config.teacher is None or config.teacher.prompt is None:
        return None
    name, path = config.teacher.prompt, config.teacher.path
    with prefix_errors("teacher.prompt"):
        texts = read_prompts(path).texts
        if name not in texts:
            example = '{"prompts": {"query": "query: "}}'
            raise ValueError(
                f"{path} records no prompt {name!r}, but {', '.join(map(repr, texts)) or 'none'}; name one of its "
                f"config_sentence_transformers.json, or write it there, such as {example}"
            )
        objectives = [one for student in config.students for one in student.objective]
        if leaves_prompt_out(path) and any(isinstance(o, SentenceConfig) and o.pooling == "mean" for o in objectives):
            raise ValueError(
                f"{path}/1_Pooling/config.json leaves the tokens of prompts out of the mean (include_prompt), which is "
                "not done here; leave out teacher.prompt"
            )
        tokenizer = load_tokenizer(path)
        ids, sample, both = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (texts[name], _SAMPLE, texts[name] + _SAMPLE)
        )
        left = config.corpus.row_tokens - len(ids)
        if left < MIN_ROW_TOKENS:
            raise ValueError(
                f"{name!r} takes {len(ids)} of the {config.corpus.row_tokens} tokens of a row and leaves {left}, but "
                f"at least {MIN_ROW_TOKENS} are needed: raise corpus.row_tokens"
            )
        if ids + sample != both:
            warnings.warn(
                f"teacher.prompt: the tokenizer of {path} joins {texts[name]!r} and a text, so the tokens of training "
                "differ a little from those of prompted texts",
                stacklevel=2,
            )
    return RunPrompt(name, texts[name], tuple(ids), config.teacher.prompts_students)
