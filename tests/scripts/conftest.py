"""The scripts are run as in tests/test_cli.py."""
from tests.test_cli import script, server

__all__ = ["script", "server"]
