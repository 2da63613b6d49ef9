"""torchvision's ResNet as the image encoder of chest X-ray models: its depth by the names of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from medmoe.errors import ModelError


def resnet_of(names: Iterable[str], prefix: str, where: str) -> Any:
    """Build a ResNet without its classifier, weights still random, for weights of these names.

    Args:
        names: Names of the weights.
        prefix: What stands before torchvision's own names.
        where: The folder, for the error.

    Raises:
        ModelError: If the weights are no ResNet's.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    blocks: dict[int, set[int]] = {}
    deep = False
    for name in names:
        found = re.match(rf"{re.escape(prefix)}layer([1-4])\.(\d+)\.conv(\d)\.weight$", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
            deep = deep or found[3] == "3"
    if set(blocks) != {1, 2, 3, 4}:
        raise ModelError(
            f"no ResNet under {prefix!r} in the weights; other image encoders aren't supported",
            where=where,
            remedy="give a checkpoint with a ResNet, or convert it again",
        )
    trunk = ResNet(Bottleneck if deep else BasicBlock, [1 + max(blocks[stage]) for stage in (1, 2, 3, 4)])
    trunk.fc = nn.Identity()
    return trunk.eval()


def stages(trunk: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Give the feature maps after the third and the fourth stage, at strides 16 and 32."""
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(image))))
    third: Tensor = trunk.layer3(trunk.layer2(trunk.layer1(x)))
    fourth: Tensor = trunk.layer4(third)
    return third, fourth
