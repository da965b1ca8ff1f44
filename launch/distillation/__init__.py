"""The job of launch/gd.py, general distillation."""
