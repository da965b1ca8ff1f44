"""The job of launch/evaluate_tasks.py: fine-tuning every model on every task with several learning rates and seeds."""
