"""The job of launch/augment_task.py: copies of a task's texts, made in shards by worker processes."""
