"""The shipped tasks, by name."""

from training.tasks import math, tools
from training.tasks.base import SPLITS, Example, Problem, Split, Task, split_of

TASKS: dict[str, Task] = {task.name: task for task in (math.TASK, tools.TASK)}

__all__ = ["SPLITS", "TASKS", "Example", "Problem", "Split", "Task", "split_of"]
