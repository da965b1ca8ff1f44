"""The distillation losses, and the list of them that configurations name."""
