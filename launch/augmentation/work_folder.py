"""The work folder of an augmentation, by which a stopped command goes on.

.<output>.augmentation/made_with.json    what the copies depend on
.<output>.augmentation/words.json        the words to choose from, for neighbours
.<output>.augmentation/00000.jsonl       the copies of the first shard of records, whole or absent
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.command_line.config_file import changed_keys
from launch.command_line.fingerprints import file_inputs, model_inputs, tokenizer_of
from launch.command_line.output_folder import new_output_folder
from pretrain.durable import sync, try_lock, write_durably, writing
from pretrain.models.teacher import fingerprint, load_teacher_head
from tasks.augmentation.augmenter import HEAD_WORDS
from tasks.augmentation.config import AugmentationConfig
from tasks.config import TaskConfig

SHARD_RECORDS = 64  # augmented and saved together
FILE = "augmented.jsonl"


@dataclass(frozen=True)
class WorkFolder:
    """The folder, beside the output that is made in the end."""

    output: Path

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.output.with_name(f".{self.output.name}.augmentation")

    def shard(self, index: int) -> Path:
        """Return the file of a shard."""
        return self.path / f"{index:05d}.jsonl"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder inside the block. Raise ValueError if it cannot be written, or another process holds it."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("a")
        with file:
            try:
                mine = try_lock(file)
            except OSError:
                mine = True  # a file system without locks
            if not mine:
                raise ValueError(f"{self.path}: another process augments to {self.output}; wait for it or stop it")
            yield

    def begin(self, task: TaskConfig, config: AugmentationConfig, words: Sequence[str], num_shards: int) -> list[int]:
        """Begin the folder, or go on with it; return the shards that are not done.

        Raise ValueError if it was begun with something else.
        """
        made_with = {
            "task": task.model_dump(mode="json"), "augmentation": config.model_dump(mode="json"),
            "files": file_inputs(task), "model": _model_inputs(config), "num_shards": num_shards,
        }  # fmt: skip
        found = self._made_with()
        advice = f"remove {self.path} to begin again, or give another --output"
        if found is None:
            write_durably(self.path / "words.json", json.dumps(words, ensure_ascii=False))
            write_durably(self.path / "made_with.json", json.dumps(made_with, ensure_ascii=False, indent=1))
        elif changed := changed_keys(found, made_with):
            raise ValueError(f"{self.path}: was started with another {', '.join(changed)}; {advice}")
        elif self.words() != list(words):
            raise ValueError(f"{self.path}: was started with other words; {advice}")
        return [index for index in range(num_shards) if not self.shard(index).is_file()]

    def settings(self) -> tuple[TaskConfig, AugmentationConfig]:
        """Return the configurations that the folder was begun with."""
        made_with = self._made_with()
        assert made_with is not None
        task, config = (json.dumps(made_with[name]) for name in ("task", "augmentation"))
        return TaskConfig.model_validate_json(task), AugmentationConfig.model_validate_json(config)

    def words(self) -> list[str]:
        """Return the words to choose from."""
        found: list[str] = json.loads((self.path / "words.json").read_text(encoding="utf-8"))
        return found

    def _made_with(self) -> dict[str, Any] | None:
        path = self.path / "made_with.json"
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        except ValueError as error:
            raise ValueError(f"{path}: not written by this command; remove {self.path} to begin again") from error

    def write(self, index: int, copies: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Write a shard's copies."""
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for own in copies for one in own)
        write_durably(self.shard(index), "".join(lines))

    def finish(self, num_shards: int) -> None:
        """Join the shards to the output folder, and remove this one."""
        with new_output_folder(self.output) as partial:
            with (partial / FILE).open("wb") as file:
                for index in range(num_shards):
                    file.write(self.shard(index).read_bytes())
            sync(partial / FILE)
            shutil.copy(self.path / "made_with.json", partial)
        shutil.rmtree(self.path)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the copies of the output."""
        with (self.output / FILE).open(encoding="utf-8", newline="\n") as file:
            yield from map(json.loads, file)


def _model_inputs(config: AugmentationConfig) -> dict[str, str]:
    """Return fingerprints of the model, with its masked-language head where that is used, and of its tokenizer."""
    if config.source != "masked_language":
        return model_inputs(config.model)
    head = load_teacher_head(config.model, *HEAD_WORDS)
    return {"weights": fingerprint(head.model), "tokenizer": tokenizer_of(config.model)}
