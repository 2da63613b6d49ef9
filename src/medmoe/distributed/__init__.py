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
from medmoe.distributed.sharding import (
    apart,
    clip,
    copied,
    has_parts,
    in_parts,
    norm_of,
    of_rows,
    on_mesh,
    own_rows,
    parted_like,
    passes,
    room_like,
    shard,
    whole,
)
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
    "apart",
    "clip",
    "copied",
    "current",
    "from_first",
    "gathered",
    "has_parts",
    "in_parts",
    "joined",
    "largest",
    "most",
    "norm_of",
    "of_rows",
    "on_mesh",
    "over_all",
    "own_rows",
    "parted_like",
    "passes",
    "pieces_of_all",
    "room_like",
    "same_everywhere",
    "shard",
    "sum_gradients",
    "summed",
    "texts_of_all",
    "whole",
]
