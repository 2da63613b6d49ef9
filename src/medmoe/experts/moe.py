"""Sparse dispatch: only the chosen experts run, each once, on the images that chose it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmoe.experts.pyramid import PyramidExpert
from medmoe.types import Pyramid, Routing

EXPERTS: dict[str, type[nn.Module]] = {"pyramid": PyramidExpert}


class MixtureOfExperts(nn.Module):
    """Shared experts that see every image, plus special ones that see the images routed to them.

    Outputs are summed. The arrangements are choices of the two lists: separate experts (the MedMoE
    paper's) have no shared one; `no_experts` has one shared and no special; shared + special has
    one shared and K that start at zero. `growing` special experts (after sparse upcycling, Komatsuzaki
    et al., 2023, https://arxiv.org/abs/2212.05055) start as one: every image passes the first until `grow`.

    An expert that no image chose isn't run, has no gradient, and so isn't moved by the optimiser.

    Args:
        shared: Modules from `Pyramid` to [B, D, G, G].
        special: K such modules, in the order of the router's scores; may be empty.
        growing: Whether the special experts start as one.
    """

    grown: Tensor

    def __init__(self, shared: Sequence[nn.Module], special: Sequence[nn.Module], *, growing: bool = False) -> None:
        super().__init__()
        self.shared = nn.ModuleList(shared)
        self.special = nn.ModuleList(special)
        # a buffer: saved with the weights, and read in `forward` without leaving the device
        self.register_buffer("grown", torch.tensor(not growing))

    @torch.no_grad()
    def grow(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Copy the first special expert into the others and start to route among them.

        Returns:
            (from, to) pairs of parameters, so that the optimiser's state can be copied too.
        """
        first = self.special[0]
        pairs = []
        for other in list(self.special)[1:]:
            other.load_state_dict(copy.deepcopy(first.state_dict()))
            pairs += list(zip(first.parameters(), other.parameters(), strict=True))
        self.grown.fill_(True)
        return pairs

    def forward(self, pyramid: Pyramid, routing: Routing) -> Tensor:
        """Give regions [B, D, G, G] of the images.

        Args:
            pyramid: Levels [B, C_l, H_l, W_l].
            routing: Chosen experts [B, k] and their weights.
        """
        total: Tensor | None = None
        for expert in self.shared:
            total = expert(pyramid) if total is None else total + expert(pyramid)
        if len(self.special) == 0:
            assert total is not None
            return total
        routed = self._dispatch(pyramid, routing)
        return routed if total is None else total + routed

    def _dispatch(self, pyramid: Pyramid, routing: Routing) -> Tensor:
        chosen = torch.where(self.grown, routing.expert, 0)  # [B, k]
        images, k = chosen.shape
        order = chosen.flatten().argsort(stable=True)  # assignments, grouped by expert
        rows = order // k
        sizes = torch.bincount(chosen.flatten(), minlength=len(self.special)).tolist()
        alone = max(sizes) == images and k == 1  # one expert for all: the stable sort left the order alone
        # one gather for all experts, then views: its gradient is one scatter
        levels = pyramid.levels if alone else tuple(level.index_select(0, rows) for level in pyramid.levels)
        groups = zip(*(torch.split(level, sizes) for level in levels), strict=True)
        outputs = [
            expert(Pyramid(group)) for expert, group, size in zip(self.special, groups, sizes, strict=True) if size
        ]
        stacked = torch.cat(outputs)  # [B·k, D, G, G]
        weight = routing.weight.flatten()[order].to(stacked.dtype)
        if k == 1:
            return (stacked * weight[:, None, None, None])[order.argsort()]
        regions = stacked.new_zeros(images, *stacked.shape[1:])
        return regions.index_add(0, rows, stacked * weight[:, None, None, None])
