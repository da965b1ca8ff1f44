"""Building a corpus: its steps, run by worker processes of one machine or by a Ray cluster."""
