"""The kinds of tasks: how each is read, encoded and scored. A new kind is a file here and a line of registry.py."""
