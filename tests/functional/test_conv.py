import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from modern_cnn import functional as F
from modern_cnn.functional.conv import explicit_padding, pair
from tests.functional.oracle import WORKED, agree, close, drawn, nchw, nhwc, normal, pad, same_padding


@st.composite
def geometries(draw, dilate=True):
    """Draw (size, window, strides, dilation, padding for us, padding as pairs), with at least one window."""
    window = draw(st.tuples(*[st.integers(1, 4)] * 2))
    strides = draw(st.tuples(*[st.integers(1, 3)] * 2))
    dilation = draw(st.tuples(*[st.integers(1, 3)] * 2)) if dilate else (1, 1)
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    padding = draw(st.sampled_from(["VALID", "SAME", "int", "pairs"]))
    if padding == "int":
        padding = draw(st.integers(0, 2))
        pairs = ((padding, padding),) * 2
    elif padding == "pairs":
        pairs = padding = draw(st.tuples(*[st.tuples(*[st.integers(0, 3)] * 2)] * 2))
    else:
        pairs = ((0, 0), (0, 0))
    least = [1 if padding == "SAME" else max(1, e - sum(p)) for e, p in zip(extent, pairs, strict=True)]
    size = [draw(st.integers(n, n + 4)) for n in least]
    if padding == "SAME":
        pairs = same_padding(size, extent, strides)
    return size, window, strides, dilation, padding, pairs


@drawn(geometries(), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.booleans(),
       few=8, many=40)
def test_conv2d_is_torchs(geometry, groups, inputs, outputs, batch, biased):
    size, window, strides, dilation, padding, pairs = geometry

    def ours(x, kernel, bias=None):
        return F.conv2d(x, kernel, bias, strides=strides, padding=padding, dilation=dilation, groups=groups)

    def theirs(x, kernel, bias=None):
        x, kernel = pad(nchw(x), pairs).contiguous(), kernel.permute(3, 2, 0, 1).contiguous()  # torch needs it
        return nhwc(torch.nn.functional.conv2d(x, kernel, bias, strides, 0, dilation, groups))

    bias = [normal(groups * outputs)] if biased else []
    agree(ours, theirs, normal(batch, *size, groups * inputs), normal(*window, inputs, groups * outputs, seed=1), *bias)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("strides", [1, 2])
def test_integer_padding_is_torchs_own(padding, strides):
    """The test above pads the images for torch; here torch pads them."""
    def theirs(x, kernel):
        return nhwc(torch.nn.functional.conv2d(nchw(x), kernel.permute(3, 2, 0, 1), None, strides, padding))

    agree(lambda x, kernel: F.conv2d(x, kernel, strides=strides, padding=padding), theirs,
          normal(2, 6, 7, 3), normal(3, 3, 3, 4))


@drawn(geometries(dilate=False), st.integers(1, 2), st.integers(1, 3), st.sampled_from(["none", "channel", "pixel"]),
       few=5, many=25)
def test_locally_connected2d_is_a_dense_layer_per_pixel(geometry, inputs, outputs, bias):
    size, window, strides, _, padding, pairs = geometry
    out = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, pairs, window, strides, strict=True)]

    def theirs(x, kernel, bias=None):
        columns = torch.nn.functional.unfold(pad(nchw(x), pairs), window, stride=strides)  # [N, C * kh * kw, H' * W']
        matrices = kernel.permute(0, 1, 4, 2, 3, 5).reshape(out[0] * out[1], -1, outputs)
        y = torch.stack([columns[:, :, p] @ matrices[p] for p in range(len(matrices))], 1).reshape(2, *out, outputs)
        return y if bias is None else y + bias

    biases = {"none": [], "channel": [normal(outputs)], "pixel": [normal(*out, outputs)]}[bias]
    agree(lambda *arrays: F.locally_connected2d(*arrays, strides=strides, padding=padding), theirs,
          normal(2, *size, inputs), normal(*out, *window, inputs, outputs), *biases)


