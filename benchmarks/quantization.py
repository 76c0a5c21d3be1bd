"""How much accuracy quantisation costs, after training and in training, and what Qwix gives.

The float32 networks are trained once for each seed; everything else starts from them, or for
quantisation-aware training from the same seed. Accuracies are of the test split, means over seeds.
Qwix (google/qwix) gets the same weights: W8A8, and at 4 bits the weights of dense layers alone with
convolutions at W8A8, as its convolutions want equal types on both sides, and 4-bit activations do
not compile on a CPU. Ours is then set to the same.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
from flax import nnx
from reporting import arguments, finish, need, of_scale, show

from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.accuracy import in_chunks
from paretax.tasks import load_task
from paretax.tasks.task import call_build

MODELS = {
    "digits": {"width": 64, "depth": 2, "epochs": 60, "learning_rate": 3e-3},
    "mnist5k": {"channels": 8, "depth": 2, "hidden": 64, "epochs": 12, "learning_rate": 2e-3},
}
W8A8: dict[str, Any] = {"weight_bits": 8, "activation_bits": 8}
W4: dict[str, Any] = {
    "weight_bits": 4,
    "weight_bits@convolution": 8,
    "activation_bits@convolution": 8,
}
SCHEMES: dict[str, dict[str, Any]] = {
    "w8a8": W8A8,
    "w4a8": {"weight_bits": 4, "activation_bits": 8},
    "ptq_w2a8": {"weight_bits": 2, "activation_bits": 8},
    "qat_w2a8": {"weight_bits": 2, "activation_bits": 8, "qat": "lsq", "qat_start": 0.3},
}


def qwix_accuracy(bench: Workbench, config: dict[str, Any], weights: Any, bits: int) -> float:
    """The test accuracy of the same weights in Qwix's own quantised model."""
    import qwix

    model = call_build(bench.task.build, bench.config(config), nnx.Rngs(0), bench.batch_shape(2))
    model.eval()
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        variable.set_value(jax.numpy.asarray(weights["/".join(map(str, path))]))
    graph, state = nnx.split(model)
    model = nnx.merge(graph, state)
    whole = {"weight_qtype": "int8", "act_qtype": "int8"}
    rules = [qwix.QuantizationRule(module_path=".*", **whole)]
    if bits == 4:
        rules = [
            qwix.QuantizationRule(module_path="convolutions.*", **whole),
            qwix.QuantizationRule(module_path=".*", weight_qtype="int4"),
        ]
    example = jax.numpy.asarray(bench.data.test.inputs[:2])
    quantized = qwix.quantize_model(model, qwix.PtqProvider(rules), example)
    outputs = in_chunks(nnx.jit(quantized), bench.data.test.inputs)
    return float(bench.task.metric.compute(outputs, bench.data.test.targets))


def main() -> None:
    """Run both sides and print the table."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    need("qwix")
    # One of digits' 359 test examples is 0.28 points, of mnist5k's 500 it is 0.2.
    seeds_of = {
        "digits": of_scale(given, full=12, quick=12, smoke=1),
        "mnist5k": of_scale(given, full=20, quick=10, smoke=1),
    }
    shorter = of_scale(given, full={}, quick={}, smoke={"epochs": 1})
    rows: list[dict[str, Any]] = []
    drops: dict[str, list[float]] = {name: [] for name in SCHEMES}
    gaps: dict[int, list[float]] = {8: [], 4: []}
    for task, config in ((task, model | shorter) for task, model in MODELS.items()):
        bench = Workbench(load_task(task, []))
        evaluator, test = AccuracyEvaluator(bench), bench.data.test
        found: dict[str, list[float]] = {}
        for seed in range(seeds_of[task]):
            dense = evaluator.train(config, seed)
            found.setdefault("float32", []).append(evaluator.score(config, dense, test))
            for name, extra in SCHEMES.items():
                candidate = config | extra
                weights = evaluator.train(candidate, seed) if "qat" in extra else dense
                found.setdefault(name, []).append(evaluator.score(candidate, weights, test))
            for bits, extra in ((8, W8A8), (4, W4)):
                ours = evaluator.score(config | extra, dense, test)
                found.setdefault(f"ours_{bits}", []).append(ours)
                theirs = qwix_accuracy(bench, config, dense, bits)
                found.setdefault(f"qwix_{bits}", []).append(theirs)
        mean = {name: 100.0 * float(np.mean(values)) for name, values in found.items()}
        for name in SCHEMES:
            drops[name].append(mean["float32"] - mean[name])
        for bits in gaps:
            gaps[bits].append(abs(mean[f"ours_{bits}"] - mean[f"qwix_{bits}"]))
        rows += [{"task": task, "seeds": seeds_of[task]} | mean]
    show("Test accuracy, per cent", rows)
    figures = {f"drop_{name}": max(values) for name, values in drops.items()}
    figures["drop_ptq_w2a8"] = min(drops["ptq_w2a8"])
    figures |= {f"qwix_gap_{bits}": max(values) for bits, values in gaps.items()}
    finish(given, figures, began, ["qwix"])


if __name__ == "__main__":
    main()
