"""The search itself: its config, samplers, executors and engine."""

from paretax.search.config import SearchConfig, load_config, parse_config
from paretax.search.engine import run_search
from paretax.search.failing import SearchError
from paretax.search.planning import Plan, plan
from paretax.search.progress import Progress, Status
from paretax.search.samplers import Observation, Sampler, make_sampler

__all__ = [
    "Observation",
    "Plan",
    "Progress",
    "Sampler",
    "SearchConfig",
    "SearchError",
    "Status",
    "load_config",
    "make_sampler",
    "parse_config",
    "plan",
    "run_search",
]
