"""Scoring: training for the task's metric, and the cost of a candidate on its targets."""

from paretax.evaluators.accuracy import AccuracyEvaluator
from paretax.evaluators.evaluator import Evaluator, cost_evaluators
from paretax.evaluators.measurement import Evaluation, Failure, Measurement, Provenance, Reason
from paretax.evaluators.objectives import (
    Objective,
    make_objectives,
    objective_names,
    worst_violation,
)
from paretax.evaluators.target import Target
from paretax.evaluators.teacher import Lesson
from paretax.evaluators.training import Axis
from paretax.evaluators.workbench import Deployed, Prepared, Workbench

__all__ = [
    "AccuracyEvaluator",
    "Axis",
    "Deployed",
    "Evaluation",
    "Evaluator",
    "Failure",
    "Lesson",
    "Measurement",
    "Objective",
    "Prepared",
    "Provenance",
    "Reason",
    "Target",
    "Workbench",
    "cost_evaluators",
    "make_objectives",
    "objective_names",
    "worst_violation",
]
