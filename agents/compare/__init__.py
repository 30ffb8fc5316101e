"""Comparisons of agents over many seeds: `python -m agents.compare`."""
