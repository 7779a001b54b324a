"""What an image spec refuses, and how it normalises."""

import pytest
import torch

from medbreach.types import ImageSpec


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"space": (8,)}, "images have 2 or 3 spatial axes, not 1"),
        ({"spacing": (1.0,)}, "2 axes but 1 spacings"),
        ({"spacing": (1.0, 0.0)}, "must be positive"),
        ({"bounds": (1.0, 1.0)}, "bounds must rise"),
        ({"mean": (0.0, 0.0)}, "1 channels need as many means and deviations"),
        ({"std": (0.0,)}, "must be positive"),
        ({"std": (float("nan"),)}, "must be positive"),
    ],
)
def test_a_spec_that_makes_no_sense(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ImageSpec(**{"channels": 1, "space": (4, 4)} | settings)


def test_normalising_goes_back():
    spec = ImageSpec(2, (1, 2, 1), bounds=(-1000.0, 400.0), mean=(-500.0, 0.0), std=(250.0, 100.0))
    images = torch.tensor([[-1000.0, 0.0], [400.0, -100.0]]).reshape(1, 2, 1, 2, 1)
    normal = spec.normalise(images)
    assert normal.flatten().tolist() == [-2.0, 2.0, 4.0, -1.0]
    assert torch.equal(spec.denormalise(normal), images)
