"""A large batch on small memory: ours in parts, the textbook's two passes, and the whole batch at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from medmoe.build import build_loader, build_model, build_tokenizer, resolve_data
from medmoe.caching import Way as Parts
from medmoe.caching import backward_in_parts, bounded
from medmoe.config import RunConfig, override
from medmoe.data.sources.phantom import PhantomSource
from medmoe.encoders.pretrained import training
from medmoe.heads.words import pieces_of
from medmoe.model import MedVLM
from medmoe.objectives import total_loss
from medmoe.recipes.medmoe import BERT_BASE, medmoe
from medmoe.speed.item import Item, Size, Target, Way
from medmoe.speed.plain.two_pass import two_pass
from medmoe.types import Batch, Loss, Output

# The recipe medmoe with smaller images and regions, and a shallower text encoder: what the parts share is not what is
# measured. A frozen encoder's features of reports are known, as they are in training once they are kept.
_SETTINGS = ("model.vision.image_size=112", "model.experts.grid=7", "model.text.vocab_size=4000")
_SMALL = (
    "model.vision.name=tiny",
    "model.vision.image_size=32",
    "model.vision.channels=[8,8,16,16]",
    "model.experts.grid=4",
)


@dataclass(frozen=True, slots=True)
class _Step:
    """A model, a batch and their loss."""

    model: MedVLM
    batch: Batch
    config: RunConfig

    def at_once(self) -> None:
        self.model.zero_grad(set_to_none=True)
        loss = total_loss(self.model(self.batch), self.batch, self.config.objectives, self.config.objective_options)
        loss.total.backward()  # type: ignore[no-untyped-call]

    def in_parts(self, size: int) -> None:
        self.model.zero_grad(set_to_none=True)
        backward_in_parts(self.model, self.batch, self.loss_of, Parts(size, self.batch.image.device.type))

    def textbook(self, size: int) -> None:
        self.model.zero_grad(set_to_none=True)
        whole = replace(self.batch, pieces=pieces_of(self.batch.tokens)) if self.batch.tokens else self.batch
        parts = [whole.part(slice(start, start + size)) for start in range(0, len(whole.keys), size)]
        two_pass(self.model, whole, parts, self.loss_of)

    def warm(self) -> None:
        """Go every way once with few images: what a process loads once, sympy for one, isn't the batch's."""
        few = _Step(self.model, self.batch.part(slice(0, 4)), self.config)
        few.at_once()
        few.in_parts(2)

    def gradients(self) -> dict[str, Tensor]:
        named = self.model.named_parameters()
        return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}

    def loss_of(self, output: Output, batch: Batch) -> Loss:
        return total_loss(output, batch, self.config.objectives, bounded(self.config.objective_options, output))


def _step(size: Size) -> _Step:
    """The recipe `medmoe` on phantoms of its own size."""
    images, settings = (12, _SMALL) if size.small else (256, ())
    width = 16 if size.small else 768
    bert = {**BERT_BASE, "vocab_size": 4000, "hidden_size": width, "num_hidden_layers": 4, "intermediate_size": width}
    bert |= {"num_attention_heads": 4}
    given = [f"model.text.hf={json.dumps(bert)}", *_SETTINGS, *settings, f"data.batch_size={images}"]
    config = override(medmoe(), [*given, "data.workers=0", "data.augment=0"])
    source = PhantomSource(1 + images // 4, size=config.model.vision.image_size, seed=0)
    config, reports = resolve_data(config, source)
    model = build_model(config.model, build_tokenizer(config.model.text, reports))
    batch = next(iter(build_loader(source, model, config, train=True)))
    assert batch.tokens is not None
    with torch.no_grad():
        batch = replace(batch, text=model.text(batch.tokens))
    step = _Step(training(model).to(size.device), batch.to(size.device), config)
    step.warm()
    return step


def _figures(size: Size) -> Mapping[str, float]:
    """The gradient's difference from that of the batch at once, relative to its length."""
    step = _step(size)
    step.at_once()
    whole = step.gradients()
    step.in_parts(_part(size))
    parts = step.gradients()
    apart = torch.stack([(parts[name] - whole[name]).norm() for name in whole]).norm()
    return {"gradient_error": float(apart / torch.stack([one.norm() for one in whole.values()]).norm())}


def _part(size: Size) -> int:
    return 4 if size.small else 32


def _ways(size: Size) -> Mapping[str, Way]:
    def way(run: Callable[[_Step], None]) -> Way:
        return lambda: partial(run, _step(size))

    return {
        "ours": way(lambda step: step.in_parts(_part(size))),
        "plain": way(_Step.at_once),
        "two_pass": way(lambda step: step.textbook(_part(size))),
    }


ITEMS = (
    Item(
        name="large-batch",
        about="forward + backward of 256 images as 8 × 32, exact, against all at once: the recipe medmoe (Swin-T, six "
        "experts, both losses) at 112 px with 7×7 regions, the frozen text encoder's features known",
        rounds=3,
        ways=_ways,
        targets=[Target("time", 1.25), Target("memory", 0.2), Target("gradient_error", 1e-5, over=None)],
        floor="1 and 7/8 of a forward pass, about 1.2 in time; 1/8 in memory",
        memory=("ours", "plain", "two_pass"),
        figures=_figures,
        unit=("images", 256),
    ),
)
