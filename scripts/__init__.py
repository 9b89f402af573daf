"""Command-line programs: flags in, one call. `publish/` and `bench/` hold what needs a checkout."""
