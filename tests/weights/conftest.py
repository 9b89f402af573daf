"""Networks are traced once."""
import functools

import pytest

from modern_cnn.weights import convert


@pytest.fixture(scope="module", autouse=True)
def entries_are_kept():
    """Most tests convert the same few networks, and each conversion would trace its network again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "_entries", functools.cache(convert._entries))
        yield
