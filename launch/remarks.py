"""What a run is told of its configuration as it begins: not wrong, and perhaps not what was meant."""

import math
import warnings
from collections.abc import Mapping, Sequence

from launch.run_config import RunConfig
from pretrain.layer_objectives import TinyBERTConfig
from pretrain.relation_objectives import MiniLMConfig, MiniLMv2Config

MAX_EPOCHS = 100  # more of them are warned of


def warn_of_lanes(num_lanes: int, world_size: int) -> None:
    """Say so where every rank reads bytes whose rows are another's."""
    factor = world_size // math.gcd(world_size, num_lanes)
    if factor > 1:
        warnings.warn(
            f"{world_size} ranks read each byte {factor} times: corpus.num_lanes ({num_lanes}) is no multiple of them; "
            "the key belongs to the run, so it is chosen before its first step",
            stacklevel=2,
        )


def warn_of_epochs(config: RunConfig, rows_per_epoch: int) -> None:
    """Warn of a run that reads its corpus more often than anybody means to: a small corpus under a shipped config."""
    steps, rows = config.training.total_steps, config.deepspeed.train_batch_size
    epochs = steps * rows / rows_per_epoch
    if epochs > MAX_EPOCHS:
        few = max(1, MAX_EPOCHS * rows_per_epoch // rows)
        warnings.warn(
            f"training.total_steps: {steps:,} steps of {rows} rows are {epochs:,.0f} epochs of this corpus, which has "
            f"{rows_per_epoch:,} rows; give a larger corpus or fewer steps ({MAX_EPOCHS} epochs are {few:,})",
            stacklevel=2,
        )


def warn_of_documents(config: RunConfig) -> None:
    """Say so where losses compare tokens of documents that do not attend to each other."""
    comparing = (MiniLMv2Config, MiniLMConfig, TinyBERTConfig)
    objectives = [one for student in config.students for one in student.objective]
    names: list[str] = sorted({one.type for one in objectives if isinstance(one, comparing)})
    names += ["probe.heldout"] if config.probe and config.probe.heldout else []
    if config.corpus.attend_within_documents and names:
        warnings.warn(
            f"corpus.attend_within_documents: {', '.join(names)} compare every two tokens of a row, those of different "
            "documents too, to which neither model attends; leave the key out, or match hidden_states or pkd alone",
            stacklevel=2,
        )


def warn_of_unreached(config: RunConfig, unreached: Mapping[str, Sequence[str]]) -> None:
    """Say so where the probe's neighbours are found by states that pass through weights nothing trains."""
    if not config.probe or not config.probe.task:
        return
    for student, names in unreached.items():
        if between := [name for name in names if not name.startswith("pooler.")]:
            warnings.warn(
                f"probe.task: {student}: its last states, by which neighbours are found, pass through {len(between)} "
                f"tensors that no objective trains ({between[0]} to {between[-1]}): the neighbours say less than the "
                "losses; hidden_states beside what it has would reach them",
                stacklevel=2,
            )
