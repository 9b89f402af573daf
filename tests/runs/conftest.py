"""Runs with the same settings share their compiled program, as no two of them would in two processes."""
import jax
import pytest

from modern_cnn.runs import loop


@pytest.fixture(scope="module", autouse=True)
def programs():
    """A run on the digits takes the program of an earlier one with equal settings, where it would trace it again.

    A program is pure: it keeps nothing of a run. That a new process makes the same one is in test_resume.
    """
    made, Program = {}, loop.Program

    def program(asked, dataset):
        if asked.data.source != "digits" or asked.data.stream:
            return Program(asked, dataset)
        key = f"{asked.to_dict()} {dataset.spec} {jax.config.values['jax_debug_nans']}"
        if key not in made:
            made[key] = Program(asked, dataset)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Program", program)
        yield
