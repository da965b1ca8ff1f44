"""What a run will cost and what to expect of it, before it is started: `gd.py --plan`."""
