"""Settings shared by all tests."""
import os

import hypothesis
import pytest

from modern_cnn import runtime

runtime.set_xla_flags()  # the programs that the scripts run are those that are tested

# CI draws the same examples every time, so a red run can be repeated; at home every run draws new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("home", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "home")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded data and compiled programs of the tests go to a folder of their own, and start empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODERN_CNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("MODERN_CNN_DATA", raising=False)
        yield
