"""Candidates trained a minute: ours, Ray Tune with OptunaSearch, and Optuna in one process.

All sides train the same candidates of the same model on the same data for as many epochs. Each runs
in a process of its own, on an otherwise idle machine. The figures are of the time from the first
proposal to the last result, all compilation included; the table also has the rate with the start of
the process, its imports and its workers.

Ray Tune: OptunaSearch (which is handed our candidates), actors that are used again, one trial a
core, a plain Flax and optax trial. Optuna: one process, a trial that is written to jit well: one
compiled step for each architecture, the learning rate and the weight decay traced through
`optax.inject_hyperparams`. Ours: `run_search`, with the workers that it has by default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BEGAN = time.time()

SETUPS: dict[str, dict[str, Any]] = {
    "digits": {
        "space": {
            "width": {"type": "ordinal", "choices": [16, 32, 64]},
            "depth": {"type": "int", "low": 1, "high": 2},
        },
        "batch_size": 128,
        "epochs": 54,
    },
    "mnist5k": {
        "space": {
            "channels": {"type": "ordinal", "choices": [4, 8]},
            "hidden": {"type": "ordinal", "choices": [32, 64]},
        },
        "batch_size": 128,
        "epochs": 2,
    },
}
Counts = dict[tuple[str, str], int]
FULL: Counts = {
    ("digits", "few"): 200, ("digits", "many"): 1000, ("digits", "ray_tune"): 100,
    ("mnist5k", "few"): 48, ("mnist5k", "ray_tune"): 24,
}  # fmt: skip
QUICK = FULL | {("digits", "many"): 400, ("digits", "ray_tune"): 24, ("mnist5k", "ray_tune"): 8}
SMOKE = dict.fromkeys(FULL, 2)
"""How many candidates each side trains, by task."""

NUMBERS = {
    "learning_rate": {"type": "float", "low": 1e-3, "high": 2e-2, "log": True},
    "weight_decay": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
}


def config_of(task: str, trials: int, epochs: int) -> dict[str, Any]:
    """Our config of a task."""
    setup = SETUPS[task]
    held = {"optimizer": "adamw", "batch_size": setup["batch_size"], "epochs": epochs}
    return {
        "task": task,
        "space": {**setup["space"], **NUMBERS, **held},
        "objectives": ["accuracy", "size"],
        "budget": {"trials": trials},
        "sampler": "random",
        "batch": trials,
        "final_seeds": 0,  # the other sides train each candidate once
    }


# Ours ---------------------------------------------------------------------------------------------


def ours(task: str, trials: int, epochs: int, folder: Path) -> dict[str, Any]:
    """Search; the time, how it was spent, and the candidates with their accuracies."""
    from paretax.search import parse_config, plan, run_search

    os.environ["PARETAX_CACHE"] = str(folder / "cache")  # nothing from earlier runs
    config = parse_config(config_of(task, trials, epochs), "the benchmark's config")
    run = run_search(plan(config), folder / "run")
    journal = [json.loads(line) for line in (folder / "run" / "journal.jsonl").open()]
    start = next(e["time"] for e in journal if e["event"] == "run") - BEGAN
    last = max(e["time"] for e in journal if e["event"] == "trained") - BEGAN
    found = [m for t in run.trials for m in t.measurements if m.objective == "accuracy"]
    spent = {
        stage: sum(m.detail["seconds"][stage] for m in found) for stage in ("compile", "score")
    }
    busy = sum(m.seconds for m in found)
    workers = config.worker_count
    return {
        "seconds": last,
        "start": start,
        "compile": spent["compile"] / workers,
        "train": (busy - sum(spent.values())) / workers,
        "evaluate": spent["score"] / workers,
        "idle": last - start - busy / workers,
        "candidates": [dict(t.candidate) for t in run.trials],
        "accuracies": [m.value for m in found],
    }


# A plain Flax and optax trial ---------------------------------------------------------------------


def plain_trial(task: Any, data: Any, candidate: dict[str, Any]) -> float:
    """Train as a user would, and return the accuracy on the validation split."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    config = {name: candidate.get(name, value) for name, value in task.defaults.items()}
    model = task.build(
        config, nnx.Rngs(0), jax.ShapeDtypeStruct((1, *data.train.inputs.shape[1:]), np.float32)
    )
    batch, epochs = int(candidate["batch_size"]), int(candidate["epochs"])
    steps = len(data.train) // batch
    schedule = optax.cosine_decay_schedule(candidate["learning_rate"], epochs * steps)
    optimizer = nnx.Optimizer(
        model, optax.adamw(schedule, weight_decay=candidate["weight_decay"]), wrt=nnx.Param
    )

    @nnx.jit
    def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> None:
        def loss(model: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in rng.permutation(len(data.train))[: steps * batch].reshape(steps, batch):
            step(model, optimizer, data.train.inputs[rows], data.train.targets[rows])
    outputs = nnx.jit(lambda model, x: model(x))(model, jnp.asarray(data.validation.inputs))
    return float((np.asarray(outputs).argmax(-1) == data.validation.targets).mean())


class TuneSpace:
    """Our candidates' parameters, as OptunaSearch defines them; may be pickled."""

    def __init__(self, candidates: list[dict[str, Any]]) -> None:
        self.values = {name: [c[name] for c in candidates] for name in candidates[0]}

    def __call__(self, trial: Any) -> None:
        """Suggest each."""
        for name, values in self.values.items():
            if isinstance(values[0], float):
                trial.suggest_float(name, min(values), max(values))
            else:
                trial.suggest_categorical(name, sorted(set(values)))


def ray_tune(task: str, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """The candidates by Ray Tune; seconds and accuracies."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from paretax.tasks import load_task

    class Plain(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.config, self.task = config, load_task(task, [])
            self.data = self.task.data()

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

        def step(self) -> dict[str, Any]:
            return {"accuracy": plain_trial(self.task, self.data, self.config), "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: it would only cost time."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Likewise."""

    space = TuneSpace(candidates)
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    start = time.time() - BEGAN
    search = OptunaSearch(space, metric="accuracy", mode="max", points_to_evaluate=candidates)
    tuner = tune.Tuner(
        tune.with_resources(Plain, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=len(candidates),
            reuse_actors=True,
            max_concurrent_trials=os.cpu_count(),
        ),
        run_config=tune.RunConfig(verbose=0, storage_path=tempfile.mkdtemp()),
    )
    results = tuner.fit()
    seconds = time.time() - BEGAN
    found = {
        json.dumps(r.config, sort_keys=True): r.metrics["accuracy"] for r in results if r.metrics
    }
    accuracies = [found[json.dumps(c, sort_keys=True)] for c in candidates]
    return {"seconds": seconds, "start": start, "accuracies": accuracies}


def optuna_jitted(task: str, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """The candidates by Optuna in one process, with one compiled step for each architecture."""
    import jax
    import jax.numpy as jnp
    import optax
    import optuna
    from flax import nnx

    from paretax.tasks import load_task

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = load_task(task, [])
    data = problem.data()
    shape = jax.ShapeDtypeStruct((1, *data.train.inputs.shape[1:]), np.float32)
    kept: dict[str, Any] = {}

    def programs(candidate: dict[str, Any]) -> Any:
        config = {name: candidate.get(name, value) for name, value in problem.defaults.items()}
        key = json.dumps(config, sort_keys=True)
        if key in kept:
            return kept[key]
        graph, _ = nnx.split(problem.build(config, nnx.Rngs(0), shape))
        steps = int(candidate["epochs"]) * (len(data.train) // int(candidate["batch_size"]))

        def adamw(learning_rate: Any, weight_decay: Any) -> Any:
            schedule = optax.cosine_decay_schedule(1.0, steps)
            return optax.chain(
                optax.scale_by_adam(),
                optax.add_decayed_weights(weight_decay),
                optax.scale_by_schedule(schedule),
                optax.scale(-learning_rate),
            )

        optimizer = optax.inject_hyperparams(adamw)(learning_rate=0.0, weight_decay=0.0)

        @jax.jit
        def init(key: jax.Array) -> Any:
            return nnx.split(problem.build(config, nnx.Rngs(key), shape))[1]

        @jax.jit
        def start(params: Any, rate: Any, decay: Any) -> Any:
            state = optimizer.init(params)
            state.hyperparams.update(learning_rate=rate, weight_decay=decay)
            return state

        @jax.jit
        def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
            def loss(params: Any) -> jax.Array:
                logits = nnx.merge(graph, params)(x)
                return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        predict = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
        kept[key] = init, start, step, predict
        return kept[key]

    accuracies = []

    def objective(trial: optuna.Trial) -> float:
        candidate = candidates[trial.number]
        for name, value in candidate.items():
            if isinstance(value, float):
                trial.suggest_float(name, 1e-5, 1e-1, log=True)
            else:
                trial.suggest_categorical(name, sorted({c[name] for c in candidates}))
        init, start, step, predict = programs(candidate)
        params = init(jax.random.key(0))
        state = start(
            params, jnp.float32(candidate["learning_rate"]), jnp.float32(candidate["weight_decay"])
        )
        batch = int(candidate["batch_size"])
        steps = len(data.train) // batch
        rng = np.random.default_rng(0)
        for _ in range(int(candidate["epochs"])):
            for rows in rng.permutation(len(data.train))[: steps * batch].reshape(steps, batch):
                params, state = step(
                    params, state, data.train.inputs[rows], data.train.targets[rows]
                )
        outputs = np.asarray(predict(params, data.validation.inputs))
        accuracies.append(float((outputs.argmax(-1) == data.validation.targets).mean()))
        return accuracies[-1]

    study = optuna.create_study(direction="maximize")
    for candidate in candidates:
        study.enqueue_trial(candidate)
    start_seconds = time.time() - BEGAN
    study.optimize(objective, n_trials=len(candidates))
    return {
        "seconds": time.time() - BEGAN,
        "start": start_seconds,
        "accuracies": accuracies,
    }


# One population against a hand-written loop -------------------------------------------------------


def loop_ratio(count: int, epochs: int) -> dict[str, Any]:
    """Seconds to train a population, everything compiled, and those of a minimal jitted loop."""
    from paretax.evaluators.runtime import apply_worker_environment

    apply_worker_environment()
    import jax
    import jax.numpy as jnp
    import optax

    from paretax.evaluators import Workbench
    from paretax.evaluators.calibrating import Calibrator
    from paretax.evaluators.training import Trainer
    from paretax.tasks import load_task

    bench = Workbench(load_task("digits", []))
    setup = SETUPS["digits"]
    shape = {"width": 64, "depth": 2, "optimizer": "adamw"}
    held = {"batch_size": setup["batch_size"], "epochs": epochs, **shape}
    rng = np.random.default_rng(0)
    rates = 10 ** rng.uniform(-3, -2, count)
    model = bench.prepared(held).model
    train, batch = bench.data.train, int(held["batch_size"])
    steps = len(train) // batch
    inputs, targets = jnp.asarray(train.inputs), jnp.asarray(train.targets)

    @jax.jit
    def minimal(key: jax.Array, rate: jax.Array, decay: jax.Array, order: jax.Array) -> Any:
        params, _ = model.init(key)

        def step(carry: Any, given: Any) -> Any:
            params, state = carry
            rows, share = given

            def loss(params: Any) -> jax.Array:
                logits, _ = model.apply(params, {}, inputs[rows], key)
                return optax.softmax_cross_entropy_with_integer_labels(logits, targets[rows]).mean()

            optimizer = optax.adamw(rate * share, weight_decay=decay)
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        shares = 0.5 * (1 + jnp.cos(jnp.pi * jnp.arange(len(order)) / len(order)))
        begun = params, optax.adamw(rate).init(params)
        (params, _), _ = jax.lax.scan(step, begun, (order, shares))
        return params

    def by_hand(seed: int, rate: float) -> Any:
        generator = np.random.default_rng(seed)
        order = [
            generator.permutation(len(train))[: steps * batch].reshape(steps, batch)
            for _ in range(int(held["epochs"]))
        ]
        rows = jnp.asarray(np.concatenate(order).astype(np.int32))
        return minimal(jax.random.key(seed), jnp.float32(rate), jnp.float32(0.01), rows)

    trainer = Trainer(bench, Calibrator())

    def by_us(seed: int, rate: float) -> Any:
        return trainer.train({**held, "learning_rate": rate, "weight_decay": 0.01}, seed)[0]

    taken: dict[str, list[float]] = {"ours": [], "minimal": []}
    for one in (by_us, by_hand):
        jax.block_until_ready(one(0, 0.01))  # compiles
    for _ in range(3):
        for name, one in (("ours", by_us), ("minimal", by_hand)):
            begin = time.perf_counter()
            for seed, rate in enumerate(rates):
                jax.block_until_ready(one(seed, float(rate)))
            taken[name].append(time.perf_counter() - begin)
    return {name: min(seconds) for name, seconds in taken.items()} | {"count": count}


# All of it ----------------------------------------------------------------------------------------


def side(name: str, *arguments: Any) -> dict[str, Any]:
    """What a side gives, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.json", Path(folder) / "found.json"
        given.write_text(json.dumps(arguments))
        command = [sys.executable, __file__, "--side", name, "--folder", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        result: dict[str, Any] = json.loads(found.read_text())
        return result


def run_side(name: str, folder: Path) -> None:
    """The other end of `side`."""
    arguments = json.loads((folder / "given.json").read_text())
    sides = {"ray_tune": ray_tune, "optuna": optuna_jitted, "loop": loop_ratio}
    found = ours(*arguments, folder) if name == "ours" else sides[name](*arguments)
    (folder / "found.json").write_text(json.dumps(found))


def main() -> None:
    """Run all sides and print the tables."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--side")
    parser.add_argument("--folder", type=Path)
    hidden, rest = parser.parse_known_args()
    if hidden.side:
        run_side(hidden.side, hidden.folder)
        return
    sys.argv[1:] = rest
    from reporting import arguments, finish, need, of_scale, show

    given, began = arguments(__doc__ or ""), time.perf_counter()
    need("optuna", "pyarrow", "tensorboardX")  # the last two: Ray Tune's
    counts = of_scale(given, full=FULL, quick=QUICK, smoke=SMOKE)
    rows, rates, gaps = [], {}, []

    def note(who: str, task: str, which: str, found: dict[str, Any]) -> None:
        count = len(found["accuracies"])
        rate = 60 * count / (found["seconds"] - found["start"])
        whole = 60 * count / found["seconds"]
        rates[who, task, which], rates[who, task, f"{which}_started"] = rate, whole
        stages = {s: found.get(s) for s in ("start", "compile", "train", "evaluate", "idle")}
        rows.append(
            {"side": who, "task": task, "candidates": count, "a minute": rate}
            | {"with the start": whole, "seconds": found["seconds"], **stages}
            | {"mean accuracy": float(np.mean(found["accuracies"]))}
        )

    def compare(peer: str, who: str, task: str, count: int, ours: dict[str, Any]) -> None:
        found = side(peer, task, ours["candidates"][:count])
        note(who, task, "few", found)
        gaps.append(np.mean(found["accuracies"]) - np.mean(ours["accuracies"][:count]))

    for task in SETUPS:
        epochs = of_scale(given, full=None, quick=None, smoke=1) or SETUPS[task]["epochs"]
        for which in ("few", "many") if task == "digits" else ("few",):
            if which == "few" or counts[task, which] != counts[task, "few"]:
                tested = side("ours", task, counts[task, which], epochs)
            note("ours", task, which, tested)
        compare("ray_tune", "ray_tune", task, counts[task, "ray_tune"], tested)
        if task == "digits":
            compare("optuna", "optuna", task, counts[task, "few"], tested)
    loop = side("loop", *of_scale(given, full=(32, 54), quick=(32, 54), smoke=(2, 1)))
    show("Candidates trained; the stages are seconds on each worker", rows)
    show(
        f"One population of {loop['count']}, compiled before: seconds (best of 3)",
        [{"paretax": loop["ours"], "minimal loop": loop["minimal"]}],
    )
    figures = speedups(rates) | {
        "loop_ratio": loop["ours"] / loop["minimal"],
        "accuracy_gap": 100 * float(max(map(abs, gaps))),
    }
    figures |= {f"candidates_{task}_{which}": n for (task, which), n in counts.items()}
    finish(given, figures, began, ["ray", "optuna"])


def speedups(rates: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Candidates a minute of each side, and how many times those of the others ours are.

    A figure whose name ends in `_started` counts the start of all processes.
    """
    found = {f"a_minute_{'_'.join(key)}": rate for key, rate in rates.items()}
    for end in ("", "_started"):
        for name, peer, task, which in (
            ("ray_tune_digits_200", "ray_tune", "digits", "few"),
            ("ray_tune_digits_1000", "ray_tune", "digits", "many"),
            ("optuna_digits_200", "optuna", "digits", "few"),
            ("ray_tune_mnist5k", "ray_tune", "mnist5k", "few"),
        ):
            found[f"speedup_{name}{end}"] = (
                rates["ours", task, which + end] / rates[peer, task, "few" + end]
            )
    return found


if __name__ == "__main__":
    main()
