"""What several tests share: random spaces, and small models of each kind that Flax has."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# As the processes of paretax run: what a model rounds to bfloat16 is rounded.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_allow_excess_precision=false"

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as linen
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.spaces import Categorical, Float, Integer, Ordinal, Parameter, Space
from paretax.tasks import Arrays, Data, Model, Split, SupervisedTask, build_model, classification

hypothesis.settings.register_profile("paretax", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("paretax")


# Random spaces ------------------------------------------------------------------------------------

_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-3, 3),
    st.floats(-2, 2, allow_subnormal=False),
    st.text(st.sampled_from("aB1 :é"), max_size=3),
)


@st.composite
def _floats(draw: st.DrawFn, name: str, when: Any, small: bool) -> Float:
    kind = "step" if small else draw(st.sampled_from(["plain", "log", "step"]))
    if kind == "log":
        low = draw(st.floats(1e-6, 10))
        return Float(name, low, low * draw(st.floats(1, 1e4)), log=True, when=when)
    low = draw(st.floats(-100, 100, allow_subnormal=False))
    if kind == "plain":
        return Float(name, low, low + draw(st.floats(0, 1000)), when=when)
    step = draw(st.sampled_from([0.1, 0.25, 0.3, 0.7, 2, 1e-3]))
    low = round(low, 2)
    width = round(step * draw(st.floats(0, 4 if small else 50)), 4)
    return Float(name, low, round(low + width, 4), step=step, when=when)


@st.composite
def _integers(draw: st.DrawFn, name: str, when: Any, small: bool) -> Integer:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -50, 50))
    step = None if log else draw(st.none() | st.integers(1, 7))
    high = low + (step or 1) * draw(st.integers(0, 4 if small else 30))
    return Integer(
        name, low, high + draw(st.integers(0, (step or 1) - 1)), log=log, step=step, when=when
    )


@st.composite
def _listed(draw: st.DrawFn, name: str, when: Any) -> Parameter:
    key = lambda v: (isinstance(v, bool), isinstance(v, str), v)  # noqa: E731
    choices = draw(st.lists(_SCALARS, min_size=1, max_size=4, unique_by=key))
    if draw(st.booleans()):
        return Categorical(name, choices, when=when)
    return Ordinal(name, choices, when=when)


def _parameter(name: str, when: Any = None, small: bool = False) -> st.SearchStrategy[Parameter]:
    return st.one_of(_listed(name, when), _integers(name, when, small), _floats(name, when, small))


@st.composite
def _clause(draw: st.DrawFn, parents: Sequence[Parameter]) -> Mapping[str, object]:
    """Tests that the named parameters can pass."""
    names = st.lists(st.sampled_from(parents), min_size=1, max_size=2, unique_by=lambda p: p.name)
    tests: dict[str, object] = {}
    for parent in draw(names):
        values = list(parent.grid(4))
        forms = ["one", "several"]
        if isinstance(parent, Float | Integer):
            forms += ["min", "max", "both"]
        form = draw(st.sampled_from(forms))
        if form == "one":
            tests[parent.name] = draw(st.sampled_from(values))
        elif form == "several":
            index = st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3, unique=True)
            tests[parent.name] = [values[i] for i in draw(index)]
        elif form == "both":
            ends = sorted(float(draw(st.sampled_from(values))) for _ in range(2))
            tests[parent.name] = {"min": ends[0], "max": ends[1]}
        else:
            tests[parent.name] = {form: draw(st.sampled_from(values))}
    return tests


@st.composite
def _spaces(draw: st.DrawFn, small: bool = False) -> Space:
    made: list[Parameter] = []
    for i in range(draw(st.integers(1, 4 if small else 6))):
        conditional = bool(made) and draw(st.booleans())
        when = draw(_clause(made)) if conditional else None
        made.append(draw(_parameter(f"p{i}", when, small)))
    forbidden = draw(st.lists(_clause(made), max_size=2))
    space = Space(draw(st.permutations(made)), forbidden)
    try:
        space.sample(np.random.default_rng(0))
    except UsageError:  # its clauses forbid everything
        hypothesis.reject()
    return space


@pytest.fixture(scope="session")
def parameters() -> st.SearchStrategy[Parameter]:
    """Parameters of every type, without a condition."""
    return _parameter("p")


@pytest.fixture(scope="session")
def spaces() -> st.SearchStrategy[Space]:
    """Spaces with conditions (chains too) and forbidden clauses; at least one candidate is left."""
    return _spaces()


@pytest.fixture(scope="session")
def small_spaces() -> st.SearchStrategy[Space]:
    """The same, without continuous parameters and with few candidates."""
    return _spaces(small=True)


# Small models -------------------------------------------------------------------------------------


class NnxNet(nnx.Module):
    """Convolution, batch norm, attention with a residual, dropout, and a linear layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(x)))
        x = x.reshape(x.shape[0], 16, 4)
        x = self.dropout(x + self.attention(x))
        return self.out(x.mean(axis=1))


class LowNet(nnx.Module):
    """Computes in bfloat16, and keeps its weights in float32."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs, dtype=jnp.bfloat16)
        self.out = nnx.Linear(64, 3, rngs=rngs, dtype=jnp.bfloat16)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv(x))
        return self.out(x.reshape(x.shape[0], 64))


class LinenNet(linen.Module):
    """The same in flax.linen."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.Conv(4, (3, 3), name="conv")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, name="norm")(x))
        x = x.reshape(x.shape[0], 16, 4)
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(x)
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return linen.Dense(3, name="out")(x.mean(axis=1))


