"""Elastic students against students alone: configurations, and the time of a step."""
