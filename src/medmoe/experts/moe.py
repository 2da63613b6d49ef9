"""The mixture: shared experts see every image, special ones those that are routed to them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmoe.experts.dispatch import dispatch
from medmoe.experts.low_rank import LowRankExpert
from medmoe.experts.pyramid import PyramidExpert
from medmoe.layers import to_grid
from medmoe.types import Pyramid, Routing

EXPERTS: dict[str, type[nn.Module]] = {"pyramid": PyramidExpert}
AVERAGING = (PyramidExpert, LowRankExpert)  # what first averages levels finer than its grid


class MixtureOfExperts(nn.Module):
    """Shared experts that see every image, plus special ones that see the images routed to them.

    Outputs are summed. The arrangements are choices of the two lists: separate experts (the MedMoE
    paper's) have no shared one; `no_experts` has one shared and no special; shared + special has
    one shared and K that start at zero. `growing` special experts (after sparse upcycling, Komatsuzaki
    et al., 2023, https://arxiv.org/abs/2212.05055) start as one: every image passes the first until `grow`.

    An expert that no image chose isn't run, has no gradient, and so isn't moved by the optimiser (see
    `medmoe.experts.dispatch` for what differs on accelerators).

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
        pyramid = self._averaged(pyramid)
        total: Tensor | None = None
        for expert in self.shared:
            total = expert(pyramid) if total is None else total + expert(pyramid)
        if len(self.special) == 0:
            assert total is not None
            return total
        chosen = torch.where(self.grown, routing.expert, 0)  # [B, k]
        routed = dispatch(tuple(self.special), pyramid.levels, chosen, routing.weight, pack=Pyramid)
        return routed if total is None else total + routed

    def _averaged(self, pyramid: Pyramid) -> Pyramid:
        """Bring levels finer than the experts' grid to it, once for all of them and before images are regrouped."""
        experts = [*self.shared, *self.special]
        read = {(one.grid, one.levels) if isinstance(one, AVERAGING) and one.averages else None for one in experts}
        if len(read) != 1 or None in read:
            return pyramid
        ((grid, levels),) = read  # type: ignore[misc]
        finer = [place in levels and level.shape[-1] > grid for place, level in enumerate(pyramid.levels)]
        brought = (to_grid(level, grid) if fine else level for level, fine in zip(pyramid.levels, finer, strict=True))
        return Pyramid(tuple(brought))


class SpecialProjection(nn.Module):
    """A linear map of the global feature for each expert, starting at zero, to be added to a common one.

    MedMoE's experts (Chopra et al., 2025, https://arxiv.org/abs/2506.08356) work on the local features alone, and so
    say nothing to whatever reads the global embedding, zero-shot classification above all. This lets the routing
    reach it, at the cost of one matrix product an image.

    Args:
        experts: K.
        inputs: Length P of the pooled feature.
        outputs: E.
    """

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(inputs, outputs) for _ in range(experts))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor, routing: Routing) -> Tensor:
        """Map features [B, P] to [B, E], each by the experts it was routed to."""
        return dispatch(tuple(self.maps), (feature,), routing.expert, routing.weight, pack=lambda rows: rows[0])
