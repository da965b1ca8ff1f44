"""The job of launch/td.py, the stages of a task."""
