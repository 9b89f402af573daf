import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from modern_cnn import functional as F
from tests.functional.oracle import WORKED, agree, close, drawn, nchw, nhwc, normal, pad, same_padding


def pairs_of(values):
    return st.tuples(values, values)


@st.composite
def symmetric(draw):
    """Draw (size, window, strides, padding) that torch can pad: by at most half the window."""
    window = draw(pairs_of(st.integers(1, 4)))
    strides = draw(st.none() | pairs_of(st.integers(1, 4)))
    padding = draw(st.integers(0, min(window) // 2))
    size = [draw(st.integers(max(1, k - 2 * padding), k + 5)) for k in window]
    return size, window, strides, padding


@st.composite
def asymmetric(draw):
    """Draw (size, window, strides, padding for us, padding as pairs), where torch needs a padded input."""
    window = draw(pairs_of(st.integers(1, 4)))
    strides = draw(pairs_of(st.integers(1, 3)))
    if draw(st.booleans()):
        size = draw(pairs_of(st.integers(1, 8)))
        return size, window, strides, "SAME", same_padding(size, window, strides)
    pairs = tuple(draw(pairs_of(st.integers(0, k - 1))) for k in window)
    size = [draw(st.integers(max(1, k - sum(p)), k + 4)) for k, p in zip(window, pairs, strict=True)]
    return size, window, strides, pairs, pairs


def distinct(*shape):
    """Return different values, so that one pixel is the largest of its window."""
    return np.random.default_rng((7, *shape)).permutation(np.arange(np.prod(shape)) - 5.0).reshape(shape)


@drawn(symmetric(), st.booleans(), few=6, many=30)
def test_max_pool_is_torchs(geometry, ceil_mode):
    size, window, strides, padding = geometry

    def theirs(x):
        return nhwc(torch.nn.functional.max_pool2d(nchw(x), window, strides, padding, ceil_mode=ceil_mode))

    agree(lambda x: F.max_pool(x, window, strides, padding, ceil_mode=ceil_mode), theirs, distinct(2, *size, 2))


@drawn(asymmetric(), few=4, many=20)
def test_max_pool_with_asymmetric_padding(geometry):
    size, window, strides, padding, pairs = geometry

    def theirs(x):
        return nhwc(torch.nn.functional.max_pool2d(pad(nchw(x), pairs, -torch.inf), window, strides))

    agree(lambda x: F.max_pool(x, window, strides, padding), theirs, distinct(2, *size, 2))


@drawn(symmetric(), st.booleans(), st.integers(0, 2 ** 32 - 1), few=5, many=25)
def test_max_pool_sends_the_gradient_of_a_tie_to_the_first(geometry, ceil_mode, seed):
    size, window, strides, padding = geometry

    def theirs(x):
        return nhwc(torch.nn.functional.max_pool2d(nchw(x), window, strides, padding, ceil_mode=ceil_mode))

    few_values = np.random.default_rng(seed).integers(-1, 2, (2, *size, 2))
    agree(lambda x: F.max_pool(x, window, strides, padding, ceil_mode=ceil_mode), theirs, few_values)


@drawn(symmetric(), st.booleans(), st.booleans(), few=6, many=30)
def test_avg_pool_is_torchs(geometry, ceil_mode, count_include_pad):
    size, window, strides, padding = geometry
    options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}

    def theirs(x):
        return nhwc(torch.nn.functional.avg_pool2d(nchw(x), window, strides, padding, **options))

    agree(lambda x: F.avg_pool(x, window, strides, padding, **options), theirs, normal(2, *size, 2))


@drawn(asymmetric(), st.booleans(), few=4, many=20)
def test_avg_pool_with_asymmetric_padding(geometry, count_include_pad):
    size, window, strides, padding, pairs = geometry

    def theirs(x):
        def mean(images):
            return torch.nn.functional.avg_pool2d(pad(nchw(images), pairs), window, strides)
        return nhwc(mean(x) if count_include_pad else mean(x) / mean(torch.ones_like(x)))

    agree(lambda x: F.avg_pool(x, window, strides, padding, count_include_pad=count_include_pad), theirs,
          normal(2, *size, 2))


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("window", [2, 3])
def test_ceil_mode_takes_what_torch_takes(size, window):
    """Images smaller than the window are included: one window that reaches over the edge."""
    x = normal(1, size, size, 2)
    for strides in (1, 2, 3):
        for kind in ("max", "avg"):
            ours, theirs = getattr(F, f"{kind}_pool"), getattr(torch.nn.functional, f"{kind}_pool2d")
            try:
                want = nhwc(theirs(nchw(torch.tensor(x)), window, strides, ceil_mode=True))
            except RuntimeError:
                with pytest.raises(ValueError, match="does not fit"):
                    ours(x, window, strides, ceil_mode=True)
                continue
            pool = jax.jit(lambda x, ours=ours, strides=strides: ours(x, window, strides, ceil_mode=True))
            close(pool(x), want)


@pytest.mark.parametrize("pool", [lambda x: F.avg_pool(x, 8), lambda x: F.adaptive_avg_pool(x, 3)],
                         ids=["avg", "adaptive"])
def test_means_of_bfloat16_are_summed_in_float32(pool):
    x = jnp.asarray(1 + normal(4, 8, 8, 16), jnp.bfloat16)
    np.testing.assert_allclose(pool(x), pool(x.astype(jnp.float32)), rtol=2 ** -8)


@pytest.mark.parametrize("pool", [F.max_pool, F.avg_pool])
@pytest.mark.parametrize(("size", "window", "strides", "padding", "floor", "ceil"), [
    (112, 3, 2, 0, 55, 56),  # GoogLeNet's pools
    (7, 3, 2, 0, 3, 3),      # fits exactly: nothing to add
    (5, 2, 4, 0, 1, 2),      # the last window starts on the last pixel
    (5, 1, 5, 0, 1, 1),      # it would start beyond the image
    (3, 2, 2, 1, 2, 2),      # it would start in the padding at the right
    (4, 2, 2, 1, 3, 3),
])
def test_ceil_mode_adds_a_window_only_if_it_starts_inside(pool, size, window, strides, padding, floor, ceil):
    x = jnp.zeros((1, size, size, 1))
    assert pool(x, window, strides, padding).shape == (1, floor, floor, 1)
    assert pool(x, window, strides, padding, ceil_mode=True).shape == (1, ceil, ceil, 1)


@drawn(pairs_of(st.integers(1, 9)), pairs_of(st.integers(1, 9)), few=6, many=30)
def test_adaptive_avg_pool_is_torchs(size, output_size):
    def theirs(x):
        return nhwc(torch.nn.functional.adaptive_avg_pool2d(nchw(x), output_size))

    agree(lambda x: F.adaptive_avg_pool(x, output_size), theirs, normal(2, *size, 2))


@pytest.mark.parametrize(("size", "output_size"), [((12, 6), 6), ((7, 13), 6), ((3, 2), 7), ((6, 6), 6), ((5, 8), 1)])
def test_adaptive_avg_pool_where_it_divides_overlaps_and_repeats(size, output_size):
    def theirs(x):
        return nhwc(torch.nn.functional.adaptive_avg_pool2d(nchw(x), output_size))

    agree(lambda x: F.adaptive_avg_pool(x, output_size), theirs, normal(1, *size, 3))


def test_global_avg_pool_is_the_mean_over_pixels():
    agree(F.global_avg_pool, lambda x: x.mean((1, 2)), normal(2, 5, 3, 4))
    close(F.global_avg_pool(normal(2, 5, 3, 4)), F.adaptive_avg_pool(normal(2, 5, 3, 4), 1)[:, 0, 0])


def test_global_avg_pool_sums_bfloat16_in_float32():
    """In bfloat16 a sum stops growing at 256, because adding 1 is rounded away."""
    y = F.global_avg_pool(jnp.ones((1, 64, 64, 1), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert y[0, 0] == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_dtype_comes_back(dtype):
    x = jnp.ones((1, 5, 5, 1), dtype)
    for y in F.max_pool(x, 2), F.avg_pool(x, 2), F.adaptive_avg_pool(x, 2), F.global_avg_pool(x):
        assert y.dtype == dtype
        assert (y == 1).all()


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_max_pool_of_integers(dtype):
    x = np.arange(16, dtype=dtype).reshape(1, 4, 4, 1)
    y = F.max_pool(jnp.asarray(x), 3, 2, 1)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y[0, :, :, 0], [[5, 7], [13, 15]])


def image(values):
    return jnp.asarray(values, float)[None, :, :, None]


def test_the_textbooks_numbers():
    example = WORKED["textbook"]["pool2d"]
    close(F.max_pool(image(example["X"]), 2, 1), image(example["max2"]))
    close(F.avg_pool(image(example["X"]), 2, 1), image(example["avg2"]))
    x = image(np.arange(16).reshape(4, 4))
    for case in WORKED["textbook"]["max_pool_of_0_to_15"]:
        high, wide = case["padding"]
        close(F.max_pool(x, case["window"], case["strides"], ((high, high), (wide, wide))), image(case["Y"]))
    two = WORKED["textbook"]["max_pool_two_channels"]
    y = F.max_pool(jnp.concatenate([x, x + 1], -1), two["window"], two["strides"], two["padding"])
    close(y[0].transpose(2, 0, 1), two["Y"])


def test_the_notebooks_shape():
    expected = WORKED["notebook"]["max_pool_5x5_window_2_stride_1"]
    assert F.max_pool(image(normal(5, 5)), 2, 1).shape == (1, *expected, 1)


X = np.zeros((1, 4, 5, 2))


@pytest.mark.parametrize("pool", [F.max_pool, F.avg_pool])
@pytest.mark.parametrize(("x", "arguments", "words"), [
    (X[0], (2,), r"images \[N, H, W, C\], not \(4, 5, 2\)"),
    (X, (5,), "window of 5x5 pixels does not fit into an input of 4x5"),
    (X, (0,), "window_shape must be .* not 0"),
    (X, (2, 0), "strides must be .* not 0"),
    (X, (2, 2, 2), r"padding .* is not smaller than the window \(2, 2\)"),
    (X, (3, 1, ((0, 0), (0, 3))), "not smaller than the window"),
    (X, (2, 2, "HALF"), "padding must be .* not 'HALF'"),
], ids=str)
def test_a_pool_says_what_is_wrong(pool, x, arguments, words):
    with pytest.raises(ValueError, match=words):
        pool(x, *arguments)


def test_the_other_pools_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"not \(4, 5, 2\)"):
        F.global_avg_pool(X[0])
    with pytest.raises(ValueError, match=r"not \(4, 5, 2\)"):
        F.adaptive_avg_pool(X[0], 2)
    with pytest.raises(ValueError, match=r"output_size must be .* not 0"):
        F.adaptive_avg_pool(X, 0)


def test_pooling_works_under_jit_and_vmap():
    x = normal(3, 2, 6, 6, 1)
    close(jax.jit(jax.vmap(lambda images: F.max_pool(images, 2)))(x)[1], F.max_pool(x[1], 2))


@pytest.mark.filterwarnings("error")
def test_arrays_of_numpy_need_no_warning():
    """Of float64, which is not available by default."""
    x, ones = np.ones((2, 4, 4, 8)), np.ones(8)
    with jax.enable_x64(False):
        for y in (F.max_pool(x, 2), F.avg_pool(x, 2), F.adaptive_avg_pool(x, 3), F.global_avg_pool(x),
                  F.local_response_norm(x), F.layer_norm(x, ones, ones), F.group_norm(x, groups=2),
                  F.batch_norm(x, ones, ones, ones, ones, train=True)[0], F.dropout(jax.random.key(0), x, 0.5),
                  F.conv2d(x, np.ones((1, 1, 8, 3))), F.conv2d(x[..., :1], np.ones((3, 3, 1, 2)), np.ones(2))):
            assert y.dtype == jnp.float32
