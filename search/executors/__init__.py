"""Executors: where evaluations run. Ray is imported only where it is used."""

from paretax.search.executors.inline import InlineExecutor
from paretax.search.executors.protocol import Call, Executor
from paretax.search.worker import WorkerSpec


def make_executor(
    name: str,
    spec: WorkerSpec,
    *,
    workers: int,
    address: str | None = None,
    trial_seconds: float | None = None,
) -> Executor:
    """The executor of a config, not yet started."""
    if name == "inline":
        return InlineExecutor(spec)
    from paretax.search.executors.ray import RayExecutor

    return RayExecutor(spec, workers=workers, address=address, trial_seconds=trial_seconds)


__all__ = ["Call", "Executor", "InlineExecutor", "make_executor"]
