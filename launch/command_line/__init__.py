"""What the commands share: configuration files, flags, the next command to type."""
