"""The configuration of an elastic student: the sizes that it holds, and how many of them each step trains."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue, PositiveInt, field_validator

from pretrain.elastic.size import Size, cut_shape
from pretrain.models.shape import EncoderShape
from pretrain.objectives.objective import ObjectiveConfig
from pretrain.settings import Problems, Settings


class ElasticConfig(Settings):
    """Sub-networks that are trained together with the student, as parts of its weights: every depth with every width.

    The student's own num_layers and intermediate_size are the largest of them, whether listed or not. A sub-network
    of 2 of 4 layers keeps layers 2 and 4, one of 600 neurons the first 600 of each feed-forward layer. Every
    objective is applied to every size, and the loss is the mean over sizes, so that gradient norms are those of a
    student alone. Objectives with projections have a set for each depth, which widths share.
    """

    depths: list[PositiveInt] = Field(default_factory=list)  # numbers of layers; empty: num_layers alone
    feed_forward: list[PositiveInt] = Field(default_factory=list)  # neurons a layer; empty: intermediate_size alone
    sample: Literal["all", "sandwich"] = "all"  # sizes of a step; sandwich: largest, smallest and one drawn by the step
    rewire: bool = True  # sort neurons by importance at the start; false for a student that was elastic before
    heads: JsonValue = None  # must be left out

    @field_validator("heads")
    @classmethod
    def _check_heads(cls, value: JsonValue) -> None:
        if value is not None:
            raise ValueError(
                "fewer heads of the same width are no ordinary model: transformers divides hidden_size among "
                "num_attention_heads, so nothing could load them; use depths and feed_forward, or a student of its own"
            )

    @field_validator("depths", "feed_forward")
    @classmethod
    def _check_repeated(cls, value: list[int]) -> list[int]:
        if repeated := sorted({one for one in value if value.count(one) > 1}):
            raise ValueError(f"{repeated[0]} is listed more than once")
        return value

    def sizes(self, whole: Size) -> list[Size]:
        """Return all sizes of a student, the largest first, which is the whole."""
        depths, widths = {whole.num_layers, *self.depths}, {whole.feed_forward, *self.feed_forward}
        return sorted((Size(depth, width) for depth in depths for width in widths), reverse=True)

    def drawn(self, sizes: Sequence[Size], seed: int, step: int) -> list[Size]:
        """Return the sizes, of these in descending order, that a step trains: a function of seed and step alone."""
        inner = sizes[1:-1]
        if self.sample == "all" or len(inner) < 2:
            return list(sizes)
        return [sizes[0], inner[int(np.random.default_rng([seed, step]).integers(len(inner)))], sizes[-1]]

    def problems(
        self, teacher: EncoderShape | None, student: EncoderShape, objectives: Sequence[ObjectiveConfig]
    ) -> Problems:
        """Yield (key, message) for sizes that do not nest in this student, and objectives that one cannot serve."""
        nests = True
        for key, values, most, name in (
            ("depths", self.depths, student.num_layers, "num_layers"),
            ("feed_forward", self.feed_forward, student.intermediate_size, "intermediate_size"),
        ):
            if larger := [one for one in values if one > most]:
                nests = False
                yield (
                    f"elastic.{key}",
                    f"a sub-network is a part of the student, whose {name} is {most}, got {larger[0]}; leave it out, "
                    f"or increase {name}",
                )
        if not nests or teacher is None:
            return
        for depth in sorted({*self.depths} - {student.num_layers}):
            inner = cut_shape(student, Size(depth, student.intermediate_size))
            for index, objective in enumerate(objectives):
                for key, message in objective.problems(teacher, inner):
                    yield (
                        "elastic.depths",
                        f"objective.{index} ({objective.type}) cannot serve {depth} layers: {key}: {message}; or leave "
                        "this depth out",
                    )
