"""Settings shared by all tests."""
import os

import hypothesis

# CI draws the same examples every time, so a red run can be repeated; at home every run draws new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("home", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "home")
