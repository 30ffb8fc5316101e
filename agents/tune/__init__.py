"""Tuning: the same search for every agent, on seeds that no comparison uses. `python -m agents.tune --help`."""
