"""Networks that the field measures, as plain functions of their weights and inputs.

The shapes are those of the papers (and of timm's models of these names), the values do not matter
for a latency. Normalisations are what inference leaves of them: a factor and a term a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.evaluators.compilers import PortableProgram

_NHWC = ("NHWC", "HWIO", "NHWC")


@dataclass
class Weights:
    """Hands out a network's weights one after another; at first it only notes their shapes."""

    given: Iterator[Any] | None = None
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtype: Any = jnp.float32

    def __call__(self, *shape: int) -> Any:
        """The next weight."""
        if self.given is not None:
            return next(self.given)
        self.shapes.append(shape)
        return jnp.zeros(shape, self.dtype)


def conv(
    w: Weights, x: Any, features: int, size: int = 1, stride: int = 1, groups: int = 1,
    bias: bool = False, pad: str = "SAME",
) -> Any:  # fmt: skip
    """A convolution (N, H, W, C) -> (N, H', W', features)."""
    kernel = w(size, size, x.shape[-1] // groups, features)
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pad, dimension_numbers=_NHWC, feature_group_count=groups
    )
    return y + w(features) if bias else y


def affine(w: Weights, x: Any) -> Any:
    """What inference leaves of a batch normalisation."""
    return x * w(x.shape[-1]) + w(x.shape[-1])


