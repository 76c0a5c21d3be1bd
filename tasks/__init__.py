"""What a user brings: the `Task` protocol, and the built-in tasks on real data."""

from paretax.tasks.classification import accuracy, classification, cross_entropy
from paretax.tasks.loading import BUILT_IN, load_task
from paretax.tasks.models import build_model
from paretax.tasks.pure import Arrays, Model
from paretax.tasks.splitting import split
from paretax.tasks.task import Config, Data, Metric, Split, SupervisedTask, Task

__all__ = [
    "BUILT_IN",
    "Arrays",
    "Config",
    "Data",
    "Metric",
    "Model",
    "Split",
    "SupervisedTask",
    "Task",
    "accuracy",
    "build_model",
    "classification",
    "cross_entropy",
    "load_task",
    "split",
]
