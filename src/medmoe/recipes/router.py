"""A router by fixed measures: which modality is this image of, at sites that no training image came from."""

from __future__ import annotations

from medmoe.config import (
    DataConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)


def router() -> RunConfig:
    """A router alone: a fixed descriptor and a small head; its text side and expert are there in name only."""
    return RunConfig(
        recipe="router",
        model=ModelConfig(
            vision=VisionConfig(name="descriptor", image_size=96),
            text=TextConfig(name="tiny", width=32, depth=1, heads=2, vocab_size=256, max_words=16),
            router=RouterConfig(train="image", infer="image", hidden=512),
            experts=ExpertConfig(shared=1, special=False, width=16, grid=1, levels=(0,), kernel=1, layers=0),
            embed_dim=32,
        ),
        objectives={"image_modality": 1.0},
        data=DataConfig(batch_size=128, augment=2.0, crop=0.75, balance=1.0),
        train=TrainConfig(steps=400, lr=3e-3, weight_decay=0.1, warmup=0.1, val_every=200, save_every=200),
    )