def test_locally_connected2d_with_equal_kernels_is_conv2d():
    x, kernel, bias = normal(2, 7, 6, 3), normal(3, 2, 3, 4), normal(4)
    shared = F.conv2d(x, kernel, bias, strides=2, padding="SAME")
    everywhere = np.broadcast_to(kernel, (*shared.shape[1:3], *kernel.shape))
    close(F.locally_connected2d(x, everywhere, bias, strides=2, padding="SAME"), shared)


def image(values):
    return jnp.asarray(values, float)[None, :, :, None]


def filters(values):
    return jnp.asarray(values, float)[:, :, None, None]


def test_the_textbooks_cross_correlations():
    example = WORKED["textbook"]["corr2d"]
    close(F.conv2d(image(example["X"]), filters(example["K"])), image(example["Y"]))

    example = WORKED["textbook"]["corr2d_multi_in"]
    x = jnp.asarray(example["X"]).transpose(1, 2, 0)[None]
    kernel = jnp.asarray(example["K"]).transpose(1, 2, 0)[..., None]
    close(F.conv2d(x, kernel), image(example["Y"]))
    outputs = jnp.asarray(WORKED["textbook"]["corr2d_multi_in_out"]["Y"]).transpose(1, 2, 0)[None]
    close(F.conv2d(x, jnp.concatenate([kernel, kernel + 1, kernel + 2], -1)), outputs)


def test_the_textbooks_edge_detector():
    example = WORKED["textbook"]["edge"]
    rows = image([example["row"]] * 6)
    close(F.conv2d(rows, filters(example["K"])), image([example["Y_row"]] * 6))
    assert not F.conv2d(rows.transpose(0, 2, 1, 3), filters(example["K"])).any()  # not the other direction


@pytest.mark.parametrize("example", WORKED["textbook"]["sizes_of_8x8"], ids=str)
def test_the_textbooks_output_sizes(example):
    high, wide = example["padding"]
    y = jax.eval_shape(lambda: F.conv2d(jnp.ones((1, 8, 8, 1)), jnp.ones((*example["kernel"], 1, 1)),
                                        strides=example["strides"], padding=((high, high), (wide, wide))))
    assert y.shape == (1, *example["out"], 1)


@pytest.mark.parametrize("example", WORKED["notebook"]["conv_shapes"], ids=str)
def test_the_notebooks_output_shapes(example):
    y = jax.eval_shape(lambda: F.conv2d(jnp.ones(example["x"]), jnp.ones(example["kernel"]), strides=example["strides"],
                                        padding=example["padding"], dilation=example["dilation"]))
    assert y.shape == tuple(example["y"])


def test_the_notebooks_numbers():
    notebook = WORKED["notebook"]
    first = notebook["first_window"]
    close(np.multiply(first["x"], first["kernel"]), first["product"])
    close(F.conv2d(image(first["x"]), filters(first["kernel"])), image([[first["sum"]]]))
    kernel = filters(notebook["kernel"])
    close(F.conv2d(image(np.arange(1, 17).reshape(4, 4)), kernel), image(notebook["conv_of_1_to_16"]))
    close(F.conv2d(image(np.arange(1, 26).reshape(5, 5)), kernel, strides=2),
          image(notebook["conv_of_1_to_25_stride_2"]))


def test_the_kernels_gradient_is_the_input_correlated_with_the_outputs_gradient():
    x, kernel, cotangent = image(normal(3, 3)), filters(normal(2, 2)), normal(2, 2, seed=1)
    _, pullback = jax.vjp(lambda kernel: F.conv2d(x, kernel), kernel)
    close(pullback(image(cotangent))[0][:, :, 0, 0], F.conv2d(x, filters(cotangent))[0, :, :, 0])


X, KERNEL = np.zeros((1, 5, 5, 4)), np.zeros((3, 3, 4, 2))


