"""What a student is worth before any fine-tuning."""
