"""What every test runs under: one thread of torch, so that sums come out the same and workers don't fight."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
