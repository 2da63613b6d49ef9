"""Classify images by names of findings, without having trained on any of the names.

python examples/zero_shot.py runs/demo scan1.png scan2.png --labels nodule effusion no_finding --modality xray
"""

from __future__ import annotations

import argparse

import medmoe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or saved model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--labels", nargs="+", required=True)
    parser.add_argument("--modality", help="what the images are; left out, the image router says")
    arguments = parser.parse_args()

    predictor = medmoe.Predictor.from_pretrained(arguments.model)
    routed = predictor.route(arguments.images)
    for image, route in zip(arguments.images, routed, strict=True):
        modality = arguments.modality or route.modality
        probabilities = predictor.zero_shot(image, arguments.labels, modality=modality)[0]
        ranked = sorted(zip(probabilities.tolist(), arguments.labels, strict=True), reverse=True)
        print(f"{image}: {modality}; " + ", ".join(f"{label} {value:.2f}" for value, label in ranked))


if __name__ == "__main__":
    main()
