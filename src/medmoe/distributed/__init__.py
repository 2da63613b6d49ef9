"""Several processes as one: rows gathered with exact gradients, gradients summed, norms over all; alone, nothing of it.

Every process passes its own samples through the model. What the model says of all of them is brought together, and
each process computes the loss of the whole batch from it; the gradient of that loss by its own rows then goes back
through its own graph, and the gradients of the parameters are summed. So every objective, whatever it holds against
what, has the gradient that one process with the whole batch has, and an expert that nobody chose, here or anywhere,
is a parameter without a gradient, not a process that waits.
"""

from medmoe.distributed.gathering import gathered, pieces_of_all
from medmoe.distributed.gradients import sum_gradients
from medmoe.distributed.meeting import joined
from medmoe.distributed.norms import over_all
from medmoe.distributed.world import (
    ALONE,
    World,
    any_of,
    current,
    from_first,
    largest,
    most,
    same_everywhere,
    summed,
    texts_of_all,
)

__all__ = [
    "ALONE",
    "World",
    "any_of",
    "current",
    "from_first",
    "gathered",
    "joined",
    "largest",
    "most",
    "over_all",
    "pieces_of_all",
    "same_everywhere",
    "sum_gradients",
    "summed",
    "texts_of_all",
]
