"""Networks that are traced once, and a GoogLeNet that is short: it takes longest to trace and compile."""
import functools

import pytest

from modern_cnn.models import googlenet
from modern_cnn.weights import convert
from tests.models import torch_nets


@pytest.fixture(scope="module", autouse=True)
def entries_are_kept():
    """Most tests convert the same few networks, and each conversion would trace its network again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "_entries", functools.cache(convert._entries))
        yield


@pytest.fixture
def short_googlenet(monkeypatch):
    """Give GoogLeNet three Inception blocks instead of nine, and one auxiliary head; return the blocks."""
    few = tuple({label: blocks[label]} for label, blocks in zip(("3a", "4a", "5b"), googlenet.INCEPTIONS, strict=True))
    monkeypatch.setattr(googlenet, "INCEPTIONS", few)
    entries = getattr(convert._entries, "__wrapped__", convert._entries)
    monkeypatch.setattr(convert, "_entries", functools.cache(entries))  # those that are kept may be of nine blocks
    monkeypatch.setattr(torch_nets, "INCEPTIONS", {label: blocks[label] for blocks in few for label in blocks})
    return few
