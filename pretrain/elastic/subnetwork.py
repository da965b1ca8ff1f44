"""A sub-network that computes with views of the whole model's weights, so that its gradients are theirs."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from pretrain.elastic.size import Size
from pretrain.elastic.slices import Cut, empty_model, tensors_of
from pretrain.models.encoder import Encoder, Features, Reads


class SubNetwork(nn.Module):
    """A part of an encoder that is called like an encoder. It has no weights of its own.

    Its modules are those of the ordinary smaller model, without weights, and are called with views of the whole
    model's: what is trained here is what publishing cuts out.

    Args:
        encoder: the whole; its dropout must be set already.

    Attributes:
        shape: the sizes.
        reads: what `forward` returns.
    """

    def __init__(self, encoder: Encoder, size: Size) -> None:
        super().__init__()
        self._cut = Cut(encoder.model, size)
        skeleton = empty_model(encoder.model, self._cut.config)
        probs = {module.p for module in encoder.model.modules() if isinstance(module, nn.Dropout)}
        for module in skeleton.modules():
            if isinstance(module, nn.Dropout):
                module.p = next(iter(probs))  # Student sets all of them alike
        reader, self.reads = Encoder(skeleton, Reads()), Reads()
        self.shape, self._names = reader.shape, list(tensors_of(skeleton))
        # In tuples they are not registered as submodules: nothing is trained, moved or saved twice
        self._whole, self._reader = (encoder.model,), (reader.to("meta"),)

    def forward(self, batch: Mapping[str, Tensor], reads: Reads | None = None) -> Features:
        """Run the sub-network and return the features, as `Encoder.forward` does."""
        reader, whole = self._reader[0].train(self.training), tensors_of(self._whole[0])
        tensors = {f"model.{name}": self._cut.take(name, whole) for name in self._names}
        features: Features = functional_call(reader, tensors, (batch, reads or self.reads))
        return features


Network = Encoder | SubNetwork
