"""Draw where in an image a phrase is found, and save the picture.

python examples/heatmap.py runs/demo scan.png nodule heatmap.png --report "Small nodule in the right upper lung."
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import medmoe
from medmoe.data.images import read_image


def overlay(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Lay a heatmap [G, G] of the padded square input over an image [H, W] or [H, W, 3]."""
    grey = pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)
    image = Image.fromarray(grey).convert("RGB")
    span = max(float(heat.max() - heat.min()), 1e-9)
    scaled = Image.fromarray(((heat - heat.min()) / span * 255).astype(np.uint8))
    # the model saw the image centred in a square of its longer side
    side, left, top = max(image.size), (max(image.size) - image.width) // 2, (max(image.size) - image.height) // 2
    square = scaled.resize((side, side), Image.Resampling.BILINEAR)
    mask = square.crop((left, top, left + image.width, top + image.height)).point(lambda value: value * 0.6)
    return Image.composite(Image.new("RGB", image.size, (255, 80, 0)), image, mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or saved model")
    parser.add_argument("image")
    parser.add_argument("phrase", help="the words to look for")
    parser.add_argument("out", help="picture to write")
    parser.add_argument("--report", help="a report that holds the phrase: its words then read in context")
    arguments = parser.parse_args()

    predictor = medmoe.Predictor.from_pretrained(arguments.model)
    heat = predictor.heatmap(arguments.image, arguments.phrase, report=arguments.report)
    overlay(read_image(arguments.image), heat).save(arguments.out)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    print(f"hottest region: row {row + 1}, column {column + 1} of {len(heat)}; picture: {Path(arguments.out)}")


if __name__ == "__main__":
    main()
