"""Measures of a model without fine-tuning: its vectors, its held-out relation loss, its size and speed."""
