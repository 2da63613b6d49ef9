"""Tasks: what a model is evaluated on."""

from __future__ import annotations

from medmoe.tasks.base import Again, Change, Context, Evidence, Task, TaskResult, collect, evaluate_all, make_context
from medmoe.tasks.few_shot import FewShot
from medmoe.tasks.grounding import Grounding
from medmoe.tasks.linear_probe import LinearProbe
from medmoe.tasks.ood import OutOfDistribution
from medmoe.tasks.retrieval import Retrieval
from medmoe.tasks.robustness import Robustness
from medmoe.tasks.routing import Routing
from medmoe.tasks.summary import HEADER, table
from medmoe.tasks.zero_shot import ZeroShot

TASKS: dict[str, type[Task]] = {
    Routing.name: Routing,
    Retrieval.name: Retrieval,
    ZeroShot.name: ZeroShot,
    Grounding.name: Grounding,
    LinearProbe.name: LinearProbe,
    FewShot.name: FewShot,
    OutOfDistribution.name: OutOfDistribution,
    Robustness.name: Robustness,
}

__all__ = [
    "HEADER",
    "TASKS",
    "Again",
    "Change",
    "Context",
    "Evidence",
    "Task",
    "TaskResult",
    "collect",
    "evaluate_all",
    "make_context",
    "table",
]
