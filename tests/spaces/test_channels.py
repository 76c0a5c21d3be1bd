"""Groups of channels: what they hold, and what is refused and why."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.spaces.small_arrays import PARAMS, B, C, Function, I, O, T, X, find, normal

from paretax.errors import UsageError
from paretax.spaces.channels import (
    ChannelGroup,
    Channels,
    Member,
    channel_scores,
    find_channels,
)

if TYPE_CHECKING:
    from tests.conftest import Net
    from tests.spaces.conftest import Zoo


def places(group: ChannelGroup) -> dict[str, set[tuple[int, int, int, str]]]:
    found: dict[str, set[tuple[int, int, int, str]]] = {}
    for m in group.members:
        found.setdefault(m.array, set()).add((m.axis, m.outer, m.inner, m.role))
    return found


# Models of every kind -----------------------------------------------------------------------------


def test_the_groups_of_a_model(zoo: Zoo) -> None:
    channels = find_channels(zoo.predict, zoo.params, zoo.state, zoo.inputs)
    assert {g.name: (g.kind, g.size) for g in channels.groups} == dict(zoo.groups)
    assert list(channels.refused) == list(zoo.refused)
    for weight, reason in zoo.refused.items():
        assert reason in channels.refused[weight]


def test_members_lie_within_their_arrays(zoo: Zoo) -> None:
    arrays = {**zoo.params, **zoo.state}
    for group in find_channels(zoo.predict, zoo.params, zoo.state, zoo.inputs).groups:
        assert len(set(group.members)) == len(group.members)
        assert any(member.role == "producer" for member in group.members)
        for m in group.members:
            assert m.outer * group.size * m.inner == arrays[m.array].shape[m.axis]


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_members_of_a_residual_net_with_attention(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """The convolution and the attention's output are added, so they are one group."""
    net: Net = request.getfixturevalue(f"{kind}_net")
    channels = find_channels(net.model.predict, net.params, net.state, net.inputs)
    stream = places(channels.groups[0])
    parameter, producer = {(0, 1, 1, "parameter")}, "producer"
    statistics = "norm/" if net.kind == "nnx" else "batch_stats/norm/"
    assert stream == {
        "conv/kernel": {(3, 1, 1, producer)},
        "conv/bias": parameter,
        "norm/scale": parameter,
        "norm/bias": parameter,
        f"{statistics}mean": parameter,
        f"{statistics}var": parameter,
        "attention/query/kernel": {(0, 1, 1, "consumer")},
        "attention/key/kernel": {(0, 1, 1, "consumer")},
        "attention/value/kernel": {(0, 1, 1, "consumer")},
        "attention/out/kernel": {(2, 1, 1, producer)},
        "attention/out/bias": parameter,
        "out/kernel": {(0, 1, 1, "consumer")},
    }
    heads = channels.groups[1]
    assert (heads.kind, heads.size) == ("heads", 2)
    assert places(heads) == {
        **{f"attention/{n}/kernel": {(1, 1, 1, producer)} for n in ("query", "key", "value")},
        **{f"attention/{n}/bias": parameter for n in ("query", "key", "value")},
        "attention/out/kernel": {(0, 1, 1, "consumer")},
    }


# Functions one at a time --------------------------------------------------------------------------


def test_inputs_and_outputs_are_no_channels() -> None:
    channels = find(lambda p, x: x @ p["u"])
    assert channels == Channels(groups=(), refused={"u": "it is an output of the model"})
    channels = find(lambda p, x: x @ p["v"] + x, x=normal(0, (B, C)))
    assert channels.refused == {"v": "it is an axis of the inputs"}


def test_a_chain() -> None:
    (group,) = find(lambda p, x: jnp.tanh(x @ p["u"] + p["b"]) @ p["w"]).groups
    assert group == ChannelGroup(
        name="u",
        kind="channels",
        size=C,
        members=(
            Member(array="b", axis=0, outer=1, inner=1, role="parameter"),
            Member(array="u", axis=1, outer=1, inner=1, role="producer"),
            Member(array="w", axis=0, outer=1, inner=1, role="consumer"),
        ),
    )


