"""Pictures: the right plane, the right way up, at the right aspect, in the right grey."""

import base64
import io

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medbreach.datasets.nifti import read_volume
from medbreach.report.pictures import (
    LARGEST,
    PIXELS,
    SMALLEST,
    explain,
    liveliest,
    pictures_of,
    side_for,
)
from medbreach.types import ImageSpec

SIZE = 9  # voxels along each axis: the middle plane is index 4


def shown(picture):
    content = base64.b64decode(picture.uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


def place(picture):
    """Return row and column of the brightest pixel."""
    grey = shown(picture)
    return tuple(int(k) for k in np.unravel_index(grey.argmax(), grey.shape))


@pytest.fixture(params=["RAS", "LPS", "PIR", "SAL"])
def marked(request, tmp_path):
    """Return a function that stores a volume with one bright voxel, in some orientation."""

    def volume(right, front, head):
        """Place the voxel so many steps to the patient's right, front and head of the centre."""
        voxels = np.zeros((SIZE, SIZE, SIZE), np.float32)
        voxels[4 - right, 4 + front, 4 + head] = 1  # stored axes: to the left, front, head
        image = nibabel.Nifti1Image(voxels, np.diag([-2.0, 2.0, 2.0, 1.0]))
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(request.param)
        )
        file = tmp_path / "marked.nii.gz"
        nibabel.save(image.as_reoriented(turn), file)
        read = read_volume(file, "marked")
        spec = ImageSpec(1, (SIZE, SIZE, SIZE), read.grid.spacing)
        return pictures_of(torch.tensor(read.voxels)[None], spec)

    return volume


def test_radiological_planes_whatever_the_stored_orientation(marked):
    axial, coronal, sagittal = marked(right=0, front=3, head=0)
    assert place(axial) == (1, 4)
    assert place(sagittal) == (4, 1)
    axial, coronal, sagittal = marked(right=0, front=0, head=3)
    assert place(coronal) == (1, 4)
    assert place(sagittal) == (1, 4)
    axial, coronal, sagittal = marked(right=3, front=0, head=0)
    assert place(axial) == (4, 1)
    assert place(coronal) == (4, 1)
    assert [p.plane for p in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]


def test_planes_keep_proportions_in_mm():
    spec = ImageSpec(1, (10, 20, 40), (3.0, 2.0, 1.0))
    axial, coronal, sagittal = pictures_of(torch.rand(1, 10, 20, 40), spec)
    assert [p.aspect for p in (axial, coronal, sagittal)] == pytest.approx([1.0, 40 / 30, 40 / 30])
    assert [p.width for p in (axial, coronal, sagittal)] == [1.0, 1.0, 1.0]
    assert shown(axial).shape == (20, 40)
    assert shown(coronal).shape == (10, 40)
    assert shown(sagittal).shape == (10, 20)


def test_planes_of_one_volume_share_a_scale():
    spec = ImageSpec(1, (8, 20, 40), (1.0, 1.0, 1.0))
    assert [p.width for p in pictures_of(torch.rand(1, 8, 20, 40), spec)] == [1.0, 1.0, 0.5]


def test_pixels_that_are_not_square_keep_their_proportions():
    spec = ImageSpec(1, (10, 10), (2.0, 1.0))
    assert pictures_of(torch.rand(1, 10, 10), spec)[0].aspect == 0.5


def test_unknown_orientation_is_shown_as_stored_and_says_so():
    spec = ImageSpec(1, (5, 6, 7))
    volume = torch.rand(1, 5, 6, 7)
    pictures = pictures_of(volume, spec)
    assert [p.plane for p in pictures] == ["across depth", "across height", "across width"]
    np.testing.assert_array_equal(shown(pictures[0]), (volume[0, 2] * 255).round().byte().numpy())
    assert "voxel size and orientation are not known" in " ".join(explain(spec, LARGEST))


def test_planes_go_where_there_is_something_to_see():
    volume = torch.zeros(1, 6, 7, 8)
    volume[0, 1, 2:, 5:] = torch.rand(5, 3)
    assert liveliest(volume)[0] == 1
    spec = ImageSpec(1, (6, 7, 8))
    across, *_ = pictures_of(volume, spec, places=(1, 3, 4))
    np.testing.assert_array_equal(shown(across), (volume[0, 1] * 255).round().byte().numpy())


def test_bounds_are_black_and_white():
    spec = ImageSpec(1, (1, 4), bounds=(-1000.0, 400.0), unit="HU")
    picture = pictures_of(torch.tensor([[[-2000.0, -1000.0, -300.0, 400.0]]]), spec)[0]
    assert shown(picture).tolist() == [[0, 0, 128, 255]]
    assert explain(spec, LARGEST) == ["Black is -1000 HU and white 400 HU in every picture."]


def test_colour_is_shown_as_colour_and_other_channels_as_the_first(patches):
    image = patches.images([0])[0]
    np.testing.assert_array_equal(
        shown(pictures_of(image, patches.spec)[0]), (image * 255).round().byte().permute(1, 2, 0)
    )
    two = ImageSpec(2, (4, 4))
    pair = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    assert shown(pictures_of(pair, two)[0]).max() == 0
    assert "The first of 2 channels is shown." in explain(two, LARGEST)


def test_large_images_are_averaged_down_and_say_so():
    checks = (torch.arange(512)[:, None] + torch.arange(512)) % 2
    spec = ImageSpec(1, (512, 512))
    picture = shown(pictures_of(checks[None].float(), spec, side=128)[0])
    assert picture.shape == (128, 128)
    assert set(np.unique(picture)) <= {127, 128}
    assert "Pictures are reduced to 128 pixels on the longer side." in explain(spec, 128)


@pytest.mark.parametrize("space", [(512, 512), (300, 300, 300)])
@pytest.mark.parametrize("images", [3, 12, 144])
def test_a_page_has_a_budget(space, images):
    side = side_for(images, ImageSpec(1, space))
    planes = 3 if len(space) == 3 else 1
    assert SMALLEST <= side <= LARGEST
    assert images * planes * side**2 <= PIXELS
