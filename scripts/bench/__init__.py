"""Benchmarks: our training beside that of others, whole commands by the clock, an estimate for many devices."""
