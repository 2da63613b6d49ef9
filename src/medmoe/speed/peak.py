"""One way of one item, called once, in a process of its own: prints the bytes it needed at its peak."""

from __future__ import annotations

import sys

from medmoe.speed.item import Size
from medmoe.speed.items import ITEMS
from medmoe.speed.measure import peak_of


def main() -> None:
    """Read ITEM WAY DEVICE SMALL from the command line."""
    name, way, device, small = sys.argv[1:]
    size = Size(device, small=small == "1")
    sys.stdout.write(f"{peak_of(ITEMS[name].ways(size)[way](), device)}\n")


if __name__ == "__main__":
    main()