@pytest.mark.parametrize(("x", "kernel", "options", "words"), [
    (X[0], KERNEL, {}, r"images \[N, H, W, C\] and a kernel .* not \(5, 5, 4\)"),
    (X, KERNEL[0], {}, r"not \(1, 5, 5, 4\) and \(3, 4, 2\)"),
    (X, KERNEL[:, :, :3], {}, r"kernel \(3, 3, 3, 2\) with groups=1 does not fit 4 input channels"),
    (X, KERNEL, {"groups": 2}, "groups=2 does not fit 4 input channels"),
    (X, KERNEL[:, :, :1, :], {"groups": 4}, "groups must divide its fourth"),
    (X, KERNEL, {"groups": 0}, "groups=0"),
    (X, KERNEL, {"groups": 1.0}, "groups=1.0"),
    (X, KERNEL[:0], {}, "no size is 0"),
    (X, KERNEL[..., :0], {}, "no size is 0"),
    (X, KERNEL, {"strides": 0}, "strides must be a positive int or a pair .* not 0"),
    (X, KERNEL, {"strides": 1.5}, "strides must be .* not 1.5"),
    (X, KERNEL, {"dilation": (1, 2, 3)}, r"dilation must be .* not \(1, 2, 3\)"),
    (X, KERNEL, {"dilation": 3}, r"window of 7x7 pixels does not fit into an input of 5x5"),
    (X[:, :2], KERNEL, {}, "window of 3x3 pixels does not fit into an input of 2x5 .* too small"),
    (X, KERNEL, {"padding": "FULL"}, "'SAME', 'VALID' or .* not 'FULL'"),
    (X, KERNEL, {"padding": -1}, "padding must be an int >= 0.* not -1"),
    (X, KERNEL, {"padding": (1, 2)}, r"padding must be .* not \(1, 2\)"),
    (X, KERNEL, {"padding": ((1, 1),)}, "padding must be"),
    (X, KERNEL, {"padding": ((1, 1), (1, -1))}, "padding must be"),
    (X, KERNEL, {"padding": ((1, 1), (0, 0.5))}, "padding must be"),
    (X, KERNEL, {"padding": 1.5}, "padding must be .* not 1.5"),
], ids=str)
def test_conv2d_says_what_is_wrong(x, kernel, options, words):
    with pytest.raises(ValueError, match=words):
        F.conv2d(x, kernel, **options)


@pytest.mark.parametrize(("kernel", "words"), [
    (np.zeros((3, 3, 4, 2)), r"kernel \[H', W', kh, kw, C, O\], not \(1, 5, 5, 4\) and \(3, 3, 4, 2\)"),
    (np.zeros((3, 3, 3, 3, 5, 2)), r"not \(1, 5, 5, 4\) and \(3, 3, 3, 3, 5, 2\)"),
    (np.zeros((3, 3, 3, 3, 4, 0)), "no size of the kernel may be 0"),
    (np.zeros((3, 2, 3, 3, 4, 2)), "output is 3x3 pixels but the kernel holds weights for 3x2"),
    (np.zeros((1, 1, 6, 6, 4, 2)), "window of 6x6 pixels does not fit"),
], ids=lambda value: str(getattr(value, "shape", "")))
def test_locally_connected2d_says_what_is_wrong(kernel, words):
    with pytest.raises(ValueError, match=words):
        F.locally_connected2d(X, kernel)


