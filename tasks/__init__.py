"""Labelled tasks: read, trained on in stages, scored."""