def test_a_square_weight_in_a_residual_has_two_members() -> None:
    def function(p: Any, x: Any) -> Any:
        h = x @ p["u"]
        return (h + h @ p["v"]) @ p["w"]

    (group,) = find(function).groups
    assert places(group)["v"] == {(0, 1, 1, "consumer"), (1, 1, 1, "producer")}


def test_a_flattened_axis() -> None:
    params = {"u": PARAMS["u"], "w": normal(0, (T * C, O))}
    (group,) = find(lambda p, x: (x @ p["u"]).reshape(B, -1) @ p["w"], params).groups
    assert places(group)["w"] == {(0, T, 1, "consumer")}
    (group,) = find(
        lambda p, x: (x @ p["u"]).transpose(0, 2, 1).reshape(B, -1) @ p["w"], params
    ).groups
    assert places(group)["w"] == {(0, 1, T, "consumer")}


def test_layers_in_one_stack_with_fixed_factors() -> None:
    params = {"u": PARAMS["u"], "stack": normal(0, (2, C, C)), "w": normal(1, (2, 3, O))}

    def function(p: Any, x: Any) -> Any:
        h = jnp.tanh(x @ p["u"])
        for i in range(2):
            h = jnp.tanh(h @ (p["stack"][i] * 0.4))
        return h @ (p["w"].reshape(C, O) / 3)

    major, minor = find(function, params).groups
    for group, where in ((major, (0, 1, 1)), (minor, (1, 1, 1))):
        assert places(group)["w"] == {(*where, "consumer")}
        assert {role for *_, role in places(group)["stack"]} == {"consumer", "producer"}
        assert (
            channel_scores(group, params) > channel_scores(group, {**params, "w": 0 * params["w"]})
        ).all()


def test_a_reshaped_weight_produces() -> None:
    params = {"u": normal(0, (I, 3, 2)), "w": PARAMS["w"]}
    found = find(lambda p, x: jnp.tanh(x @ p["u"].reshape(I, C)) @ p["w"], params).groups
    assert [places(group)["u"] for group in found] == [
        {(axis, 1, 1, "producer")} for axis in (1, 2)
    ]


