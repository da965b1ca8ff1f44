"""The rules that change or drop documents, each named and counted."""
