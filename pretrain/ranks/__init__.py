"""The processes of a job: joined, agreeing, watched, stopped together."""
