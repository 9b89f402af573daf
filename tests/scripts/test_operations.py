"""The parts of a step's time add up, and each operation is described as in the program."""
import jax
import jax.numpy as jnp
import pytest

from modern_cnn import functional as F
from modern_cnn.errors import UserError
from scripts.bench import operations


@pytest.mark.parametrize(("name", "kind"), [
    ("jit(train_step)/jvp(LeNet)/conv1/conv_general_dilated", "convolutions, products"),
    ("jit(train_step)/jvp(LeNet)/dense1/dot_general", "convolutions, products"),
    ("jit(train_step)/transpose(jvp(LeNet))/conv1/checkpoint/transpose()/transpose", "transposes"),
    ("jit(train_step)/transpose(jvp(LeNet))/avg_pool/broadcast_in_dim", "pooling"),
    ("jit(train_step)/jvp(ResNet)/norm1/reduce_sum", "normalisation"),
    ("jit(train_step)/jvp(LeNet)/div", operations.OTHER),
    ("aten::mkldnn_convolution", "convolutions, products"),
    ("aten::convolution_backward", "convolutions, products"),
    ("aten::mm", "convolutions, products"),
    ("aten::max_pool2d_with_indices_backward", "pooling"),
    ("aten::native_batch_norm", "normalisation"),
    ("aten::threshold_backward", operations.OTHER),
])
def test_kinds(name, kind):
    assert operations.kind_of(name) == kind


def test_time_is_divided_among_those_at_work():
    edges = [(0, "a"), (10, "end: a"), (4, "b"), (8, "end: b"), (20, "c"), (21, "end: c"), (30, "a"), (35, "end: a")]
    assert operations._shares(edges) == {"a": 8 + 5, "b": 2, "c": 1}


def test_a_convolution_and_its_gradients():
    x, kernel = jnp.ones((8, 16, 16, 16)), jnp.ones((3, 3, 16, 32))
    step = jax.jit(lambda x, kernel: jax.vjp(lambda *args: F.conv2d(*args, padding=1), x, kernel)[1](
        jnp.ones((8, 16, 16, 32)))).lower(x, kernel).compile()
    found = operations.xla_operations(step, lambda: jax.block_until_ready(step(x, kernel)), 3)
    convolutions = [each for each in found if each.gflops]
    assert convolutions
    for each in convolutions:
        assert each.kind == "convolutions, products"
        operations_done = round(each.gflops * 1e6 * each.ms)  # a whole number, but for rounding
        assert 1 <= operations_done / (2 * 8 * 16 * 16 * 32 * 9 * 16) <= (18 * 18 / 16 / 16) ** 2
    assert sum(operations.by_kind(found).values()) == pytest.approx(sum(each.ms for each in found))
    assert [each.ms for each in found] == sorted((each.ms for each in found), reverse=True)


def test_a_trace_without_operations():
    step = jax.jit(lambda x: x + 1).lower(1.0).compile()
    with pytest.raises(UserError, match="recorded no operations"):
        operations.xla_operations(step, lambda: None)


def test_the_script_prints_tables(script):
    done = script("benchmark.py", "--operations", "--models=lenet_bn", "--batch_size=8", "--rounds=2")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in lines if line.startswith("|")}
    assert all(float(cell) > 0 for kind in ("convolutions, products", "normalisation") for cell in rows[kind])
    assert sum("`forward: " in line or "`backward: " in line for line in lines) >= 3