def _pair_init(key: jax.Array, x: jax.Array) -> dict[str, Any]:
    one, two, three = jax.random.split(key, 3)
    return {
        "first": {"w": jax.random.normal(one, (16, 6)), "b": jax.random.normal(two, (6,))},
        "out": jax.random.normal(three, (6, 3)),
    }


def _pair_apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0], 16)
    hidden = jax.nn.relu(x @ params["first"]["w"] + params["first"]["b"])
    return jnp.dot(hidden, params["out"])


@dataclass(frozen=True, kw_only=True)
class Net:
    """A model with arrays (unlike its initial ones, none is constant) and a batch of inputs."""

    kind: str
    model: Model
    params: Arrays
    state: Arrays
    inputs: jax.Array


def _no_data() -> Data:
    part = Split(np.zeros((2, 4, 4, 1), np.float32), np.arange(2))
    return Data(train=part, validation=part, test=part)


def make_task(build: Any) -> SupervisedTask:
    """A task of 4 x 4 images whose model is `build`'s."""
    return classification("images", load=_no_data, build=build, defaults={})


def make_net(kind: str, build: Any) -> Net:
    """`build`'s model with fixed arrays and inputs."""
    model = build_model(make_task(build), {}, jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return Net(
        kind=kind,
        model=model,
        params={n: jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype) for n, a in params.items()},
        state={n: jnp.asarray(rng.uniform(0.5, 1.5, a.shape), a.dtype) for n, a in state.items()},
        inputs=jnp.asarray(rng.normal(size=(5, 4, 4, 1)), jnp.float32),
    )


@pytest.fixture(scope="session")
def nnx_net() -> Net:
    """A flax.nnx model."""
    return make_net("nnx", lambda config, rngs: NnxNet(rngs))


@pytest.fixture(scope="session")
def bfloat16_net() -> Net:
    """A flax.nnx model that computes in bfloat16 and keeps its weights in float32."""
    return make_net("bfloat16", lambda config, rngs: LowNet(rngs))


@pytest.fixture(scope="session")
def linen_net() -> Net:
    """A flax.linen model."""
    return make_net("linen", lambda config: LinenNet())


@pytest.fixture(scope="session")
def pair_net() -> Net:
    """A pair of functions."""
    return make_net("pair", lambda config: (_pair_init, _pair_apply))


@pytest.fixture(scope="session", params=["nnx", "linen", "pair"])
def net(request: pytest.FixtureRequest) -> Net:
    """A model of each kind."""
    found: Net = request.getfixturevalue(f"{request.param}_net")
    return found


# The lines of JAX ---------------------------------------------------------------------------------

_ANY_JAX = (  # files and folders that neither trace, compile and export nor read what JAX wrote
    "benchmarks",
    "cli",
    "evaluators/compilers/test_hlo.py",
    "evaluators/latency_model",
    "evaluators/test_cache.py",
    "evaluators/test_measurement.py",
    "evaluators/test_objectives.py",
    "evaluators/test_systolic.py",
    "evaluators/test_timing.py",
    "hardware_profiles",
    "results/test_leaderboard.py",
    "results/test_pareto.py",
    "results/test_report.py",
    "results/test_selection.py",
    "search/test_config.py",
    "search/test_dealing.py",
    "search/test_nsga2.py",
    "search/test_rungs.py",
    "search/test_samplers.py",
    "search/test_standing.py",
    "spaces/test_conditions.py",
    "spaces/test_dimensions.py",
    "spaces/test_operators.py",
    "spaces/test_parameters.py",
    "spaces/test_parsing.py",
    "spaces/test_preprocessing_parity.py",
    "spaces/test_recipe.py",
    "spaces/test_rules.py",
    "spaces/test_schedule.py",
    "spaces/test_signature.py",
    "spaces/test_space.py",
    "spaces/test_training.py",
    "tasks/test_loading.py",
    "tasks/test_splitting.py",
    "tasks/test_task.py",
    "test_docs.py",
    "test_packaging.py",
)


_ONE_LINE = {  # of what takes long, the tests whose kind others hold on both lines, more cheaply
    "evaluators/test_parts.py": ("test_parts_rank_", "test_unseen_"),
    "evaluators/test_population.py": (
        "test_a_lane_",
        "test_a_training_goes_on_from_its_rung[pruned",
        "test_a_training_goes_on_from_its_rung[smoothed",
        "test_a_worker_",
        "test_accuracies_are_equal",
        "test_out_of_memory_",
        "test_programs_of_several_signatures",
        "test_several_devices_",
        "test_the_size_of_a_population_",
    ),
    "evaluators/test_targets.py": ("test_real_models_",),
    "test_own_models.py": (
        "test_every_technique[bfloat16",
        "test_every_technique[in turn",
        "test_every_technique[lottery",
        "test_every_technique[pattern",
    ),
}


def _needs_both(item: pytest.Item) -> bool:
    place = item.path.relative_to(Path(__file__).parent)
    if place.is_relative_to("agreement"):  # the first draws of each system: all take too long
        drawn = getattr(item, "callspec", None)
        return drawn is None or not drawn.params.get("first")
    if item.name.startswith(_ONE_LINE.get(str(place), ())):
        return False
    return not any(place.is_relative_to(listed) for listed in _ANY_JAX)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark what CI runs with both lines of JAX: all that is not listed, so that new tests are."""
    for item in items:
        if _needs_both(item):
            item.add_marker(pytest.mark.jax)
