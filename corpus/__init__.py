"""Text of any kind to a corpus of token blocks, and that corpus to rows for training."""
