"""Networks are traced once for the conversion of their weights."""
from tests.weights.conftest import entries_are_kept

__all__ = ["entries_are_kept"]
