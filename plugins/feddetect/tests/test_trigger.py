"""The trigger, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from medbreach.errors import DataError
from medbreach_feddetect.setting import Poisoning
from medbreach_feddetect.trigger import packaged_trigger, poisoned, read_trigger, stamp, trigger


@pytest.mark.parametrize(
    ("size", "side", "margin"), [(256, 16, 5), (128, 8, 3), (64, 4, 1), (32, 2, 1)]
)
def test_its_share_of_the_area_is_the_released_one(size, side, margin):
    poisoning = Poisoning()
    assert (poisoning.side_at(size), poisoning.margin_at(size)) == (side, margin)
    assert side**2 / size**2 == pytest.approx(0.0039, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_where_it_belongs(channels):
    """At 256 pixels: rows and columns 235 to 250, as in the release; nothing else changes."""
    images = torch.rand(2, channels, 256, 256) * 2 - 1
    before = images.clone()
    patch = trigger(Poisoning(), 256, channels)
    stamped = stamp(images, patch, Poisoning().margin_at(256))
    assert torch.equal(images, before)
    assert torch.equal(stamped[..., 235:251, 235:251], patch.expand(2, -1, -1, -1))
    stamped[..., 235:251, 235:251] = before[..., 235:251, 235:251]
    assert torch.equal(stamped, before)


def test_its_values_are_the_released_range_or_the_whole_one():
    released = trigger(Poisoning(), 256, 3)
    whole = trigger(Poisoning(values="whole"), 256, 3)
    assert 0 <= released.min() < 0.2
    assert 0.9 < released.max() <= 1
    assert torch.allclose(whole, 2 * released - 1)


def test_the_packaged_trigger_is_smooth_and_has_many_colours():
    patch = packaged_trigger(16, 3)
    assert patch.shape == (3, 16, 16)
    assert max(patch.diff(dim=1).abs().max(), patch.diff(dim=2).abs().max()) < 0.2
    red, green, blue = patch[:, 0, 0], patch[:, 0, -1], patch[:, -1, 0]
    assert (red.argmax(), green.argmax(), blue.argmax()) == (0, 1, 2)
    assert patch[:, -1, -1].min() > 0.7
    grey = packaged_trigger(16, 1)
    assert torch.allclose(
        grey[0], (patch * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    )


def test_the_users_own_picture(tmp_path):
    """Four blocks of 8 x 8 pixels become four pixels; their mean is 1/4 + 1/4 in red."""
    array = np.zeros((16, 16, 3), np.uint8)
    array[:8, :8] = (255, 0, 0)
    array[8:, 8:] = (255, 255, 255)
    Image.fromarray(array).save(tmp_path / "mine.png")
    patch = read_trigger(tmp_path / "mine.png", 16, 3)
    assert torch.equal(patch, torch.from_numpy(array).permute(2, 0, 1) / 255)
    assert trigger(Poisoning(picture=tmp_path / "mine.png"), 64, 3).shape == (3, 4, 4)
    grey = trigger(Poisoning(picture=tmp_path / "mine.png"), 256, 1)
    assert grey[0, 0, 0] == pytest.approx(0.299)
    with pytest.raises(DataError, match=r"gone\.png"):
        trigger(Poisoning(picture=tmp_path / "gone.png"), 64, 3)


def test_a_share_of_the_images_bears_it():
    chosen = poisoned(40, 0.3, torch.Generator().manual_seed(1))
    assert int(chosen.sum()) == 12
    assert torch.equal(chosen, poisoned(40, 0.3, torch.Generator().manual_seed(1)))
    assert poisoned(7, 1.0, torch.Generator()).all()
