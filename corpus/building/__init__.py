"""The steps of a build, run by workers of one host or of Ray."""
