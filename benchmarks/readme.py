"""Writes the README's table of figures from the records in `benchmarks/results`.

    python benchmarks/readme.py            # after a run with --record
    python benchmarks/readme.py --check    # ends with 1 where the README says anything else

A script without a record has no row, and is named below the table.
"""

from __future__ import annotations

import argparse
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- figures: written by benchmarks/readme.py -->", "<!-- end of figures -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table.

    Args:
        script: its name, without .py.
        compared: what is compared with what.
        found: the result, in which {name} stands for a figure of the record.
    """

    script: str
    compared: str
    found: str


ROWS = (
    Row(
        script="throughput",
        compared="candidates trained a minute, compilation included: ours, Ray Tune with "
        "OptunaSearch, Optuna in one process with a cached compiled step",
        found="digits: {a_minute_ours_digits_few:,.0f} with {candidates_digits_few} and "
        "{a_minute_ours_digits_many:,.0f} with {candidates_digits_many} candidates, Ray Tune "
        "{a_minute_ray_tune_digits_few:.0f}, Optuna {a_minute_optuna_digits_few:.0f}: "
        "{speedup_ray_tune_digits_200:.1f} and {speedup_ray_tune_digits_1000:.1f} times, "
        "{speedup_optuna_digits_200:.1f} times. mnist5k CNN: {a_minute_ours_mnist5k_few:.0f}, Ray "
        "Tune {a_minute_ray_tune_mnist5k_few:.1f}: {speedup_ray_tune_mnist5k:.1f} times. With the "
        "start of all processes: {speedup_ray_tune_digits_200_started:.1f} and "
        "{speedup_ray_tune_digits_1000_started:.1f} times, "
        "{speedup_optuna_digits_200_started:.1f} times, "
        "{speedup_ray_tune_mnist5k_started:.1f} times. A population takes {loop_ratio:.2f} times "
        "a hand-written loop; mean accuracies differ by at most {accuracy_gap:.1f} points",
    ),
    Row(
        script="scaling",
        compared="cost a candidate as populations and signatures grow",
        found="{population} candidates against 1: {growth_population:.2f} times; {signatures} "
        "signatures against 1, compilation included: {growth_signatures:.2f} times; programs that "
        "the same search compiles again: {recompilations_second_run}",
    ),
    Row(
        script="signatures",
        compared="searches with and without `signatures: 4` at equal trials: hypervolume of the "
        "front (with less without), sets of programs compiled, and the share that the rarest value "
        "of a choice has",
        found="techniques: {techniques_difference:+.3f} ± {techniques_difference_error:.3f}, "
        "{techniques_sets_with:.0f} sets against {techniques_sets_without:.0f}, rarest "
        "{techniques_rarest_share_with:.0%} and {techniques_rarest_share_without:.0%}; the demo's "
        "space: {demo_difference:+.3f} ± {demo_difference_error:.3f}, {demo_sets_with:.0f} sets "
        "against {demo_sets_without:.0f}, rarest {demo_rarest_share_with:.0%} and "
        "{demo_rarest_share_without:.0%}",
    ),
    Row(
        script="lottery_ticket",
        compared="LeNet-300-100 on 5,000 MNIST images: tickets against the same masks with fresh "
        "weights, at 21%, 13.5% and 3.6% of the weights",
        found="test accuracy {ticket_accuracy_21:.1f}, {ticket_accuracy_13:.1f}, "
        "{ticket_accuracy_3:.1f} against {fresh_accuracy_21:.1f}, {fresh_accuracy_13:.1f}, "
        "{fresh_accuracy_3:.1f} (dense: {dense_accuracy:.1f}); early stop at iteration "
        "{ticket_stop_21:.0f}, {ticket_stop_13:.0f}, {ticket_stop_3:.0f} against "
        "{fresh_stop_21:.0f}, {fresh_stop_13:.0f}, {fresh_stop_3:.0f}",
    ),
    Row(
        script="quantization",
        compared="drop from float32, worse of digits and the mnist5k CNN, in points; Qwix on the "
        "same weights",
        found="W8A8 {drop_w8a8:.1f}, W4A8 {drop_w4a8:.1f}; W2A8 at least {drop_ptq_w2a8:.0f} after "
        "training, {drop_qat_w2a8:.1f} with learned steps; gap to Qwix {qwix_gap_8:.1f} at 8 bits, "
        "{qwix_gap_4:.1f} at 4",
    ),
    Row(
        script="pruning",
        compared="the CNN's program with half of its channels removed, against dense, on this CPU; "
        "gradual pruning against one-shot at 90% sparsity",
        found="64 channels: {structured_speedup_batch_1:.1f} times as fast at batch 1, "
        "{structured_speedup_batch_32:.1f} at batch 32; the least of 8 to 64 channels "
        "{least_structured_speedup_batch_1:.1f} and {least_structured_speedup_batch_32:.1f}, as "
        "XLA is slow on convolutions of few channels; half of the weights as zeros at most "
        "{most_speedup_of_zeros:.1f} times; gradual gains {gradual_gain_points:.0f} "
        "points or more",
    ),
    Row(
        script="distillation",
        compared="a student with {student_share:.1%} of its teacher's weights, {labelled} labelled "
        "images, with and without the teacher",
        found="{taught_4:.1f} against {alone:.1f} at T = 4 (T = 1: {taught_1:.1f}, T = 20: "
        "{taught_20:.1f})",
    ),
    Row(
        script="joint",
        compared="of one joint search, the network that is best on validation data and at least 20 "
        "times smaller than the dense CNN",
        found="{size_ratio:.0f} times smaller ({bytes:,} against {dense_bytes:,} bytes), "
        "{accuracy_drop_points:.1f} points lower on the test split, exported and verified "
        "({candidates} candidates)",
    ),
    Row(
        script="systolic",
        compared="cycles on systolic arrays: our closed form beside SCALE-Sim's array, {layers} "
        "layers, {dataflows} dataflows, {arrays} arrays",
        found="largest error of {comparisons} comparisons: {worst_cycle_error:.0%}",
    ),
    Row(
        script="silicon",
        compared="latency modelled for devices that are not here, beside measurements of others, "
        "of one H200 and one H100: rank correlation, and that of the best simple rule (operations, "
        "bytes, kernels, roofline, the compiler's own estimate); overheads and efficiencies of "
        "GPUs and the rule for TPUs were chosen on these measurements",
        found="H200 {h200.ours:.3f} against {h200.best_rule:.3f} (its 80% interval held "
        "{h200.coverage:.0%}), queued {h200-queued.ours:.3f} against "
        "{h200-queued.best_rule:.3f}; H100 {h100.ours:.3f} against {h100.best_rule:.3f}, queued "
        "{h100-queued.ours:.3f} against {h100-queued.best_rule:.3f}; A100 {a100.ours:.3f} against "
        "{a100.best_rule:.3f}; RTX 4090 {rtx4090.ours:.3f} against "
        "{rtx4090.best_rule:.3f}; RTX 3090 {rtx3090.ours:.3f} against "
        "{rtx3090.best_rule:.3f}; TPU v2 {tpu-v2.ours:.3f} against {tpu-v2.best_rule:.3f}; TPU v3 "
        "{tpu-v3.ours:.3f} against {tpu-v3.best_rule:.3f}; behind by more than 0.01 on {behind} of "
        "{devices}",
    ),
    Row(
        script="latency_model",
        compared="latency predicted for {programs} networks that calibration never saw (MLPs, "
        "CNNs, transformers; f32, bf16, int8; batch 1 to 64), on this CPU",
        found="rank correlation {spearman:.3f}, median error {median_abs_error:.0%}, "
        "{within_10:.0%} within 10%; roofline "
        "{spearman_roofline:.3f} and {median_abs_error_roofline:.0%}, operations "
        "{spearman_flops:.3f}, bytes {spearman_bytes:.3f}",
    ),
    Row(
        script="score_speed",
        compared="candidates on {targets} targets: known programs, from nothing, and from parts "
        "beside whole compiles",
        found="programs compiled before: {warm_memory_ms:.1f} ms, read from disk "
        "{warm_disk_ms:.0f} ms; the digits MLP from nothing: {cold_s:.1f} s; 1,000 candidates "
        "from parts that are known: {parts_s_1000:.1f} s, a whole program that is not: "
        "{whole_s:.1f} s; least rank agreement of parts {parts_spearman:.3f}",
    ),
    Row(
        script="faults",
        compared="kills, damages and deceptions, made on purpose: what is lost, what is believed",
        found="{kills} kills of searches, workers, parts of Ray and nodes: {lost} events lost, "
        "{duplicates} twice, {front_differs} fronts that differ; {journal_damages} damaged "
        "journals and {bundle_damages} bundles with new checksums: {journal_believed} and "
        "{bundle_believed} believed; {bad_inputs:,} configs and profiles changed at random; in all "
        "{tracebacks} tracebacks, {hangs} hangs, {code_runs} runs of code that nobody named",
    ),
)


def read() -> dict[str, dict[str, Any]]:
    """The records that are there, by script, in the order of the table."""
    files = {row.script: ROOT / "benchmarks" / "results" / f"{row.script}.json" for row in ROWS}
    return {
        name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.exists()
    }


class _Words(string.Formatter):
    """Takes a figure's whole name, which may have points in it."""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The figure of a name."""
        return kwargs[field_name], field_name


