"""Training against the clock: ours and others' in turn, in one process, on the same numbers; and whole commands."""
