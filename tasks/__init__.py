"""Labelled tasks: reading, encoding, training on and scoring them."""
