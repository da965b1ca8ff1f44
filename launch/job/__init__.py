"""One rank of a job: its place among the others, its messages, its run folder, its exit code."""
