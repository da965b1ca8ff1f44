"""Augmentation: copies of a task's texts with other words, which a student learns the teacher's answers to."""
