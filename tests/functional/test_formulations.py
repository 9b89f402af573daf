"""Every way to compute a convolution or a pooling against PyTorch, and the choice between them."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from jax import lax

from modern_cnn import functional as F
from modern_cnn.functional import formulations, pool_formulations
from modern_cnn.functional.conv import output_size
from tests.functional.oracle import FAST_COMPILE, agree, close, drawn, nchw, nhwc, normal, pad
from tests.functional.test_conv import geometries

WAYS = list(formulations.CONVOLUTIONS)


def operands(way, geometry, channels=3, features=4, batch=2):
    """Return (x, kernel, other arguments) that a way can compute: 1x1 without padding for 'product', and so on."""
    size, window, strides, dilation, _, pads = geometry
    groups = {"shifts": channels, "groups": 3}.get(way, 1)
    if way == "product":
        window, pads, size = (1, 1), ((0, 0), (0, 0)), [max(1, n) for n in size]
    kernel = normal(*window, channels // groups, features * groups, seed=1)
    return normal(batch, *size, channels), kernel, (strides, pads, dilation, groups)


@drawn(geometries(), few=5, many=25)
@pytest.mark.parametrize(("way", "channels", "features"), [
    *((way, 3, 4) for way in WAYS), ("canonical", 4, 3), ("canonical", 2, 4), ("rows", 4, 2),
    ("bands", 4, 3), ("bands", 1, 1), ("groups", 6, 2)])
def test_every_way_is_torchs(way, channels, features, geometry):
    x, kernel, (strides, pads, dilation, groups) = operands(way, geometry, channels, features)

    def theirs(x, kernel):
        x, kernel = pad(nchw(x), pads).contiguous(), kernel.permute(3, 2, 0, 1).contiguous()
        return nhwc(torch.nn.functional.conv2d(x, kernel, None, strides, 0, dilation, groups))

    agree(lambda x, kernel: formulations.CONVOLUTIONS[way](x, kernel, strides, pads, dilation, groups), theirs, x,
          kernel)


@pytest.mark.parametrize(("joined", "few", "convolutions", "loops"), [
    (1, 6, 6, 0), (1, 5, 1, 1), (4, 3, 3, 0), (4, 2, 1, 1), (5, 9, 3, 0), (12, 1, 1, 0)])
def test_groups_joined_side_by_side_and_in_a_loop(joined, few, convolutions, loops, monkeypatch):
    """Six groups of two channels and three results, as so many convolutions; more than `few` are one in a loop."""
    x, kernel, rest = normal(3, 7, 8, 12), normal(3, 2, 2, 18, seed=1), ((2, 1), ((1, 0), (2, 1)), (1, 2), 6)
    monkeypatch.setattr(formulations, "JOINED", joined)
    monkeypatch.setattr(formulations, "FEW_GROUPS", few)
    monkeypatch.setattr(formulations, "choose_convolution", lambda *args: "library")
    text = str(jax.make_jaxpr(lambda x, kernel: formulations.CONVOLUTIONS["groups"](x, kernel, *rest))(x, kernel))
    assert (text.count("conv_general_dilated["), text.count(" scan[")) == (convolutions, loops)

    def results(way):
        y, pullback = jax.vjp(lambda x, kernel: formulations.CONVOLUTIONS[way](x, kernel, *rest), x, kernel)
        return y, *pullback(normal(*y.shape, seed=2))

    for got, want in zip(results("groups"), results("library"), strict=True):
        close(got, want)


GEOMETRY = ([7, 8], (3, 2), (2, 1), (1, 2), "pairs", ((1, 0), (2, 1)))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_the_librarys_derivatives(way):
    """Compare forward mode, the second derivative, a batch of kernels, and a loop."""
    x, kernel, rest = operands(way, GEOMETRY)
    ours, library = formulations.CONVOLUTIONS[way], formulations.CONVOLUTIONS["library"]

    def quantities(convolve):
        def f(x, kernel):
            return convolve(x, kernel, *rest)

        def loss(x, kernel):
            return jnp.sum(f(x, kernel) ** 2)

        tangents = normal(*x.shape, seed=3), normal(*kernel.shape, seed=4)
        of_one = [jax.jvp(lambda x: f(x, kernel), (x,), tangents[:1])[1], jax.jvp(f, (x, kernel), tangents)[1]]
        hessian = jax.jvp(lambda x, kernel: jax.grad(loss, 1)(x, kernel), (x, kernel), tangents)[1]
        kernels = jnp.stack([kernel, 2 * kernel])
        batched = jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(x, kernels)
        looped = lax.scan(lambda total, k: (total + jax.grad(loss, 1)(x, k), f(x, k)), jnp.zeros(kernel.shape), kernels)
        return [*of_one, hessian, *batched, *looped]

    for got, want in zip(*(jax.jit(quantities, static_argnums=0)(way) for way in (ours, library)), strict=True):
        close(got, want)


def test_canonical_gradients_are_what_a_loop_keeps_fast():
    """All convolutions have images NHWC and kernels HWIO: XLA's CPU compiler reorders others only outside of loops."""
    x, kernel, rest = operands("canonical", GEOMETRY)
    gradient = jax.grad(lambda x, k: jnp.sum(formulations.CONVOLUTIONS["canonical"](x, k, *rest) ** 2), (0, 1))
    text = str(jax.make_jaxpr(gradient)(x, kernel))
    specs = {line.split("ConvDimensionNumbers")[1].split("), o")[0] for line in text.splitlines()
             if "ConvDimensionNumbers" in line}
    assert text.count("conv_general_dilated[") == 3
    assert specs == {"(lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1"}