def norm(w: Weights, x: Any) -> Any:
    """A layer normalisation, computed in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-6)
    return (scaled * w(x.shape[-1]) + w(x.shape[-1])).astype(x.dtype)


def dense(w: Weights, x: Any, features: int) -> Any:
    """A dense layer on the last axis."""
    return x @ w(x.shape[-1], features) + w(features)


def attention(w: Weights, x: Any, heads: int, causal: bool = False) -> Any:
    """Self-attention over (N, T, C)."""
    n, t, c = x.shape
    q, k, v = jnp.split(dense(w, x, 3 * c).reshape(n, t, heads, 3 * c // heads), 3, axis=-1)
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) * (c // heads) ** -0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -1e9)
    shares = jax.nn.softmax(scores.astype(jnp.float32)).astype(x.dtype)
    return dense(w, jnp.einsum("nhqk,nkhd->nqhd", shares, v).reshape(n, t, c), c)


def block(w: Weights, x: Any, heads: int, causal: bool = False, before: bool = True) -> Any:
    """A transformer block, normalised before (ViT, GPT) or after (BERT) each half."""
    c = x.shape[-1]
    if before:
        x = x + attention(w, norm(w, x), heads, causal)
        return x + dense(w, jax.nn.gelu(dense(w, norm(w, x), 4 * c)), c)
    x = norm(w, x + attention(w, x, heads, causal))
    return norm(w, x + dense(w, jax.nn.gelu(dense(w, x, 4 * c)), c))


def pooled(w: Weights, x: Any, classes: int = 1000) -> Any:
    """Global average pooling, and the last layer."""
    return dense(w, x.mean((1, 2)), classes)


def resnet(w: Weights, x: Any, depths: Sequence[int], bottleneck: bool) -> Any:
    """ResNet (arXiv:1512.03385)."""
    x = jax.nn.relu(affine(w, conv(w, x, 64, 7, 2)))
    x = jax.lax.reduce_window(
        x, jnp.array(-jnp.inf, x.dtype), jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    )
    for stage, depth in enumerate(depths):
        for i in range(depth):
            width, stride = 64 * 2**stage, 2 if stage and not i else 1
            out = 4 * width if bottleneck else width
            if bottleneck:
                y = jax.nn.relu(affine(w, conv(w, x, width)))
                y = jax.nn.relu(affine(w, conv(w, y, width, 3, stride)))
                y = affine(w, conv(w, y, out))
            else:
                y = jax.nn.relu(affine(w, conv(w, x, width, 3, stride)))
                y = affine(w, conv(w, y, width, 3))
            if x.shape != y.shape:
                x = affine(w, conv(w, x, out, 1, stride))
            x = jax.nn.relu(x + y)
    return pooled(w, x)


def regnet(w: Weights, x: Any, widths: Sequence[int], depths: Sequence[int], group: int) -> Any:
    """RegNetX (arXiv:2003.13678)."""
    x = jax.nn.relu(affine(w, conv(w, x, 32, 3, 2)))
    for width, depth in zip(widths, depths, strict=True):
        for i in range(depth):
            y = jax.nn.relu(affine(w, conv(w, x, width)))
            y = conv(w, y, width, 3, 2 if not i else 1, groups=width // group)
            y = affine(w, conv(w, jax.nn.relu(affine(w, y)), width))
            if x.shape != y.shape:
                x = affine(w, conv(w, x, width, 1, 2))
            x = jax.nn.relu(x + y)
    return pooled(w, x)


def _swish(x: Any) -> Any:
    return x * jax.nn.sigmoid(x)


def _inverted(
    w: Weights, x: Any, wide: int, out: int, size: int, stride: int, squeezed: int,
    act: Callable[[Any], Any], gate: Callable[[Any], Any],
) -> Any:  # fmt: skip
    y = act(affine(w, conv(w, x, wide))) if wide != x.shape[-1] else x
    y = act(affine(w, conv(w, y, wide, size, stride, groups=wide)))
    if squeezed:
        s = jax.nn.relu(conv(w, y.mean((1, 2), keepdims=True), squeezed, bias=True))
        y = y * gate(conv(w, s, wide, bias=True))
    y = affine(w, conv(w, y, out))
    return x + y if x.shape == y.shape else y


def mobilenet_v2(w: Weights, x: Any) -> Any:
    """MobileNetV2 (arXiv:1801.04381)."""
    act = jax.nn.relu6
    x = act(affine(w, conv(w, x, 32, 3, 2)))
    for t, c, n, s in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(n):
            x = _inverted(w, x, t * x.shape[-1], c, 3, 1 if i else s, 0, act, act)
    return pooled(w, act(affine(w, conv(w, x, 1280))))


def mobilenet_v3(w: Weights, x: Any) -> Any:
    """MobileNetV3-Large (arXiv:1905.02244)."""
    relu, swish = jax.nn.relu, jax.nn.hard_swish
    x = swish(affine(w, conv(w, x, 16, 3, 2)))
    for k, e, c, se, act, s in (
        (3, 16, 16, 0, relu, 1), (3, 64, 24, 0, relu, 2), (3, 72, 24, 0, relu, 1),
        (5, 72, 40, 24, relu, 2), (5, 120, 40, 32, relu, 1), (5, 120, 40, 32, relu, 1),
        (3, 240, 80, 0, swish, 2), (3, 200, 80, 0, swish, 1), (3, 184, 80, 0, swish, 1),
        (3, 184, 80, 0, swish, 1), (3, 480, 112, 120, swish, 1), (3, 672, 112, 168, swish, 1),
        (5, 672, 160, 168, swish, 2), (5, 960, 160, 240, swish, 1), (5, 960, 160, 240, swish, 1),
    ):  # fmt: skip
        x = _inverted(w, x, e, c, k, s, se, act, jax.nn.hard_sigmoid)
    x = swish(affine(w, conv(w, x, 960)))
    return dense(w, swish(dense(w, x.mean((1, 2)), 1280)), 1000)


def efficientnet_b0(w: Weights, x: Any) -> Any:
    """EfficientNet-B0 (arXiv:1905.11946)."""
    x = _swish(affine(w, conv(w, x, 32, 3, 2)))
    for t, c, n, s, k in (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
    ):  # fmt: skip
        for i in range(n):
            inner = x.shape[-1]
            x = _inverted(w, x, t * inner, c, k, 1 if i else s, inner // 4, _swish, jax.nn.sigmoid)
    return pooled(w, _swish(affine(w, conv(w, x, 1280))))


def mnasnet(
    w: Weights, x: Any, expand: Sequence[int], sizes: Sequence[int], depths: Sequence[int],
    squeeze: Sequence[int],
) -> Any:  # fmt: skip
    """A network of the space of MnasNet (arXiv:1807.11626), as Accel-NASBench draws it.

    Args:
        w: hands out the weights.
        x: images.
        expand: of the seven blocks, how many times wider a layer is inside.
        sizes: likewise, of its depthwise convolution.
        depths: likewise, layers.
        squeeze: likewise, 1 where it has squeeze and excitation.
    """
    x = _swish(affine(w, conv(w, x, 32, 3, 2)))
    widths, strides = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 2, 1, 2, 1)
    for c, s, t, k, n, se in zip(widths, strides, expand, sizes, depths, squeeze, strict=True):
        for i in range(n):
            inner = x.shape[-1]
            few = inner // 4 if se else 0
            x = _inverted(w, x, t * inner, c, k, 1 if i else s, few, _swish, jax.nn.sigmoid)
    return pooled(w, _swish(affine(w, conv(w, x, 1280))))


def convnext_tiny(w: Weights, x: Any) -> Any:
    """ConvNeXt-T (arXiv:2201.03545)."""
    x = norm(w, conv(w, x, 96, 4, 4, bias=True))
    for stage, (width, depth) in enumerate(zip((96, 192, 384, 768), (3, 3, 9, 3), strict=True)):
        if stage:
            x = conv(w, norm(w, x), width, 2, 2, bias=True)
        for _ in range(depth):
            y = norm(w, conv(w, x, width, 7, groups=width, bias=True))
            x = x + dense(w, jax.nn.gelu(dense(w, y, 4 * width)), width) * w(width)
    return dense(w, norm(w, x.mean((1, 2))), 1000)


def vit(w: Weights, x: Any, width: int, depth: int, heads: int) -> Any:
    """A vision transformer with patches of 16 (arXiv:2010.11929)."""
    x = conv(w, x, width, 16, 16, bias=True)
    x = x.reshape(x.shape[0], -1, width)
    token = jnp.broadcast_to(w(1, 1, width), (x.shape[0], 1, width)).astype(x.dtype)
    x = jnp.concatenate([token, x], 1)
    x = x + w(1, x.shape[1], width)
    for _ in range(depth):
        x = block(w, x, heads)
    return dense(w, norm(w, x)[:, 0], 1000)


def mixer(w: Weights, x: Any, width: int, depth: int) -> Any:
    """MLP-Mixer with patches of 16 (arXiv:2105.01601)."""
    x = conv(w, x, width, 16, 16, bias=True).reshape(x.shape[0], -1, width)
    for _ in range(depth):
        y = norm(w, x).swapaxes(1, 2)
        y = dense(w, jax.nn.gelu(dense(w, y, width // 2)), y.shape[-1])
        x = x + y.swapaxes(1, 2)
        x = x + dense(w, jax.nn.gelu(dense(w, norm(w, x), 4 * width)), width)
    return dense(w, norm(w, x).mean(1), 1000)


def transformer(w: Weights, x: Any, width: int, depth: int, words: int, causal: bool) -> Any:
    """BERT (arXiv:1810.04805) or, causal, GPT-2: (N, T) of whole numbers to (N, width)."""
    x = jnp.take(w(words, width), x, axis=0) + w(x.shape[1], width)
    for _ in range(depth):
        x = block(w, x, width // 64, causal=causal, before=causal)
    return norm(w, x)[:, -1]


_IMAGE = (224, 224, 3)
NETWORKS: dict[str, tuple[Callable[[Weights, Any], Any], tuple[int, ...]]] = {
    "resnet18": (lambda w, x: resnet(w, x, (2, 2, 2, 2), False), _IMAGE),
    "resnet50": (lambda w, x: resnet(w, x, (3, 4, 6, 3), True), _IMAGE),
    "regnetx_016": (lambda w, x: regnet(w, x, (72, 168, 408, 912), (2, 4, 10, 2), 24), _IMAGE),
    "mobilenetv2_100": (mobilenet_v2, _IMAGE),
    "mobilenetv3_large_100": (mobilenet_v3, _IMAGE),
    "efficientnet_b0": (efficientnet_b0, _IMAGE),
    "convnext_tiny": (convnext_tiny, _IMAGE),
    "vit_small_patch16_224": (lambda w, x: vit(w, x, 384, 12, 6), _IMAGE),
    "vit_base_patch16_224": (lambda w, x: vit(w, x, 768, 12, 12), _IMAGE),
    "mixer_b16_224": (lambda w, x: mixer(w, x, 768, 12), _IMAGE),
    "bert_base": (lambda w, x: transformer(w, x, 768, 12, 30522, False), (128,)),
    "gpt2": (lambda w, x: transformer(w, x, 768, 12, 50257, True), (256,)),
}
"""By name: the function, and the shape of an example; whole numbers where it has one axis."""


def named(name: str) -> tuple[Callable[[Weights, Any], Any], tuple[int, ...]]:
    """A network and the shape of an example, by name.

    Args:
        name: of `NETWORKS`, or like mnasnet_6466611_3535533_1233222_0000000: a digit for each of
            the seven blocks of `mnasnet`.

    Raises:
        KeyError: there is no such network.
    """
    kind, *digits = name.split("_")
    if kind == "mnasnet" and [len(d) for d in digits] == [7, 7, 7, 7]:
        settings = [[int(digit) for digit in each] for each in digits]
        return lambda w, x: mnasnet(w, x, *settings), _IMAGE
    return NETWORKS[name]


def program(name: str, batch: int, dtype: str) -> PortableProgram:
    """A network at a batch, all of its weights and inputs in one dtype.

    Args:
        name: see `named`.
        batch: examples.
        dtype: "float32", "bfloat16" or "float16".
    """
    function, shape = named(name)
    of_inputs = jnp.int32 if len(shape) == 1 else jnp.dtype(dtype)
    inputs = jax.ShapeDtypeStruct((batch, *shape), of_inputs)
    noted = Weights(dtype=jnp.dtype(dtype))
    jax.eval_shape(lambda x: function(noted, x), inputs)
    weights = [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in noted.shapes]

    def run(given: Sequence[Any], x: Any) -> Any:
        return function(Weights(given=iter(given)), x)

    return PortableProgram(run, (weights, inputs))


def size(name: str) -> int:
    """Numbers in a network's weights."""
    return sum(int(np.prod(s.shape)) for s in program(name, 1, "float32").args[0])
