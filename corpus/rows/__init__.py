"""Rows for training: their order, packing, masking, and batches of them."""
