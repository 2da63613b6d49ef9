"""Search the images of a manifest by a sentence.

python examples/retrieval.py runs/demo manifest.csv "A large mass in the right abdomen." --modality ct --top 5
"""

from __future__ import annotations

import argparse

import torch

import medmoe
from medmoe.data.sources.manifest import ManifestSource


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or saved model")
    parser.add_argument("manifest")
    parser.add_argument("query", help="a sentence as a report would say it")
    parser.add_argument("--modality", help="search the images of one modality only")
    parser.add_argument("--top", type=int, default=5)
    arguments = parser.parse_args()

    predictor = medmoe.Predictor.from_pretrained(arguments.model)
    source = ManifestSource(arguments.manifest, maps=False)
    wanted = [
        index
        for index in range(len(source))
        if arguments.modality is None or source.facts(index).modality == arguments.modality
    ]
    # 64 images at a time: only their embeddings are kept
    parts = [
        predictor.encode_image([source[index].image for index in wanted[start : start + 64]])
        for start in range(0, len(wanted), 64)
    ]
    similarity = torch.cat(parts) @ predictor.encode_text(arguments.query)[0]  # [n]
    best = similarity.topk(min(arguments.top, len(wanted)))
    for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        sample = source.facts(wanted[place])
        print(f"{value:.3f} {sample.key} {sample.modality}: {sample.report}")


if __name__ == "__main__":
    main()
