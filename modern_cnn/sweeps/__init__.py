"""Sweeps: a grid of settings, one run at each point, and a report that compares them."""
