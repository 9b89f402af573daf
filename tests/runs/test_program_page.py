"""The example of docs/program.md runs as it stands, and writes no file."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKS = """
import jax, numpy
assert jax.tree.all(jax.tree.map(numpy.array_equal, state.variables, trained.state.variables))
assert logits.shape == (2, 10)
"""


@pytest.mark.parametrize("length", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_the_example_trains_by_hand_and_by_fit_and_writes_nothing(length, script, tmp_path, tmp_path_factory):
    """As it is printed (slow), and with fewer epochs."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/program.md").read_text(), re.DOTALL)
    example = "".join(blocks)
    assert example.count("config.epochs = 10\n") == 1
    example = example.replace("config.epochs = 10\n", f"config.epochs = {length}\n")
    file = tmp_path_factory.mktemp("page") / "example.py"
    file.write_text(example + CHECKS)
    run = script(file)
    assert run.code == 0, run.err
    *epochs, last = run.out.splitlines()
    assert len(epochs) == length
    by_hand, by_fit = epochs[-1].rpartition(" ")[2], re.search(r"'accuracy': ([\d.]+)", last)[1]
    assert f"{float(by_fit):.3f}" == by_hand
    assert float(by_fit) > (0.93 if length == 10 else 0.5)
    assert list(tmp_path.iterdir()) == []
