"""Cleaning: rules that change or drop documents, each with a name and a count."""
