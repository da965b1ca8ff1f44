"""What a student is where no teacher says so: its family and its positions."""

from typing import Any

from pydantic import PositiveInt
from transformers import AutoConfig

from pretrain.encoder import Family, row_offset
from pretrain.settings import Settings


class ArchitectureConfig(Settings):
    """A family of encoders and the longest row it takes; whatever else a family has is transformers' default."""

    model_type: Family
    max_row_tokens: PositiveInt = 512

    def build(self, vocab_size: int, pad_token_id: int) -> Any:
        """The Hugging Face config for a tokenizer; layers and widths in it are the family's, a student has its own."""
        config = AutoConfig.for_model(self.model_type, vocab_size=vocab_size, pad_token_id=pad_token_id)
        config.max_position_embeddings = self.max_row_tokens + row_offset(config)
        return config
