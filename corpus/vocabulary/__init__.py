"""Tokenizers: load, train, trim, measure."""
