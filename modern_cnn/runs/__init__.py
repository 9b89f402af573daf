"""A run's directory and the loop that fills it: locks, checkpoints, logs, and how a finished run is loaded."""
