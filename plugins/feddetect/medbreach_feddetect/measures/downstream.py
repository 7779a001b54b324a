"""What generated images are worth to a classifier that is trained with them."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medbreach import DataError, Seeds
from medbreach.models.small_cnn import SmallCNN
from medbreach.tradeoff.predictions import DRAWS, Interval
from medbreach.types import ImageSpec
from medbreach_feddetect.holdings import Holding, hold
from medbreach_feddetect.learner import GanLearner
from medbreach_federation import Weights

BATCH: Final = 32
WIDTH: Final = 16  # of the classifier
LEARNING_RATE: Final = 1e-3  # of Adam


class Downstream(NamedTuple):
    """What generated images change for a classifier, over the public's patients.

    Attributes:
        of_real: Accuracy with the clients' images only.
        of_augmented: Accuracy with generated ones beside them.
        gain: The difference, the same patients drawn for both.
    """

    of_real: Interval
    of_augmented: Interval
    gain: Interval


def downstream(
    learner: GanLearner, weights: Weights, epochs: int, seeds: Sequence[int]
) -> Downstream:
    """Train classifiers with and without images of a conditional generator, and test both.

    Clients' labelled images are pooled, unstamped; as many generated ones are added, of the same
    classes. Both are tested on the public's patients, of whom neither has seen an image. Network
    (`small_cnn`), optimiser (Adam) and numbers are ours. Both take the same number of steps.

    Args:
        learner: The federation's, with a conditional GAN.
        weights: The federation's weights.
        epochs: Passes over the real images.
        seeds: Of the classifiers.

    Raises:
        DataError: The GAN is not conditional, so that nobody knows what its images show, or no
            image of the public has a label.
    """
    classes = learner.setting.gan.classes
    if not classes:
        raise DataError(
            "an unconditional GAN's images have no classes to learn from: set gan.classes"
        )
    held = hold(learner.setting)
    parts = [part.labelled() for part in held.clients]
    real = (torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
    made = learner.samples(weights, len(real[1]), "downstream", real[1])
    both = (torch.cat([real[0], made]), torch.cat([real[1], real[1]]))
    public = held.public.labelled()
    if not len(public.labels):
        raise DataError(
            "a classifier needs labelled images to be tested on, and none of the public's has one"
        )
    steps = epochs * -(-len(real[1]) // BATCH)
    right = [
        torch.stack([_right(*images, public, classes, steps, seed) for seed in seeds]).mean(0)
        for images in (real, both)
    ]
    return _compared(right[0], right[1], public.patients)


def _compared(real: Tensor, augmented: Tensor, patients: Tensor) -> Downstream:
    """Return accuracies and their difference, with bootstrap intervals over patients.

    Args:
        real: How often each image is classified rightly with real images only: 0 to 1.
        augmented: Likewise with generated ones.
        patients: Number of each image's patient.
    """
    owners = torch.searchsorted(torch.tensor(sorted(set(patients.tolist()))), patients)
    count = int(owners.max()) + 1
    sums = torch.zeros(3, count, dtype=torch.float64)
    for row, values in zip(sums, (real, augmented, torch.ones_like(real)), strict=True):
        row.index_add_(0, owners, values.double())
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randint(count, (DRAWS, count), generator=rng)
    shares = sums[:2, drawn].sum(2) / sums[2, drawn].sum(1)
    means = sums[:2].sum(1) / sums[2].sum()

    def interval(value: Tensor, draws: Tensor) -> Interval:
        low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64))
        return Interval(float(value), float(low), float(high))

    return Downstream(
        interval(means[0], shares[0]),
        interval(means[1], shares[1]),
        interval(means[1] - means[0], shares[1] - shares[0]),
    )


def _right(
    images: Tensor, labels: Tensor, public: Holding, classes: int, steps: int, seed: int
) -> Tensor:
    """Train a classifier; return which of the public's images it classifies rightly."""
    seeds = Seeds(seed)
    channels, *space = images.shape[1:]
    spec = ImageSpec(channels, tuple(space), bounds=(-1.0, 1.0))
    network = SmallCNN(WIDTH)(spec, classes, seeds.stream("classifier"))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    rng = seeds.stream("batches")
    network.train()
    for _ in range(steps):
        chosen = torch.randint(len(labels), (BATCH,), generator=rng)
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(images[chosen]), labels[chosen])
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        said = torch.cat([network.eval()(part) for part in torch.split(public.images, 256)])
    return (said.argmax(1) == public.labels).double()