_WORDS = _Words()


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, and what it was recorded on."""
    lines = ["| script | what was compared | found |", "| --- | --- | --- |"]
    for row in ROWS:
        if row.script in records:
            figures = records[row.script]["figures"]
            told = [_WORDS.format(text, **figures) for text in (row.compared, row.found)]
            lines.append(f"| `{row.script}.py` | {told[0]} | {told[1]} |")
    lines += ["", *_about(records)]
    return "\n".join(lines) + "\n"


def _about(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """On which machines, in what way, and what is missing."""
    places: dict[str, list[str]] = {}
    for name, record in records.items():
        machine, how = record["machine"], record["command"].partition("--")[2] or "full"
        where = f"{machine['processor']}, {machine['cores']} cores, {how} runs"
        places.setdefault(where, []).append(name)
    lines = [f"{where}: {', '.join(names)}." for where, names in places.items()]
    missing = [f"`{row.script}.py`" for row in ROWS if row.script not in records]
    if missing:
        lines.append(f"Not measured with this version: {', '.join(missing)}.")
    return lines


def written(text: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """The README with its table as the records have it."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"README.md has no {BEGIN!r} and {END!r} around its table")
    return f"{before}{BEGIN}\n\n{table(records)}\n{END}{after}"


def main() -> None:
    """Write the README, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    file = ROOT / "README.md"
    now = file.read_text("utf-8")
    then = written(now, read())
    if not given.check:
        file.write_text(then, "utf-8")
    elif now != then:
        raise SystemExit("README.md differs from the records: python benchmarks/readme.py")


if __name__ == "__main__":
    main()
