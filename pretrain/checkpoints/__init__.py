"""Checkpoints: complete, verified, resumable on any number of ranks."""
