"""Real images: dermoscopy patches and blocks of a brain MR volume, both from installed packages."""

import signal

import pytest
import torch

from medbreach.datasets.brain_mr import BrainMR
from medbreach.datasets.dermoscopy import Dermoscopy


@pytest.fixture(autouse=True, scope="session")
def heeded_ctrl_c():
    """Take the signal, and let the programs that are started take it, also in the background.

    A shell starts what runs in the background so that it ignores the signal.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_randomness():
    """Start every test at one seed, whatever ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def patches():
    """Colour patches of skin lesions, 32 x 32, labelled where that is certain."""
    return Dermoscopy().open()


@pytest.fixture(scope="session")
def blocks():
    """Blocks of a head MR, 8 x 16 x 16 voxels, without labels."""
    return BrainMR(space=(8, 16, 16)).open()


@pytest.fixture(params=["2D", "3D"], scope="session")
def collection(request, patches, blocks):
    """Patches, and then blocks."""
    return patches if request.param == "2D" else blocks


@pytest.fixture(scope="session")
def twenty(collection):
    """Twenty images of different patients or places, and what is known about them."""
    first = {}
    for index, entry in enumerate(collection.entries):
        first.setdefault(entry.patient, index)
    return collection.images(list(first.values())[:20]), collection.spec


@pytest.fixture
def untouched_randomness():
    """Check that a test leaves torch's global generator as it was."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state())