KERNELS = [(3, 3, 1, 16), (3, 3, 2, 8), (1, 1, 16, 16), (2, 2, 16, 4), (3, 3, 16, 16)]  # of 16 channels


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16_is_rounded_once(kernel):
    """Forward and in both gradients, whatever the way: a part of the sum is not rounded before the next is added."""
    x, weights = normal(4, 9, 9, 16), normal(*kernel, seed=1)
    low = [array.astype(jnp.bfloat16) for array in (x, weights)]

    def results(x, weights):
        y, pullback = jax.vjp(partial(F.conv2d, groups=16 // kernel[2], padding=1), x, weights)
        return y, *pullback(normal(*y.shape, seed=2).astype(jnp.bfloat16).astype(y.dtype))

    for got, want in zip(results(*low), results(*(array.astype(jnp.float32) for array in low)), strict=True):
        assert got.dtype == jnp.bfloat16
        error = jnp.linalg.norm(got.astype(jnp.float32) - want) / jnp.linalg.norm(want)
        assert error < 2e-3  # one rounding is 1.7e-3


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_of_a_bias_is_summed_in_float32(kernel):
    """Sums of 1,296 numbers near 1: in bfloat16 they would stop growing at 256."""
    x, weights = (jnp.asarray(normal(16, 9, 9, 16), jnp.bfloat16), jnp.asarray(normal(*kernel), jnp.bfloat16))
    dy = jnp.asarray(1 + normal(16, 9, 9, kernel[3]), jnp.bfloat16)
    convolve = partial(F.conv2d, x, weights, groups=16 // kernel[2], padding="SAME")
    got, = jax.jit(lambda dy: jax.vjp(convolve, jnp.zeros(kernel[3], jnp.bfloat16))[1](dy))(dy)
    np.testing.assert_allclose(got.astype(jnp.float32), dy.astype(jnp.float32).sum((0, 1, 2)), rtol=2**-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_types_of_pixels_kernel_and_bias_may_differ(kernel):
    """The result has the widest type, as in jax.numpy, whatever the way."""
    values = np.ones((2, 9, 9, 16)), np.full(kernel, 0.1), np.ones(kernel[3])
    for types in ((jnp.uint8, jnp.float32, None), (jnp.int32, jnp.float32, jnp.float32),
                  (jnp.bfloat16, jnp.float32, jnp.float32), (jnp.float32, jnp.bfloat16, jnp.float32),
                  (jnp.bfloat16, jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32, jnp.bfloat16)):
        arrays = [type_ and jnp.asarray(value, type_) for value, type_ in zip(values, types, strict=True)]
        y = F.conv2d(*arrays, groups=16 // kernel[2])
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, math.prod(kernel[:3]) * 0.1 + (types[2] is not None), rtol=1e-2)
    mixed = F.conv2d_transpose(jnp.ones((1, 5, 5, 4), jnp.bfloat16), jnp.ones((3, 3, 2, 4), jnp.float32))
    assert mixed.dtype == jnp.float32
    whole = F.conv2d(*(jnp.full(shape, value, jnp.int32) for shape, value in (
        ((1, 1, 1, 1), 2**24 + 1), ((1, 1, 1, 1), 1), ((1,), 0))))
    assert whole.item() == 2**24 + 1  # whole numbers stay what they are


@pytest.mark.parametrize("kernel", KERNELS)
def test_arrays_of_numpy_become_arrays_of_jax(kernel):
    y = F.conv2d(np.ones((2, 9, 9, 16)), np.ones(kernel), np.ones(kernel[3]), groups=16 // kernel[2])
    assert isinstance(y, jax.Array)


@pytest.mark.parametrize("bias", [(7, 1, 1, 5), (1,), (), (5, 1), (6,)])
def test_a_bias_of_another_shape_is_refused(bias):
    """Broadcasting would make seven images of one."""
    x, bias = jnp.ones((1, 8, 8, 4)), jnp.ones(bias)
    for convolve in (partial(F.conv2d, x, jnp.ones((3, 3, 4, 5))),
                     partial(F.conv2d, x[..., :1], jnp.ones((3, 3, 1, 5))),
                     partial(F.conv2d_transpose, x, jnp.ones((3, 3, 5, 4))),
                     partial(F.locally_connected2d, x, jnp.ones((6, 6, 3, 3, 4, 5))),
                     partial(F.separable_conv2d, x, jnp.ones((3, 3, 4, 1)), jnp.ones((1, 1, 4, 5)))):
        with pytest.raises(ValueError, match=r"bias must be .*\(5,\), not \("):
            convolve(bias)


@pytest.mark.parametrize("groups", [1, 2, 10, 20])
def test_an_empty_batch_has_an_empty_result(groups):
    y = F.conv2d(jnp.zeros((0, 12, 12, 200)), jnp.ones((3, 3, 200 // groups, 200)), groups=groups)
    assert y.shape == (0, 10, 10, 200)


def test_sizes_may_be_numpy_integers_and_lists():
    """Configs give lists, and arithmetic on shapes gives numpy integers."""
    assert pair(np.int64(2), "strides") == (2, 2)
    assert pair([2, 3], "strides") == (2, 3)
    assert explicit_padding([[1, 2], [0, 1]], (5, 5), (3, 3), (1, 1)) == ((1, 2), (0, 1))
    assert explicit_padding("same", (5, 5), (3, 3), (2, 2)) == ((1, 1), (1, 1))