def test_heads_that_lie_in_one_axis() -> None:
    """Flat weights, as in x @ w -> (heads, features)."""

    def function(p: Any, x: Any) -> Any:
        q, k, v = ((x @ p[n]).reshape(B, T, 3, 2) for n in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
        return jnp.einsum("bhts,bshd->bthd", weights, v).reshape(B, T, C) @ p["w"]

    params = {**{n: normal(i, (I, C)) for i, n in enumerate("qkv")}, "w": PARAMS["w"]}
    heads, dots, values = find(function, params).groups
    assert [(g.name, g.kind, g.size) for g in (heads, dots, values)] == [
        ("q", "heads", 3),
        ("q#2", "channels", 2),
        ("v", "channels", 2),
    ]
    assert places(heads) == {
        **{n: {(1, 1, 2, "producer")} for n in "qkv"},
        "w": {(0, 1, 2, "consumer")},
    }
    assert places(dots) == {n: {(1, 3, 1, "producer")} for n in "qk"}
    assert places(values) == {"v": {(1, 3, 1, "producer")}, "w": {(0, 3, 1, "consumer")}}


def test_a_weight_that_does_both_is_a_producer() -> None:
    params = {"table": normal(0, (I, C))}
    (group,) = find(
        lambda p, x: jnp.tanh(p["table"][x]) @ p["table"].T, params, jnp.array([[0, 1]])
    ).groups
    assert places(group) == {"table": {(1, 1, 1, "producer")}}


def test_state_belongs_to_a_group() -> None:
    def predict(p: Any, s: Any, x: Any) -> Any:
        return (x @ p["u"] - s["mean"]) @ p["w"]

    (group,) = find_channels(predict, PARAMS, {"mean": PARAMS["b"]}, X).groups
    assert places(group)["mean"] == {(0, 1, 1, "parameter")}


@jax.custom_vjp
def twice(x: jax.Array) -> jax.Array:
    return 2 * x


twice.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


@jax.custom_jvp
def rooted(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.abs(x))


@rooted.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return rooted(*primals), tangents[0] * 0.5 / jnp.sqrt(jnp.abs(primals[0]) + 1e-3)


ALLOWED: dict[str, Function] = {
    "jit": lambda p, x: jax.jit(lambda a, w: jnp.sin(a @ w))(x, p["u"]),
    "checkpoint": lambda p, x: jax.checkpoint(lambda a, w: jnp.sin(a @ w))(x, p["u"]),
    "custom_jvp": lambda p, x: jax.nn.relu(x @ p["u"]),
    "custom_vjp": lambda p, x: twice(x @ p["u"]),
    "cast weight": lambda p, x: x @ p["u"].astype(jnp.bfloat16),
    "transposed weight": lambda p, x: jnp.einsum("bti,ic->btc", x, jnp.array(p["u"].T).T),
    "weight times a fixed factor": lambda p, x: x @ (p["u"] / np.float32(I**0.5)),
    "rounded weight": lambda p, x: (
        x @ (p["u"] + jax.lax.stop_gradient(jnp.round(8 * p["u"]) / 8 - p["u"]))
    ),
    "weight in a stack of one": lambda p, x: x @ p["u"][None][0],
    "where": lambda p, x: jnp.where(x @ p["u"] > 0, x @ p["u"], 0.5),
    "broadcast": lambda p, x: (x @ p["u"]) * jnp.full((B, T, C), 2.0),
    "reshaped weight": lambda p, x: (x @ p["u"]) * p["b"].reshape(1, 1, C),
    "sum over tokens": lambda p, x: (x @ p["u"]).sum(axis=1, keepdims=True) + x @ p["u"],
    "running sum over tokens": lambda p, x: jnp.cumsum(x @ p["u"], axis=1),
    "token taken": lambda p, x: (x @ p["u"])[:, :1],
    "token taken by number": lambda p, x: jax.lax.dynamic_slice(
        x @ p["u"], (0, x[0, 0, 0].astype(int), 0), (B, 1, C)
    ),
    "tokens reversed, put together": lambda p, x: jnp.concatenate(
        [x @ p["u"], p["u"][::-1][None]][:1], 1
    ),
    "tokens sorted": lambda p, x: jnp.sort(x @ p["u"], axis=1),
    "largest token": lambda p, x: jnp.take((x @ p["u"]).max(axis=1), jnp.array([0]), axis=0),
    "class token": lambda p, x: jnp.concatenate(
        [jnp.broadcast_to(p["b"], (B, 1, C)), x @ p["u"]], axis=1
    ),
    "numbered tokens": lambda p, x: (x @ p["u"]) * jnp.arange(T)[:, None],
    "power": lambda p, x: (x @ p["u"]) ** 3 + jnp.abs(x @ p["u"]),
    "clamped": lambda p, x: jnp.clip(x @ p["u"], -1, 1),
    "taken for its shape": lambda p, x: (x @ p["u"]) * jnp.ones_like((x @ p["u"])[..., :1]),
    "root of more than zero": lambda p, x: jnp.sqrt((x @ p["u"]) ** 2 + 1e-6),
    "root of at least something": lambda p, x: jnp.sqrt(jnp.maximum(jnp.abs(x @ p["u"]), 1e-9)),
    "normalised over tokens": lambda p, x: jax.nn.standardize(x @ p["u"], axis=1),
    "root that is kept away from zero": lambda p, x: jnp.sqrt(
        jnp.where(x @ p["u"] > 0, x @ p["u"], 1.0)
    ),
    "root with a slope of its own": lambda p, x: rooted(x @ p["u"]),
    "power above one": lambda p, x: jnp.abs(x @ p["u"]) ** 1.5,
    "mean power": lambda p, x: jnp.clip(x @ p["u"], 1e-6) ** p["b"],
    "soft signs and steps": lambda p, x: (
        jnp.arctan(jax.nn.silu(x @ p["u"])) + jax.nn.soft_sign(x @ p["u"])
    ),
    "barrier": lambda p, x: jax.lax.optimization_barrier(x @ p["u"]),
    "pooled tokens": lambda p, x: jax.lax.reduce_window(
        x @ p["u"], 0.0, jax.lax.add, (1, 2, 1), (1, 1, 1), "VALID"
    ),
}


@pytest.mark.parametrize("how", ALLOWED)
def test_these_can_go(how: str) -> None:
    channels = find(lambda p, x: ALLOWED[how](p, x).astype(jnp.float32) @ p["w"])
    assert [group.name for group in channels.groups] == ["u"]


def scanned(p: Any, x: Any) -> Any:
    return jax.lax.scan(lambda c, row: (c + row @ p["u"], None), jnp.zeros((T, C)), x)[0]


def attend(p: Any, queries: Any, keys: Any, values: Any) -> Any:
    return jnp.einsum("bts,bsc->btc", jnp.einsum("btc,bsc->bts", queries, keys), values)


REFUSED: dict[str, tuple[Function, str]] = {
    "weight times constants": (
        lambda p, x: x @ (p["u"] * np.arange(I * C, dtype=np.float32).reshape(I, C)),
        "a constant of the model",
    ),
    "layer norm": (lambda p, x: jax.nn.standardize(x @ p["u"]), "a reduction over it"),
    "softmax": (lambda p, x: jax.nn.softmax(x @ p["u"]), "a reduction over it"),
    "argmax": (lambda p, x: (x @ p["u"]) * (x @ p["u"]).argmax(-1)[..., None], "a reduction"),
    "running sum": (lambda p, x: jnp.cumsum(x @ p["u"], axis=-1), "a running reduction"),
    "reversed": (lambda p, x: (x @ p["u"])[..., ::-1], "it is reversed"),
    "sorted": (lambda p, x: jnp.sort(x @ p["u"]), "it is sorted"),
    "part": (lambda p, x: (x @ p["u"])[..., :3] @ jnp.ones((3, C)), "a part of it is taken"),
    "put together": (
        lambda p, x: jnp.concatenate([x @ p["u"], x], -1) @ jnp.ones((C + I, C)),
        "a concatenation along it",
    ),
    "padded": (lambda p, x: jnp.pad(x @ p["u"], ((0, 0), (0, 0), (1, 1)))[..., 2:], "it is padded"),
    "pooled": (
        lambda p, x: jax.lax.reduce_window(
            x @ p["u"], 0.0, jax.lax.add, (1, 1, 3), (1, 1, 1), "SAME"
        ),
        "a window slides along it",
    ),
    "numbered": (lambda p, x: (x @ p["u"]) * jax.lax.iota(jnp.float32, C), "it is numbered"),
    "constant": (
        lambda p, x: (x @ p["u"]) * np.arange(C, dtype=np.float32),
        "a constant of the model has it",
    ),
    "looked up": (
        lambda p, x: jnp.take(x @ p["u"], jnp.array([0, 0, 1, 2, 3, 4]), axis=-1),
        "looked up by their number",
    ),
    "scan": (scanned, r"a loop or a branch \(scan\)"),
    "cond": (
        lambda p, x: jax.lax.cond(x[0, 0, 0] > 0, jnp.sin, jnp.cos, x @ p["u"]),
        r"a loop or a branch \(cond\)",
    ),
    "no rule": (lambda p, x: jnp.fft.fft(x @ p["u"]).real, "fft, which has no rule"),
    "split in two ways": (
        lambda p, x: (
            (x @ p["u"]).reshape(-1, 4).sum(1, keepdims=True).reshape(3, 3)[:1, :1, None]
            * (x @ p["u"])
        ),
        "split in two ways",
    ),
    "no factor that is zero": (
        lambda p, x: attend(p, jax.nn.sigmoid(x @ p["u"]), jnp.cos(x @ p["u"]), x @ p["u"]),
        "a product of two activations sums over it",
    ),
    "not finite": (lambda p, x: jnp.log(jnp.abs(x @ p["u"])), "log is not finite at 0"),
    "divided": (lambda p, x: (x @ p["u"]) / p["b"], "div is not finite at 0"),
    "to a negative power": (lambda p, x: (x @ p["u"]) ** -2, "integer_pow is not finite at 0"),
    "square root": (lambda p, x: jnp.sqrt(jnp.abs(x @ p["u"])), "slope of sqrt is infinite at 0"),
    "signed square root": (
        lambda p, x: jnp.sign(x @ p["u"]) * jnp.sqrt(jnp.abs(x @ p["u"])),
        "slope of sqrt is infinite",
    ),
    "norm over tokens": (
        lambda p, x: jnp.linalg.norm(x @ p["u"], axis=1, keepdims=True),
        "slope of sqrt",
    ),
    "deviation over tokens": (lambda p, x: (x @ p["u"]).std(1, keepdims=True), "slope of sqrt"),
    "cube root": (lambda p, x: jnp.cbrt(x @ p["u"]), "slope of cbrt"),
    "power below one": (lambda p, x: jnp.abs(x @ p["u"]) ** 0.7, "slope of pow"),
    "learned power": (lambda p, x: jnp.abs(x @ p["u"]) ** p["b"], "slope of pow is infinite"),
    "root that is kept away from zero too late": (
        lambda p, x: jnp.where(x @ p["u"] > 0, jnp.sqrt(jnp.maximum(x @ p["u"], 0.0)), 0.0),
        "slope of sqrt",
    ),
    "root within limits": (
        lambda p, x: jnp.sqrt(jax.lax.clamp(-6.0, jnp.abs(x @ p["u"]), 6.0)),
        "slope of sqrt",
    ),
    "root of what vanishes": (lambda p, x: jnp.sqrt(jnp.cosh(x @ p["u"]) - 1.0), "slope of sqrt"),
    "angle of one": (
        lambda p, x: jnp.arccos(jnp.cos(x @ p["u"])),
        "slope of acos is infinite at 1",
    ),
    "angle of nothing": (lambda p, x: jnp.arctan2(x @ p["u"], x @ p["u"]), "slope of atan2"),
    "error function's inverse": (
        lambda p, x: jax.lax.erf_inv(jnp.exp(x @ p["u"])),
        "erf_inv is not finite at 1",
    ),
    "unit length": (lambda p, x: x @ p["u"] / jnp.abs(x @ p["u"]), "div is not finite at 0"),
    "all pairs": (
        lambda p, x: jnp.einsum(
            "bcd,bsd->bsc", jnp.einsum("btc,btd->bcd", x @ p["u"], x @ p["u"]), x @ p["u"]
        ),
        "two axes of one activation are it",
    ),
    "branched off to the output": (lambda p, x: x @ p["u"], "an output of the model"),
}


def gradient(function: Function, removed: bool) -> Any:
    """By all parameters, with a channel of zeros or without."""
    kept = jnp.arange(C) > 0 if removed else jnp.ones(C, bool)
    masked = {
        "u": PARAMS["u"] * kept, "b": PARAMS["b"] * kept, "w": PARAMS["w"] * kept[:, None],
        "v": PARAMS["v"],
    }  # fmt: skip
    return jax.grad(lambda p: jnp.square(function(p, X).astype(jnp.float32) @ p["w"]).sum())(masked)


STEEP = [how for how, (_, reason) in REFUSED.items() if "slope" in reason]


@pytest.mark.parametrize("how", STEEP)
def test_what_is_refused_for_its_slope_would_diverge(how: str) -> None:
    found = gradient(REFUSED[how][0], removed=True)
    assert not np.isfinite(found["u"]).all()


@pytest.mark.parametrize("how", ALLOWED)
def test_what_can_go_trains_with_zeros(how: str) -> None:
    found = gradient(ALLOWED[how], removed=True)
    assert all(np.isfinite(array).all() for array in found.values())
    before = gradient(ALLOWED[how], removed=False)
    assert all(np.isfinite(array).all() for array in before.values())


@pytest.mark.parametrize("how", REFUSED)
def test_these_are_refused(how: str) -> None:
    function, reason = REFUSED[how]

    def predict(p: Any, x: Any) -> Any:
        h = function(p, x)
        return (h, h @ p["w"]) if how.startswith("branched") else h @ p["w"]

    channels = find(predict)
    assert channels.groups == ()
    assert re.search(reason, channels.refused["u"])


def test_a_zero_factor_makes_a_product_of_activations_exact() -> None:
    """One side is enough."""
    (group,) = find(
        lambda p, x: attend(p, jax.nn.sigmoid(x @ p["u"]), x @ p["u"], x @ p["u"]) @ p["w"]
    ).groups
    assert group.name == "u"


def test_a_name_that_is_used_twice() -> None:
    with pytest.raises(UsageError, match="'u' in both"):
        find_channels(lambda p, s, x: x @ p["u"], PARAMS, {"u": X}, X)
