"""launch/report.py: a page that compares models."""
