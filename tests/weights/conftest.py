"""Networks as in tests/models."""
from tests.models.conftest import entries_are_kept, short_googlenet

__all__ = ["entries_are_kept", "short_googlenet"]
