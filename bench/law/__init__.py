"""The law of `gd.py --plan`: its runs, and the script that fits it."""
