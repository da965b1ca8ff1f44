"""The common parts of all commands: configuration files, flags, the next command to type."""