@pytest.mark.parametrize("way", ["canonical", "shifts"])
def test_the_input_is_kept_once(way):
    x, kernel, rest = operands(way, GEOMETRY, features=1)
    _, pullback = jax.vjp(lambda k: formulations.CONVOLUTIONS[way](x, k, *rest), kernel)
    assert sorted(leaf.size for leaf in jax.tree.leaves(pullback) if leaf.ndim) == [x.size]


@pytest.mark.parametrize(("way", "x", "kernel", "options"), [
    ("product", (2, 8, 8, 3), (1, 1, 3, 4), {"strides": 2}),
    ("canonical", (2, 8, 8, 9), (1, 1, 9, 9), {"padding": 1}),
    ("bands", (2, 8, 8, 3), (3, 3, 3, 4), {}),
    ("bands", (2, 32, 32, 16), (3, 3, 16, 8), {"padding": 1}),
    ("rows", (2, 33, 33, 16), (3, 3, 16, 8), {"padding": 1}),
    ("canonical", (2, 33, 33, 18), (3, 3, 18, 9), {"padding": 1, "strides": 2}),
    ("canonical", (2, 33, 33, 64), (1, 3, 64, 8), {"padding": "SAME"}),
    ("canonical", (2, 8, 8, 16), (3, 3, 16, 9), {"padding": 1}),
    ("canonical", (2, 8, 8, 3), (3, 3, 3, 17), {}),
    ("patches", (2, 2, 2, 3), (3, 3, 3, 4), {"padding": 1}),
    ("patches", (2, 4, 4, 3), (3, 3, 3, 4), {"strides": 2, "padding": 1}),
    ("patches", (2, 3, 3, 3), (3, 3, 3, 4), {"padding": 1}),
    ("canonical", (2, 2, 5, 9), (3, 3, 9, 9), {"padding": 1}),
    ("shifts", (2, 8, 8, 4), (3, 3, 1, 8), {"groups": 4}),
    ("groups", (2, 8, 8, 4), (3, 3, 2, 8), {"groups": 2}),
], ids=str)
def test_the_table(way, x, kernel, options, monkeypatch):
    """CPUs choose by shape; GPUs and TPUs always take the library."""
    taken = []
    for name, function in formulations.CONVOLUTIONS.items():
        monkeypatch.setitem(formulations.CONVOLUTIONS, name,
                            lambda *args, name=name, function=function: taken.append(name) or function(*args))
    for platform in ("cpu", "gpu", "tpu"):
        with formulations.platform(platform):
            jax.eval_shape(lambda x, kernel: F.conv2d(x, kernel, **options), jnp.ones(x), jnp.ones(kernel))
            pooled = str(jax.make_jaxpr(lambda x: F.max_pool(x, 2))(jnp.ones(x)))
            assert ("reduce_window_max" in pooled) == (platform != "cpu")
    each = ["bands"] if way == "groups" else []  # the way of each group, by its own shapes
    assert taken == [way, *each, "library", "library"]


