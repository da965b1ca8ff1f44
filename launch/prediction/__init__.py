"""Labelling of new text with a task model, in files that others read, and the files of benchmarks."""
