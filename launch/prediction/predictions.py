"""Predictions of a file. Those of finished parts are kept beside the output, and a stopped command goes on from them.

.<output>.predictions/answers.jsonl    the answers so far
.<output>.predictions/state.json       how many of them are whole, what they are made with, and what was counted
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from launch.command_line.config_file import changed_keys
from launch.prediction.model import Predictor
from pretrain.durable import sync, write_durably, writing
from tasks.evaluation import predict
from tasks.examples import Example, text_of
from tasks.kinds.kind import Input
from tasks.kinds.registry import KINDS
from tasks.readers import encode

PART_INPUTS = 16_384  # predicted and saved together: a whole development file of CLUE's, in the batches of `score`
_NUM_SHOWN = 3  # problems in a message


class Predictions:
    """The answers so far.

    Args:
        output: the file that is written in the end.
        made_with: what the answers depend on. ValueError if there are answers made with something else.
    """

    def __init__(self, output: Path, made_with: Mapping[str, Any]) -> None:
        self.folder = output.with_name(f".{output.name}.predictions")
        self.answers = self.folder / "answers.jsonl"
        self._state_file = self.folder / "state.json"
        self.state: dict[str, Any] = {
            "made_with": made_with, "inputs": 0, "bytes": 0, "empty": 0, "cut": 0, "bad": 0, "problems": []
        }  # fmt: skip
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._state_file.is_file():
            self._resume(made_with)

    def _resume(self, made_with: Mapping[str, Any]) -> None:
        advice = f"remove {self.folder} to begin again, or give another --output"
        try:
            state = json.loads(self._state_file.read_text(encoding="utf-8"))
            changed = changed_keys(state["made_with"], dict(made_with))
            is_whole = self.answers.stat().st_size >= state["bytes"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._state_file}: not written by this command; {advice}") from error
        if changed:
            raise ValueError(f"{self.folder}: was started with another {', '.join(changed)}; {advice}")
        if not is_whole:
            raise ValueError(f"{self.answers}: is shorter than it was written; {advice}")
        self.state = state

    def add(self, answers: Sequence[Mapping[str, Any]], **counts: int) -> None:
        """Keep the answers of a part, and add to the counts."""
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers).encode()
        with writing(self.answers):
            self.answers.touch()
            with self.answers.open("r+b") as file:
                file.truncate(self.state["bytes"])  # what a kill left of another part
                file.seek(self.state["bytes"])
                file.write(lines)
            sync(self.answers)
        self.state["bytes"] += len(lines)
        self.state["inputs"] += len(answers)
        for name, count in counts.items():
            self.state[name] += count
        problems = [*self.state["problems"], *(one["problem"] for one in answers if "problem" in one)]
        self.state["problems"] = problems[:_NUM_SHOWN]
        write_durably(self._state_file, json.dumps(self.state, ensure_ascii=False, indent=1))

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the answers."""
        with self.answers.open(encoding="utf-8", newline="\n") as file:
            yield from map(json.loads, file)

    def remarks(self, name: str, row_tokens: int) -> list[str]:
        """Return what a reader of the answers should know of the inputs, a sentence each."""
        total, cut, empty, bad = (self.state[key] for key in ("inputs", "cut", "empty", "bad"))
        said = []
        if cut:
            said.append(f"{name}: {cut:,} of {total:,} texts are cut at {row_tokens} tokens")
        if empty:
            said.append(f"{name}: {empty:,} of {total:,} texts are empty, and answered as such")
        if bad:
            shown = "; ".join(self.state["problems"])
            said.append(f"{name}: {bad:,} of {total:,} records cannot be read and have no answer: {shown}")
        return said

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def remove_if_empty(self) -> None:
        """Remove the folder if no answers are kept in it."""
        if not self.state["inputs"]:
            self.remove()


def predict_inputs(
    predictor: Predictor,
    inputs: Iterable[Input],
    kept: Predictions,
    with_probabilities: bool,
    needs_all: bool,
    check_stop: Callable[[], None],
) -> None:
    """Predict all inputs after those whose answers are kept already.

    Args:
        needs_all: refuse inputs that cannot be read, since what is written must have an answer to each.
        check_stop: called before every batch; raises Stopped if asked to stop.

    Raises:
        ValueError: if nothing at all can be read, or not all where all is needed.
    """
    remaining = islice(inputs, kept.state["inputs"], None)
    for part in parts(remaining, PART_INPUTS):
        bad = [one.problem for one in part if one.example is None]
        if bad and (needs_all or len(bad) == len(part)):
            what = "a submission needs all answers" if needs_all else "no record can be read"
            raise ValueError(f"{bad[0]}\n{what}; {len(bad):,} of {len(part):,} records have such problems")
        answers, num_cut = _answers(predictor, part, with_probabilities, check_stop)
        empty = sum(not all(text.strip() for text in text_of(one.example)) for one in part if one.example)
        kept.add(answers, cut=num_cut, empty=empty, bad=len(bad))


def parts(inputs: Iterable[Input], most: int) -> Iterator[list[Input]]:
    """Yield the inputs in parts of about `most`; blanks of a group stay together, as their answers are not free."""
    part: list[Input] = []
    for one in inputs:
        if len(part) >= most and (_group(one) is None or _group(one) != _group(part[-1])):
            yield part
            part = []
        part.append(one)
    if part:
        yield part


def _group(one: Input) -> int | None:
    group = getattr(one.example, "group", -1)
    return None if group < 0 else group


def _answers(
    predictor: Predictor, part: Sequence[Input], with_probabilities: bool, check_stop: Callable[[], None]
) -> tuple[list[dict[str, Any]], int]:
    """Return the answers to a part, in its order, and the number of its texts that are cut."""
    task, labels, tokenizer = predictor.task, predictor.labels, predictor.tokenizer
    kind = KINDS[task.kind]
    examples: list[Example] = [one.example for one in part if one.example is not None]
    encoded = encode(examples, task, labels, tokenizer)

    def logits_of(batch: Any) -> Any:
        check_stop()
        return predictor.logits(batch)

    logits = predict(logits_of, encoded.rows, tokenizer.pad_token_id, progress="predicting")
    found = iter(kind.answers(logits, encoded.rows, examples, labels))
    sure = iter(kind.probabilities(logits, encoded.rows, examples, labels) if with_probabilities else ())
    fields = KINDS[task.kind].answer_fields
    answers: list[dict[str, Any]] = []
    for one in part:
        if one.example is None:
            answers.append({"id": one.id, **dict.fromkeys(fields), "problem": one.problem})
            continue
        answer = {"id": one.id, **next(found)}
        answers.append(answer | {"probabilities": next(sure)} if with_probabilities else answer)
    return answers, encoded.num_cut
