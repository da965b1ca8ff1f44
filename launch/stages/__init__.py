"""launch/td.py: the stages of one task."""
