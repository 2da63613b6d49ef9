"""A run's memory in pieces: every process writes what it holds, and another number of processes reads it again.

torch.distributed.checkpoint plans who writes and who reads which rows; the pieces are safetensors files, and
`pieces.json` says which rows lie where.
"""

from medmoe.pieces.crew import Crew
from medmoe.pieces.memory import INDEX, Pieces, taken_up

__all__ = ["INDEX", "Crew", "Pieces", "taken_up"]
