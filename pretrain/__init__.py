"""General distillation: teacher, students, objectives and the training loop."""
