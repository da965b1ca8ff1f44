"""The commands, at the top, and in the folders the modules that they are made of."""
