"""Students, objectives and the training step of general distillation."""
