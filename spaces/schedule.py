"""When pruning, quantisation-aware training and distillation happen: together, or in turn.

A training of E epochs is laid out epoch by epoch. `together`: one training in which all of them
take part, with one learning-rate cosine. In turn: a dense stage of half the epochs, then one stage
of equal length for each technique, in the order that the name gives, each with a cosine of its
own. A mask, once there, stays; so does fake quantisation; the teacher is heard in its own stage.
Quantisation after training takes no epochs, and comes last in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from paretax.errors import UsageError
from paretax.spaces import distillation, pruning, quantization, training
from paretax.spaces.dimensions import Setting, choice, choose, is_number, share
from paretax.spaces.pruning import gradual_sparsity
from paretax.spaces.rules import setting_of

TECHNIQUES = ("prune", "quantize", "distill")
_TOGETHER = "together"
_ORDERS = {"_then_".join(order): order for order in permutations(TECHNIQUES)}


SETTINGS = (
    choice("schedule", _TOGETHER, *_ORDERS),
    share("pruning_start", 0.1),
    share("fine_tuning", 0.3),
    share("qat_start", 0.5),
    Setting(
        name="stage_rate",
        default=0.3,
        rule="a share above 0 and at most 1",
        number=True,
        allows=lambda v: is_number(v) and 0 < float(v) <= 1,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What holds in one epoch.

    Args:
        pruned: the share of the final sparsity that is reached before it.
        quantized: whether the forward pass is on the grid.
        distilled: whether the teacher is heard.
        first: the epoch in which its cosine of the learning rate began.
        length: epochs of that cosine.
        rate: the share of the learning rate at which it began.
    """

    pruned: float = 0.0
    quantized: bool = False
    distilled: bool = False
    first: int = 0
    length: int = 1
    rate: float = 1.0


