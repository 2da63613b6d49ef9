"""Embed a source into a Parquet file, one row an image, batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medmoe.build import build_loader
from medmoe.config import DataConfig, RunConfig, parse
from medmoe.data.sources.base import Source
from medmoe.data.tables import ParquetRows
from medmoe.errors import UserError
from medmoe.model import MedVLM


@torch.inference_mode()
def write_embeddings(
    model: MedVLM,
    source: Source,
    out: Path,
    *,
    batch_size: int = 64,
    workers: int = 1,
    on_bad_sample: str = "raise",
    device: str = "cpu",
) -> int:
    """Write `key, modality, routed, image_embed, text_embed` of every image; memory is that of a batch.

    Returns:
        How many images were written.

    Raises:
        UserError: If a setting isn't allowed, an image is bad, or `out` is a folder.
    """
    if out.is_dir():
        raise UserError("is a folder", where=str(out), remedy="give the name of a Parquet file")
    data = parse(DataConfig, {"batch_size": batch_size, "workers": workers, "on_bad_sample": on_bad_sample})
    loader = build_loader(source, model, RunConfig(recipe="embed", data=data), train=False)
    model = model.eval()
    assert model.assets is not None
    about = {"preprocess_fingerprint": str(model.assets.preprocess.get("fingerprint"))}
    count = 0
    with ParquetRows(out, about) as file:
        for batch in loader:
            moved = batch.to(device)
            image = model.encode_image(moved.image, modality=moved.modality)
            text: list[Any] = [None] * len(batch.keys)
            if moved.tokens is not None and moved.has_report is not None:
                embed = model.encode_text(moved.tokens).embed.cpu()
                present = moved.has_report.tolist()
                text = [row.tolist() if has else None for row, has in zip(embed, present, strict=True)]
            file.write(
                {
                    "key": list(batch.keys),
                    "modality": [sample.modality for sample in batch.samples],
                    "routed": [model.modalities[i] for i in image.logits.argmax(dim=1).tolist()],
                    "image_embed": image.embed.cpu().tolist(),
                    "text_embed": text,
                }
            )
            count += len(batch.keys)
    return count
