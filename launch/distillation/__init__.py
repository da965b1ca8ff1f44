"""The main job, launch/gd.py."""