def active(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The techniques that take part in a candidate's training."""
    found = []
    if _prunes(config) and config.get("pruning", "one_shot") != "lottery_ticket":
        found.append("prune")
    if trains_quantized(config):
        found.append("quantize")
    if config.get("distill") is True:
        found.append("distill")
    return tuple(found)


def trains_quantized(config: Mapping[str, Any]) -> bool:
    """Whether a candidate is trained on the grid."""
    sides = ("weight_bits", "activation_bits")
    on = config.get("quantize") is True or any(setting_of(n) in sides for n in config)
    off = config.get("quantize") is False or config.get("qat", "none") == "none"
    return on and not off


def _prunes(config: Mapping[str, Any]) -> bool:
    names = ("sparsity", "channel_sparsity", "head_sparsity")
    some = any(config[n] for n in config if setting_of(n) in names)
    patterned = any(
        config[n] != pruning.UNSTRUCTURED for n in config if setting_of(n) == "pruning_pattern"
    )
    return some or patterned


def timeline(config: Mapping[str, Any]) -> list[Epoch]:
    """What holds in each epoch of a candidate's training.

    Pruning that is never complete in here is done after the last epoch.

    Raises:
        UsageError: there are too few epochs for each stage to have one.
    """
    settings = (*training.SETTINGS, *pruning.SETTINGS, *quantization.SETTINGS)
    chosen = choose((*settings, *distillation.SETTINGS, *SETTINGS), config)
    epochs, techniques = int(chosen["epochs"]), active(config)
    order = _ORDERS.get(str(chosen["schedule"]))
    if order is None:
        return [_together(e, epochs, chosen, techniques) for e in range(epochs)]
    stages = [name for name in order if name in techniques]
    if epochs < 2 * len(stages):
        raise UsageError(
            f"schedule {chosen['schedule']!r} has {len(stages)} stages after the dense one here, "
            f"and needs at least {2 * len(stages)} epochs, got {epochs}: train longer, or together"
        )
    length = epochs // (2 * len(stages)) if stages else 0
    dense = epochs - length * len(stages)
    laid = [Epoch(length=dense)] * dense
    done: list[str] = []
    for i, name in enumerate(stages):
        done.append(name)
        for e in range(length):
            pruned = float("prune" in done)
            if name == "prune":
                pruned = _progress(e + 1, length, chosen, begin=0.0, at_once=0)
            laid.append(
                Epoch(
                    pruned=pruned,
                    quantized="quantize" in done,
                    distilled=name == "distill",
                    first=dense + i * length,
                    length=length,
                    rate=float(chosen["stage_rate"]),
                )
            )
    return laid


def _together(
    epoch: int, epochs: int, chosen: Mapping[str, Any], techniques: tuple[str, ...]
) -> Epoch:
    pruned = 0.0
    if "prune" in techniques:
        tuned = round(epochs * (1.0 - float(chosen["fine_tuning"])))
        start = float(chosen["pruning_start"])
        pruned = _progress(epoch, epochs, chosen, begin=start, at_once=tuned)
    return Epoch(
        pruned=pruned,
        quantized="quantize" in techniques and epoch >= round(chosen["qat_start"] * epochs),
        distilled="distill" in techniques,
        length=epochs,
    )


def _progress(
    epoch: int, epochs: int, chosen: Mapping[str, Any], *, begin: float, at_once: int
) -> float:
    """The share of the final sparsity before an epoch; dt of Zhu and Gupta is one epoch.

    Args:
        epoch: how many of the stage are over; in turn, where the dense stage came before, one more.
        epochs: that the stage has.
        chosen: the settings.
        begin: the share of the stage at which gradual pruning begins.
        at_once: the epoch before which all goes with one-shot pruning.
    """
    if chosen["pruning"] == "one_shot":
        return float(epoch >= at_once)
    start, end = begin * epochs, epochs * (1.0 - float(chosen["fine_tuning"]))
    return gradual_sparsity(1.0, (epoch - start) / max(end - start, 1e-9))


def in_words(config: Mapping[str, Any], done: Mapping[str, str]) -> list[str]:
    """What is done to a candidate, in order.

    Args:
        config: the candidate.
        done: the techniques in words, under "prune", "quantize" and "distill".
    """
    laid, words = timeline(config), []
    state: tuple[Any, ...] = ()
    since = 0
    for e in range(len(laid) + 1):
        now: tuple[Any, ...] = ()
        if e < len(laid):
            part = laid[e]
            stage = "none" if part.pruned == 0 else "full" if part.pruned == 1 else "growing"
            now = stage, part.quantized, part.distilled, part.first
        if now == state:
            continue
        if state:
            words.append(_phase(state, since, e, config, done))
        state, since = now, e
    complete = bool(laid) and laid[-1].pruned == 1.0
    if done.get("prune") and config.get("pruning") == "lottery_ticket":
        step, fresh = config.get("rewind_step", 0), config.get("ticket") == "fresh"
        last = ", in the last round with fresh initial weights" if fresh else ""
        words.append(f"prune, rewind to step {step}, repeat to {done['prune']}{last}")
    elif done.get("prune") and not complete:
        words.append(f"prune ({done['prune']})")
    if done.get("quantize"):
        trained = any(epoch.quantized for epoch in laid)
        after = "fix the grid" if trained else "quantize after training"
        words.append(f"{after} ({done['quantize']})")
    return words


def _phase(
    state: tuple[Any, ...],
    since: int,
    end: int,
    config: Mapping[str, Any],
    done: Mapping[str, str],
) -> str:
    parts = []
    stage, quantized, distilled, _ = state
    if stage == "growing":
        parts.append(f"pruning gradually to {done.get('prune', '')}")
    elif stage == "full":
        parts.append(f"pruned ({done.get('prune', '')})")
    if quantized:
        parts.append(f"on the grid ({config['qat']})")
    if distilled:
        parts.append(done.get("distill") or "with the teacher")
    what = f": {', '.join(parts)}" if parts else ""
    return f"train epochs {since + 1} to {end}{what}"
