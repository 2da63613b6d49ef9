"""MedMoE and its controls as complete configurations."""

from __future__ import annotations

from medmoe.config import (
    DataConfig,
    ExpertConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from medmoe.modalities import SIX

# Bio_ClinicalBERT's architecture (Alsentzer et al., 2019, https://arxiv.org/abs/1904.03323): BERT-base, cased.
BERT_BASE = {
    "model_type": "bert",
    "vocab_size": 28996,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
ROUTING_AND_GLOBAL = {
    "global": 0.5,
    "report_type": 0.5,
    "image_modality": 0.5,
    "router_distillation": 0.5,
}


def tiny() -> RunConfig:
    """A small MedMoE that trains in minutes on two CPU cores."""
    return RunConfig(
        recipe="tiny",
        model=ModelConfig(
            vision=VisionConfig(name="tiny", image_size=64, channels=(24, 48, 96, 128), norm="batch"),
            text=TextConfig(name="tiny", width=128, depth=1, heads=4, max_words=48),
            experts=ExpertConfig(
                shared=1, zero=True, width=64, grid=8, levels=(0, 1), kernel=1, layers=1, conv="dense", norm="layer"
            ),
            embed_dim=128,
            pool="pyramid",
            pool_norm="batch",
            local_similarity="late_interaction",
            report_words=True,
            region_words=True,
        ),
        objectives={**ROUTING_AND_GLOBAL, "late_interaction": 0.25, "report_words": 0.5, "region_words": 0.25},
        objective_options={"late_interaction": {"negatives": "modality"}},
        data=DataConfig(batch_size=64, workers=1, augment=0),
        train=TrainConfig(steps=1500, lr=4e-3, warmup=0.1, clip=1.0, val_every=500, save_every=250),
    )


def medmoe() -> RunConfig:
    """The paper's system: Swin-T, six separate experts from scratch, frozen BERT-base.

    One thing is cheaper than the paper's: coarse levels are brought to the grid after the experts' block, not before.
    """
    return RunConfig(
        recipe="medmoe",
        model=ModelConfig(
            vision=VisionConfig(name="swin-t", image_size=224),
            text=TextConfig(name="hf", hf=BERT_BASE, last_layers=4, frozen=True, vocab_size=28996, max_pieces=512),
            experts=ExpertConfig(shared=0, special=True, width=192, grid=28),
            modalities=SIX,
            embed_dim=512,
        ),
        objectives={**ROUTING_AND_GLOBAL, "local": 0.5, "report_type": 2.0},
        data=DataConfig(batch_size=256, workers=4),
        train=TrainConfig(steps=200_000, lr=5e-5, clip=0.25, precision="bf16", val_every=5000, save_every=5000),
    )


# Who sees what: the arrangements that docs/results.md compares.
ARRANGEMENTS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    # name: (changes of the experts, changes of the router)
    "separate": ({"shared": 0, "zero": False}, {}),  # the paper's: hard, routed by the report, from scratch
    "shared_special": ({"shared": 1, "zero": True}, {}),
    "grown": ({"shared": 0, "zero": False, "growing": True}, {}),
    "no_experts": ({"shared": 1, "special": False, "zero": False}, {}),  # equal active cost of one expert
    "two_shared": ({"shared": 2, "special": False, "zero": False}, {}),  # equal active cost of shared + special
    "all_shared": ({"shared": 6, "special": False, "zero": False}, {}),  # equal total cost of six experts
    "random": ({"shared": 0, "zero": False}, {"train": "random", "infer": "random"}),
    "oracle": ({"shared": 0, "zero": False}, {"train": "label", "infer": "label"}),
    "shared_special_random": ({"shared": 1, "zero": True}, {"train": "random", "infer": "random"}),
}


def arranged(name: str) -> RunConfig:
    """Give `tiny` with its experts arranged in a named way and no special projection, everything else the same."""
    recipe = tiny()
    experts, router = ARRANGEMENTS[name]
    model = recipe.model.model_copy(
        update={
            "experts": recipe.model.experts.model_copy(update=experts),
            "router": recipe.model.router.model_copy(update=router),
            "special_projection": False,
        }
    )
    return recipe.model_copy(update={"recipe": name, "model": model})
