"""Hugging Face encoders: loading them, reading their features, and the frozen teacher."""
