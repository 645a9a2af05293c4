"""Scores as `evaluate` metrics that need no network: its own load() fetches a script from the hub for every name."""
