import dataclasses

import numpy as np

from medmoe.data.sources.remembered import RememberedSource
from medmoe.types import Sample


class Counting:
    """Samples of 16 bytes that count how often they are read."""

    def __init__(self, count):
        self.reads = [0] * count

    def __len__(self):
        return len(self.reads)

    def __getitem__(self, index):
        self.reads[index] += 1
        return dataclasses.replace(self.facts(index), image=np.full((4, 4), index, np.uint8))

    def facts(self, index):
        return Sample(key=str(index), image=np.zeros((0, 0), np.uint8))


def halved(sample):
    return dataclasses.replace(sample, image=sample.image[::2, ::2])


def test_a_sample_is_read_once_and_kept_shrunk():
    counting = Counting(3)
    source = RememberedSource(counting, halved, megabytes=1)
    for _ in range(2):
        for index in range(3):
            assert (source[index].image == np.full((2, 2), index)).all()
    assert counting.reads == [1, 1, 1]
    assert len(source) == 3
    assert source.facts(2).key == "2"


def test_what_finds_no_room_is_read_anew():
    counting = Counting(3)
    source = RememberedSource(counting, halved, megabytes=1)
    source.room = 5  # one sample of 4 bytes
    for _ in range(2):
        images = [source[index].image for index in range(3)]
    assert counting.reads == [1, 2, 2]
    assert [image[0, 0] for image in images] == [0, 1, 2]
