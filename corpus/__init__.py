"""Build a corpus of token blocks from text of any kind, and read it as rows for training."""
