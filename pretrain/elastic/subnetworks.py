"""The smaller sizes of an elastic student: their networks, their objectives, and which of them a step trains."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.elastic.config import ElasticConfig
from pretrain.elastic.size import Size
from pretrain.elastic.subnetwork import SubNetwork
from pretrain.models.encoder import Encoder, union
from pretrain.models.shape import EncoderShape
from pretrain.objectives.objective import Objective


class SubNetworks(nn.Module):
    """All sizes of a student but the largest, which is the student itself.

    Args:
        encoder: the student's, of which they are parts.
        objectives: the student's; those of its depth share them.
        build: returns the objectives of another depth, for the sizes of a sub-network.
        seed: for drawing sizes.
    """

    def __init__(
        self,
        config: ElasticConfig,
        encoder: Encoder,
        objectives: nn.ModuleList,
        build: Callable[[EncoderShape], list[Objective]],
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.sizes, self._seed = config, config.sizes(Size.of(encoder.shape)), seed
        self.objectives = nn.ModuleDict()  # by depth
        # The networks have no weights of their own, and in a dict they are not registered as submodules.
        self._parts: dict[Size, tuple[SubNetwork, nn.ModuleList]] = {}
        for size in self.sizes[1:]:
            network, depth = SubNetwork(encoder, size), str(size.num_layers)
            own: Any = objectives
            if size.num_layers < encoder.shape.num_layers:
                if depth not in self.objectives:
                    self.objectives[depth] = nn.ModuleList(build(network.shape))
                own = self.objectives[depth]
            network.reads = union(one.student_reads for one in own)
            self._parts[size] = network, own

    def parts(self) -> dict[Size, tuple[SubNetwork, nn.ModuleList]]:
        """Return the network and the objectives of every size but the largest."""
        return self._parts

    @property
    def narrows(self) -> bool:
        """Whether neurons are to be sorted: a size has fewer of them than the largest."""
        return self.config.rewire and self.sizes[-1].feed_forward < self.sizes[0].feed_forward

    def notes(self) -> str:
        """Return what is trained, in words."""
        every = self.config.sample == "all"
        a_step = "all of them" if every else "the largest, the smallest and one that is drawn"
        return f"holds {len(self.sizes)} sizes ({', '.join(map(str, self.sizes))}); a step trains {a_step}"

    def drawn(self, step: int | None) -> list[Size]:
        """Return the sizes, from the largest on, that a step trains; all of them for None."""
        return self.sizes if step is None else self.config.drawn(self.sizes, self._seed, step)

    def idle(self, drawn: Sequence[Size]) -> Tensor:
        """Return 0, with gradients of 0 for the objectives of depths that are not drawn.

        Parameters without gradients are skipped by the optimizer on one rank, and given zeros by DeepSpeed on several.
        """
        depths = {str(size.num_layers) for size in drawn}
        others = [one for depth, one in self.objectives.items() if depth not in depths]
        sums = [parameter.sum() for one in others for parameter in one.parameters()]
        return torch.stack(sums).sum() * 0.0 if sums else torch.zeros(())

    def every_objective(self) -> Iterator[Objective]:
        """Yield the objectives of all depths but the largest."""
        for objectives in self.objectives.values():
            assert isinstance(objectives, nn.ModuleList)
            for objective in objectives:
                assert isinstance(objective, Objective)
                yield objective
