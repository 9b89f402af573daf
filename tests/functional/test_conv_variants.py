"""Transposed, depthwise and separable convolutions, and a convolution as a matrix."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st

from modern_cnn import functional as F
from tests.functional.oracle import WORKED, agree, close, drawn, nchw, nhwc, normal, pad, same_padding

small = st.integers(1, 2)


def both(values):
    return st.tuples(values, values)


def image(values):
    return jnp.asarray(values, float)[None, :, :, None]


def filters(values):
    return jnp.asarray(values, float)[:, :, None, None]


@st.composite
def forward(draw):
    """Draw (size, window, options for us, padding as pairs) of a convolution with at least one window."""
    window, strides, dilation = draw(both(st.integers(1, 3))), draw(both(st.integers(1, 3))), draw(both(small))
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    padding = pairs = draw(st.just("SAME") | both(both(st.integers(0, 2))))
    least = [1 if padding == "SAME" else max(1, e - sum(p)) for e, p in zip(extent, pairs, strict=False)]
    size = [draw(st.integers(n, n + 3)) for n in least]
    if padding == "SAME":
        pairs = same_padding(size, extent, strides)
    return size, window, {"strides": strides, "padding": padding, "dilation": dilation}, pairs


@st.composite
def transposed(draw):
    """Draw (size, window, options for us, pairs to cut off the full transpose, where negative numbers add zeros)."""
    size, window, strides = (draw(both(st.integers(1, 3))) for _ in range(3))
    dilation = draw(both(small))
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    options = {"strides": strides, "dilation": dilation}
    if draw(st.booleans()):
        # TensorFlow's rule: of (H - 1) * stride + extent pixels H * stride are kept; the odd one is cut at the end
        surplus = [e - s for e, s in zip(extent, strides, strict=True)]
        return size, window, {**options, "padding": "SAME"}, [(t // 2, t - t // 2) if t > 0 else (0, t)
                                                               for t in surplus]
    padding = draw(both(both(st.integers(0, 2))))
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilation, strict=True)]
    cut = [(lo, hi - e) for (lo, hi), e in zip(padding, extra, strict=True)]
    assume(all((n - 1) * s + e > sum(c) for n, s, e, c in zip(size, strides, extent, cut, strict=True)))
    return size, window, {**options, "padding": padding, "output_padding": extra}, cut


@drawn(transposed(), small, small, small, st.booleans(), few=6, many=30)
def test_conv2d_transpose_is_torchs(geometry, groups, inputs, outputs, biased):
    size, window, options, cut = geometry

    def theirs(x, kernel, bias=None):
        y = torch.nn.functional.conv_transpose2d(nchw(x).contiguous(), kernel.permute(3, 2, 0, 1).contiguous(), None,
                                                 options["strides"], 0, 0, groups, options["dilation"])
        y = nhwc(pad(y, [(-lo, -hi) for lo, hi in cut]))
        return y if bias is None else y + bias

    agree(lambda *arrays: F.conv2d_transpose(*arrays, groups=groups, **options), theirs,
          normal(2, *size, groups * inputs), normal(*window, outputs, groups * inputs, seed=1),
          *([normal(groups * outputs)] if biased else []))


@pytest.mark.parametrize(("strides", "padding", "output_padding", "dilation", "groups"), [
    (1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 2, (2, 0), 1, 2), ((1, 2), 1, (1, 1), 2, 1), (2, 3, 1, 2, 2),
], ids=str)
def test_the_whole_transpose_is_torchs_own(strides, padding, output_padding, dilation, groups):
    """The test above cuts the result of torch; here torch does it."""
    def theirs(x, kernel, bias):
        return nhwc(torch.nn.functional.conv_transpose2d(nchw(x), kernel.permute(3, 2, 0, 1), bias, strides, padding,
                                                         output_padding, groups, dilation))

    agree(lambda *arrays: F.conv2d_transpose(*arrays, strides=strides, padding=padding, output_padding=output_padding,
                                             dilation=dilation, groups=groups),
          theirs, normal(2, 4, 5, 4), normal(3, 3, 3, 4), normal(3 * groups))


@drawn(forward(), small, small, small, few=4, many=20)
def test_conv2d_transpose_is_the_transpose_of_conv2d(geometry, groups, inputs, outputs):
    """<conv2d(a), b> = <a, conv2d_transpose(b)>, with the same kernel and the same options."""
    size, window, options, pairs = geometry
    kernel = normal(*window, inputs, groups * outputs)
    a = normal(2, *size, groups * inputs)
    y = F.conv2d(a, kernel, groups=groups, **options)
    b = normal(*y.shape, seed=1)
    left_over = [(n + sum(p) - (k - 1) * d - 1) % s for n, p, k, d, s in zip(
        size, pairs, window, options["dilation"], options["strides"], strict=True)]
    if options["padding"] == "SAME":  # with sizes that are not a multiple of the stride, the transpose needs numbers
        multiple = all(n % s == 0 for n, s in zip(size, options["strides"], strict=True))
        options, left_over = (options, 0) if multiple else ({**options, "padding": pairs}, left_over)
    back = F.conv2d_transpose(b, kernel, groups=groups, output_padding=left_over, **options)
    assert back.shape == a.shape
    close((y * b).sum(), (a * back).sum())


def test_conv2d_transpose_restores_the_textbooks_shape():
    example = WORKED["textbook"]["trans_conv_shapes"]
    x = nhwc(torch.ones(example["x"])).numpy()
    kernel = np.ones((example["kernel"], example["kernel"], x.shape[3], example["channels"]), x.dtype)
    options = {"strides": example["strides"], "padding": example["padding"]}
    y = F.conv2d(x, kernel, **options)
    assert y.shape == (1, 6, 6, example["channels"])
    assert F.conv2d_transpose(y, kernel, **options).shape == x.shape


def test_the_textbooks_transposed_convolutions():
    example = WORKED["textbook"]["trans_conv"]
    x, kernel = image(example["X"]), filters(example["K"])
    for options, name in (({}, "stride_1"), ({"strides": 2}, "stride_2"), ({"padding": 1}, "padding_1")):
        np.testing.assert_array_equal(F.conv2d_transpose(x, kernel, **options), image(example[name]))


def test_the_notebooks_transposed_convolutions():
    notebook = WORKED["notebook"]
    kernel = filters(notebook["kernel"])
    np.testing.assert_array_equal(F.conv2d_transpose(image(notebook["conv_of_1_to_16"]), kernel),
                                  image(notebook["transpose_of_that_stride_1"]))
    x, y = image(notebook["conv_of_1_to_25_stride_2"]), image(notebook["transpose_of_that_stride_2"])
    np.testing.assert_array_equal(F.conv2d_transpose(x, kernel, strides=2), y)
    np.testing.assert_array_equal(F.conv2d_transpose(x, kernel, strides=2, output_padding=1),
                                  jnp.pad(y, ((0, 0), (0, 1), (0, 1), (0, 0))))


@pytest.mark.parametrize(("size", "window", "strides", "out"), [(3, 3, 2, 6), (3, 1, 2, 6), (4, 5, 1, 4), (2, 2, 3, 6)])
def test_a_same_transpose_multiplies_the_size_by_the_stride(size, window, strides, out):
    x, kernel = np.ones((1, size, size, 2)), np.ones((window, window, 3, 2))
    assert F.conv2d_transpose(x, kernel, strides=strides, padding="SAME").shape == (1, out, out, 3)


@drawn(forward(), st.integers(1, 3), st.integers(1, 3), st.booleans(), few=4, many=20)
def test_depthwise_conv2d_is_torchs(geometry, channels, multiplier, biased):
    size, window, options, pairs = geometry

    def theirs(x, kernel, bias=None):
        weight = kernel.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, *window)
        return nhwc(torch.nn.functional.conv2d(pad(nchw(x), pairs).contiguous(), weight, bias, options["strides"], 0,
                                               options["dilation"], channels))

    agree(lambda *arrays: F.depthwise_conv2d(*arrays, **options), theirs,
          normal(2, *size, channels), normal(*window, channels, multiplier, seed=1),
          *([normal(channels * multiplier)] if biased else []))


def test_depthwise_channels_come_in_tensorflows_order():
    """Output channel c * M + m is input channel c with kernel[:, :, c, m], each a convolution of one channel."""
    x, kernel = normal(2, 5, 6, 3), normal(3, 2, 3, 2)
    y = F.depthwise_conv2d(x, kernel)
    for c in range(3):
        for m in range(2):
            close(y[..., [c * 2 + m]], F.conv2d(x[..., [c]], kernel[:, :, [c], m, None]))


@drawn(forward(), small, small, st.integers(1, 3), st.booleans(), few=4, many=10)
def test_separable_conv2d_is_torchs(geometry, channels, multiplier, outputs, biased):
    size, window, options, pairs = geometry

    def theirs(x, depthwise, pointwise, bias=None):
        weight = depthwise.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, *window)
        y = torch.nn.functional.conv2d(pad(nchw(x), pairs).contiguous(), weight, None, options["strides"], 0,
                                       options["dilation"], channels)
        return nhwc(torch.nn.functional.conv2d(y, pointwise.permute(3, 2, 0, 1), bias))

    agree(lambda *arrays: F.separable_conv2d(*arrays, **options), theirs,
          normal(2, *size, channels), normal(*window, channels, multiplier, seed=1),
          normal(1, 1, channels * multiplier, outputs, seed=2), *([normal(outputs)] if biased else []))


def test_separable_is_an_ordinary_convolution_with_a_kernel_of_rank_multiplier():
    depthwise, pointwise = normal(3, 3, 4, 2), normal(1, 1, 8, 5)
    kernel = np.einsum("hwcm,cmo->hwco", depthwise, pointwise.reshape(4, 2, 5))
    x = normal(2, 6, 7, 4)
    close(F.separable_conv2d(x, depthwise, pointwise, strides=2, padding="SAME"),
          F.conv2d(x, kernel, strides=2, padding="SAME"))


def test_a_1x1_convolution_is_a_dense_layer_at_every_pixel():
    x, weights, bias = normal(2, 5, 4, 3), normal(3, 6), normal(6)
    pixels = torch.tensor(x).reshape(-1, 3)
    want = torch.nn.functional.linear(pixels, torch.tensor(weights).T, torch.tensor(bias))
    close(F.conv2d(x, weights[None, None], bias), want.reshape(2, 5, 4, 6))


@drawn(forward(), small, st.integers(1, 3), few=2, many=12)
def test_conv2d_matrix_times_an_image_is_conv2d(geometry, inputs, outputs):
    """The matrix of a linear function has as columns its values for the columns of the identity."""
    size, window, options, _ = geometry
    shape, kernel = (*size, inputs), normal(*window, inputs, outputs)
    matrix = F.conv2d_matrix(kernel, shape, **options)
    units = np.eye(np.prod(shape)).reshape(-1, *shape)
    columns = np.asarray(F.conv2d(units, kernel, **options)).reshape(len(units), -1)
    close(matrix.todense(), columns.T)
    assert matrix.nse == np.count_nonzero(columns)  # no weights in the padding, none twice
    x = normal(*shape, seed=1)
    close(matrix @ x.ravel(), F.conv2d(x[None], kernel, **options).ravel())


@pytest.mark.parametrize(("size", "options", "output_padding"), [
    ((5, 6), {}, 0), ((7, 5), {"strides": 2, "padding": 1}, 0), ((6, 8), {"strides": 2, "padding": "SAME"}, 0),
    ((8, 6), {"strides": (3, 2), "padding": ((1, 0), (0, 2)), "dilation": (1, 2)}, (0, 1)),
], ids=str)
def test_the_matrix_transposed_is_conv2d_transpose(size, options, output_padding):
    kernel = normal(3, 3, 2, 4)
    matrix = F.conv2d_matrix(kernel, (*size, 2), **options)
    y = normal(*F.conv2d(np.zeros((1, *size, 2)), kernel, **options).shape)
    close(matrix.T @ y.ravel(), F.conv2d_transpose(y, kernel, output_padding=output_padding, **options).ravel())


def test_the_textbooks_matrix():
    example = WORKED["textbook"]["kernel2matrix"]
    matrix = F.conv2d_matrix(filters(example["K"]), (3, 3, 1))
    np.testing.assert_array_equal(matrix.todense(), example["W"])
    assert F.conv2d_matrix(np.ones((3, 3, 1, 1)), (4, 4, 1)).shape == (4, 16)
    assert F.conv2d_matrix(np.ones((3, 3, 1, 1)), (4, 4, 1)).nse == 4 * 9
    assert F.conv2d_matrix(np.ones((3, 3, 1, 1)), (4, 4, 1), padding=1).nse == 100  # 16 windows: 4 of 4, 8 of 6, 4 of 9


def test_the_matrix_is_differentiable_and_compiles():
    kernel, x, y = normal(3, 2, 2, 3), normal(4, 5, 2), normal(2, 5, 3)
    options = {"padding": ((0, 0), (0, 1))}

    @jax.jit
    def by_matrix(kernel):
        return y.ravel() @ (F.conv2d_matrix(kernel, x.shape, **options) @ x.ravel())

    close(jax.grad(by_matrix)(kernel), jax.grad(lambda k: (y * F.conv2d(x[None], k, **options)[0]).sum())(kernel))


X, KERNEL = np.zeros((1, 5, 5, 4)), np.zeros((3, 3, 2, 4))


@pytest.mark.parametrize(("x", "kernel", "options", "words"), [
    (X[0], KERNEL, {}, r"conv2d_transpose takes images \[N, H, W, C\] and a kernel .* not \(5, 5, 4\)"),
    (X, KERNEL[0], {}, r"not \(1, 5, 5, 4\) and \(3, 2, 4\)"),
    (X, KERNEL[..., :3], {}, r"kernel \(3, 3, 2, 3\) with groups=1 does not fit 4 input channels"),
    (X, KERNEL, {"groups": 3}, "groups=3 does not fit 4 input channels"),
    (X, KERNEL, {"groups": 0}, "groups=0"),
    (X, KERNEL, {"strides": 0}, "strides must be a positive int"),
    (X, KERNEL, {"padding": -1}, "padding must be an int >= 0"),
    (X, KERNEL, {"padding": 4}, r"padding \(\(4, 4\), \(4, 4\)\) leaves no pixel: the output would be -1x-1;"),
    (X, KERNEL, {"padding": ((0, 0), (4, 3))}, "output would be 7x0;"),
    (X, KERNEL, {"output_padding": 1}, r"output_padding must be .* less than the larger of .* \(1, 1\), not 1"),
    (X, KERNEL, {"output_padding": (1, 2), "strides": 2}, r"output_padding must be .* not \(1, 2\)"),
    (X, KERNEL, {"output_padding": -1, "strides": 2}, "output_padding must be .* not -1"),
    (X, KERNEL, {"output_padding": 0.5, "strides": 2}, "output_padding must be .* not 0.5"),
    (X, KERNEL, {"output_padding": (0,), "strides": 2}, r"output_padding must be .* not \(0,\)"),
    (X, KERNEL, {"output_padding": 1, "strides": 2, "padding": "same"}, "'SAME' fixes the output size"),
], ids=str)
def test_conv2d_transpose_says_what_is_wrong(x, kernel, options, words):
    with pytest.raises(ValueError, match=words):
        F.conv2d_transpose(x, kernel, **options)


@pytest.mark.parametrize(("convolve", "words"), [
    (lambda: F.depthwise_conv2d(X[0], np.zeros((3, 3, 4, 1))), r"depthwise_conv2d takes .* not \(5, 5, 4\) and"),
    (lambda: F.depthwise_conv2d(X, np.zeros((3, 3, 1, 4))), r"kernel \[kh, kw, C, M\], not .* and \(3, 3, 1, 4\)"),
    (lambda: F.depthwise_conv2d(X, np.zeros((3, 3, 4))), r"not \(1, 5, 5, 4\) and \(3, 3, 4\)"),
    (lambda: F.depthwise_conv2d(X, np.zeros((6, 3, 4, 1))), "window of 6x3 pixels does not fit"),
    (lambda: F.separable_conv2d(X, np.zeros((3, 3, 4, 2)), np.zeros((1, 1, 4, 5))),
     r"after 8 depthwise channels the pointwise kernel is \[1, 1, 8, O\], not \(1, 1, 4, 5\)"),
    (lambda: F.separable_conv2d(X, np.zeros((3, 3, 4, 1)), np.zeros((1, 2, 4, 5))), r"not \(1, 2, 4, 5\)"),
    (lambda: F.separable_conv2d(X, np.zeros((3, 3, 4, 1)), np.zeros((4, 5))), r"not \(4, 5\)"),
    (lambda: F.conv2d_matrix(KERNEL, (5, 5, 4)), r"input_shape \(H, W, C\), not \(3, 3, 2, 4\) and \(5, 5, 4\)"),
    (lambda: F.conv2d_matrix(KERNEL, (1, 5, 5, 2)), r"not \(3, 3, 2, 4\) and \(1, 5, 5, 2\)"),
    (lambda: F.conv2d_matrix(KERNEL[0], (5, 5, 2)), r"not \(3, 2, 4\)"),
    (lambda: F.conv2d_matrix(KERNEL, (2, 5, 2)), "window of 3x3 pixels does not fit into an input of 2x5"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_fit_is_refused(convolve, words):
    with pytest.raises(ValueError, match=words):
        convolve()
