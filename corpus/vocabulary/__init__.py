"""Tokenizers: loaded, trained, trimmed."""
