"""launch/evaluate_tasks.py: every model on every task, by several learning rates and seeds."""
