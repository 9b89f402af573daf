"""Fixtures of tests/test_cli.py, which run the scripts."""
from tests.test_cli import script, server

__all__ = ["script", "server"]