@drawn(geometries(dilate=False), st.integers(0, 9), few=8, many=40)
@pytest.mark.parametrize("way", pool_formulations.MAX_POOLINGS)
def test_every_max_pooling_is_torchs(way, geometry, seed):
    """Among equal values the first in row order gets the gradient; minus infinity is a value like others."""
    size, window, strides, _, _, pads = geometry
    pads = tuple(tuple(min(p, k - 1) for p in side) for side, k in zip(pads, window, strict=True))
    if any(n + sum(p) < k for n, p, k in zip(size, pads, window, strict=True)):
        return
    x = np.random.default_rng(seed).integers(-1, 2, (2, *size, 3)).astype(float)  # many are equal
    x[np.random.default_rng(seed + 10).random(x.shape) < 0.05] = -np.inf

    def theirs(x):
        return nhwc(torch.nn.functional.max_pool2d(pad(nchw(x), pads, -np.inf), window, strides))

    leaf = torch.tensor(x, requires_grad=True)
    want = theirs(leaf)
    cotangent = normal(*want.shape)
    want.backward(torch.tensor(cotangent))

    def value_and_gradient(x, cotangent):
        y, pullback = jax.vjp(lambda x: pool_formulations.MAX_POOLINGS[way](x, window, strides, pads), x)
        return y, pullback(cotangent)[0]

    got, gradient = jax.jit(value_and_gradient, compiler_options=FAST_COMPILE)(x, cotangent)
    assert got.shape == want.shape == (2, *output_size(size, window, strides, pads), 3)
    np.testing.assert_array_equal(got, want.detach())
    finite = np.isfinite(want.detach().numpy())
    if finite.all():
        close(gradient, leaf.grad)


@pytest.mark.parametrize("way", pool_formulations.MAX_POOLINGS)
def test_max_pooling_does_not_hide_nan(way):
    x = jnp.arange(16.0).reshape(1, 4, 4, 1).at[0, 1, 1, 0].set(jnp.nan)
    pooled = pool_formulations.MAX_POOLINGS[way](x, (2, 2), (2, 2), ((0, 0), (0, 0)))
    np.testing.assert_array_equal(jnp.isnan(pooled[0, :, :, 0]), [[True, False], [False, False]])


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(("size", "window", "strides", "pads"), [
    ((6, 4), (3, 2), (3, 2), ((0, 0), (0, 0))), ((7, 5), (2, 2), (2, 2), ((0, 0), (0, 0))),
    ((5, 5), (3, 2), (2, 2), ((0, 0), (0, 0))), ((4, 4), (2, 2), (2, 2), ((1, 1), (0, 0))),
    ((9, 8), (4, 4), (4, 4), ((0, 0), (0, 0)))], ids=str)
def test_window_sums_are_torchs(platform, size, window, strides, pads):
    def ours(x):
        with formulations.platform(platform):
            return pool_formulations.window_sums(x, window, strides, pads)

    def theirs(x):
        return nhwc(torch.nn.functional.avg_pool2d(pad(nchw(x), pads), window, strides, divisor_override=1))

    agree(ours, theirs, normal(2, *size, 3))
