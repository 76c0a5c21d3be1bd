"""Cycles of products on a systolic array: our closed form beside the simulator SCALE-Sim.

SCALE-Sim 3 (Raj et al., arXiv:2504.15377; package scalesim) walks an array cycle by cycle. Both
sides get the same layers, arrays and dataflows, with memories that keep up, so that the cycles are
those of the array. The layers are of ResNet-50, MobileNetV2, LeNet-5, BERT-base and the CNN and
transformer of the built-in tasks; long ones have fewer positions, to keep the simulation short.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from reporting import arguments, finish, need, of_scale, show

from paretax.evaluators.kernels import Product
from paretax.evaluators.systolic import Array, Dataflow, cycles


@dataclass(frozen=True)
class Layer:
    """A convolution on a square image, its padding included; 1 x 1 on 1 x m positions: a product.

    Args:
        name: for the table.
        rows: of the input.
        columns: of the input.
        window: side of the filter.
        channels: of the input.
        filters: how many.
        stride: in both directions.
    """

    name: str
    rows: int
    columns: int
    window: int
    channels: int
    filters: int
    stride: int = 1

    @property
    def product(self) -> Product:
        """As paretax sees it."""
        down = (self.rows - self.window) // self.stride + 1
        across = (self.columns - self.window) // self.stride + 1
        window = self.window**2
        return Product(m=down * across, n=self.filters, k=window * self.channels, window=window)


def _dense(name: str, m: int, k: int, n: int) -> Layer:
    """(m, k) x (k, n)."""
    return Layer(name, m, 1, 1, k, n)


LAYERS = (
    Layer("ResNet-50 conv1, 56 pixels", 61, 61, 7, 3, 64, 2),
    Layer("ResNet-50 conv2 1x1", 28, 28, 1, 64, 64),
    Layer("ResNet-50 conv2 3x3", 30, 30, 3, 64, 64),
    Layer("ResNet-50 conv3 3x3, stride 2", 29, 29, 3, 128, 128, 2),
    Layer("ResNet-50 conv4 1x1", 14, 14, 1, 256, 1024),
    Layer("ResNet-50 conv4 3x3", 16, 16, 3, 256, 256),
    Layer("ResNet-50 conv5 3x3", 9, 9, 3, 512, 512),
    Layer("MobileNetV2 expansion", 28, 28, 1, 24, 144),
    Layer("MobileNetV2 projection", 28, 28, 1, 144, 32),
    Layer("MobileNetV2 depthwise, one channel", 30, 30, 3, 1, 1),
    Layer("MobileNetV2 last 1x1", 7, 7, 1, 320, 1280),
    Layer("LeNet-5 conv1", 32, 32, 5, 1, 6),
    Layer("LeNet-5 conv2", 14, 14, 5, 6, 16),
    Layer("mnist5k conv1", 30, 30, 3, 1, 8),
    Layer("mnist5k conv2", 16, 16, 3, 8, 16),
    _dense("mnist5k hidden, batch 1", 1, 784, 64),
    _dense("mnist5k hidden, batch 64", 64, 784, 64),
    _dense("digits MLP, batch 32", 32, 64, 64),
    _dense("LeNet-5 dense, batch 10", 10, 400, 120),
    _dense("ViT tokens to queries", 49, 64, 64),
    _dense("ViT MLP up", 49, 64, 256),
    _dense("ViT scores of a head", 49, 16, 49),
    _dense("BERT-base queries, 64 tokens", 64, 768, 768),
    _dense("BERT-base MLP up, 32 tokens", 32, 768, 3072),
    _dense("ResNet-50 classifier", 1, 2048, 1000),
)
DATAFLOWS: dict[str, Dataflow] = {
    "os": "output_stationary",
    "ws": "weight_stationary",
    "is": "input_stationary",
}
QUICK = ((16, 16), (32, 32))
SMOKE = tuple(layer for layer in LAYERS if layer.name.startswith("mnist5k"))
FULL = (*QUICK, (8, 8), (128, 128), (32, 8), (16, 64))

_CONFIG = """\
[general]
run_name = run
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = 65536
FilterSramSzkB = 65536
OfmapSramSzkB = 65536
IfmapOffset = 0
FilterOffset = 1000000000
OfmapOffset = 2000000000
Dataflow = {dataflow}
Bandwidth = 10
ReadRequestBuffer = 64
WriteRequestBuffer = 64
[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
"""


def simulated(layers: Sequence[Layer], rows: int, columns: int, dataflow: str) -> list[int]:
    """Cycles of each layer, by SCALE-Sim: rows of what its array demands of the memories.

    Its simulation of stalls, which these memories never cause, is left out: version 3.0.0 does not
    run there with NumPy 2.
    """
    from scalesim.compute.operand_matrix import operand_matrix
    from scalesim.compute.systolic_compute_is import systolic_compute_is
    from scalesim.compute.systolic_compute_os import systolic_compute_os
    from scalesim.compute.systolic_compute_ws import systolic_compute_ws
    from scalesim.layout_utils import layouts
    from scalesim.scale_config import scale_config
    from scalesim.topology_utils import topologies

    kinds = {"os": systolic_compute_os, "ws": systolic_compute_ws, "is": systolic_compute_is}
    found, said = [], io.StringIO()
    with tempfile.TemporaryDirectory() as name, redirect_stdout(said), redirect_stderr(said):
        folder = Path(name)
        (folder / "scale.cfg").write_text(
            _CONFIG.format(rows=rows, columns=columns, dataflow=dataflow)
        )
        lines = [
            f"L{i}, {x.rows}, {x.columns}, {x.window}, {x.window}, {x.channels}, {x.filters}, "
            f"{x.stride},"
            for i, x in enumerate(layers)
        ]
        (folder / "topology.csv").write_text("\n".join(["header,", *lines]) + "\n")
        layout_lines = [f"L{i}, " + ", ".join(["1"] * 18) + "," for i in range(len(layers))]
        (folder / "layout.csv").write_text("\n".join(["header,", *layout_lines]) + "\n")
        config, topology, layout = scale_config(), topologies(), layouts()
        config.read_conf_file(str(folder / "scale.cfg"))
        topology.load_arrays(topofile=str(folder / "topology.csv"))
        layout.load_arrays(layoutfile=str(folder / "layout.csv"))
        for index in range(len(layers)):
            operands = operand_matrix()
            operands.set_params(
                layer_id=index, config_obj=config, topoutil_obj=topology, layoututil_obj=layout
            )
            array = kinds[dataflow]()
            array.set_params(
                config_obj=config,
                ifmap_op_mat=operands.get_ifmap_matrix()[1],
                filter_op_mat=operands.get_filter_matrix()[1],
                ofmap_op_mat=operands.get_ofmap_matrix()[1],
            )
            found.append(int(array.get_demand_matrices()[2].shape[0]))
    return found


def main() -> None:
    """Run both sides and print the table."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    need("scalesim")
    rows = []
    ours_s = theirs_s = 0.0
    sizes = of_scale(given, full=FULL, quick=QUICK, smoke=QUICK[:1])
    layers = of_scale(given, full=LAYERS, quick=LAYERS, smoke=SMOKE)
    for size in sizes:
        for short, dataflow in DATAFLOWS.items():
            array = Array(
                rows=size[0], columns=size[1], dataflow=dataflow, sram=2**27,
                dram_bandwidth=1e15, clock=1e9, dtype="int8",
            )  # fmt: skip
            start = time.perf_counter()
            ours = [cycles(layer.product, array).compute for layer in layers]
            ours_s += time.perf_counter() - start
            start = time.perf_counter()
            theirs = simulated(layers, *size, short)
            theirs_s += time.perf_counter() - start
            for layer, own, their in zip(layers, ours, theirs, strict=True):
                rows.append(
                    {
                        "array": f"{size[0]} x {size[1]}",
                        "dataflow": short,
                        "layer": layer.name,
                        "paretax": own,
                        "SCALE-Sim": their,
                        "error": own / their - 1,
                    }
                )
    last = rows[-1]["array"]
    show(f"Cycles on an array of {last}", [row for row in rows if row["array"] == last])
    worst = max(rows, key=lambda row: abs(float(str(row["error"]))))
    show("The worst of all", [worst])
    show(
        "Seconds",
        [{"paretax": ours_s, "SCALE-Sim": theirs_s, "ratio": theirs_s / max(ours_s, 1e-9)}],
    )
    figures = {
        "layers": len(layers),
        "dataflows": len(DATAFLOWS),
        "arrays": len(sizes),
        "comparisons": len(rows),
        "worst_cycle_error": abs(float(str(worst["error"]))),
        "times_faster": theirs_s / max(ours_s, 1e-9),
    }
    finish(given, figures, began, ["scalesim"])


if __name__ == "__main__":
    main()
