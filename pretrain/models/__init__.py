"""Encoders of transformers as this project reads them: the frozen teacher among them."""
