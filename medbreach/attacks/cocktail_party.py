"""Unmixing the records of a batch in a linear layer's gradient."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.attacks.image_layer import Gradient, ImageLayer, find_image_layer
from medbreach.attacks.minimise import minimise
from medbreach.attacks.simulation import check
from medbreach.attacks.span import Span, records_of, span_of
from medbreach.components import Attack
from medbreach.errors import NotApplicable
from medbreach.models.mlp import MLP
from medbreach.types import Exchange, ImageSpec, Reconstruction

if TYPE_CHECKING:
    from medbreach.case import Case


@dataclass(frozen=True)
class Weights:
    """Weights of the terms that the unmixing makes small.

    Attributes:
        negentropy: Distance of the mean ``log cosh(a s) / a`` of a component ``s`` to that of a
            Gaussian, which is made great.
        total_variation: Total variation of a component's image.
        decorrelation: Mean of ``cosh(T c) - 1`` over pairs of components with the cosine ``c``.
    """

    negentropy: float = 1.0
    total_variation: float = 0.1
    decorrelation: float = 0.1

    def __post_init__(self) -> None:
        if min(self.negentropy, self.total_variation, self.decorrelation) < 0:
            raise ValueError("weights must not be negative")


@dataclass(frozen=True)
class CocktailParty(Attack):
    """Separate the records of a batch in the gradient of a first linear layer (CPA).

    That gradient's rows are mixtures of the layer's inputs. They are reduced to as many whitened
    components as there are records, and Adam looks for the directions in which components look
    least like Gaussian noise, are smooth, and differ from each other. What unmixes an image,
    applied to the bias's gradient, gives its sign and scale; without a bias, public images and
    the intensities' range do.

    It needs at least as many independent rows as records, and works on changes of weights after
    local training and on secure aggregates too, in 2D and 3D. Behind convolutions it would give
    features, no images. Confidence: the share of each claim's own gradient, simulated, that the
    update's columns span.

    Attributes:
        differences: Whiten and judge the differences of neighbouring pixels, which are sparse and
            hardly correlated between images; else intensities, as in the source.
        contrast: ``a`` in ``log cosh(a s) / a``: the greater, the more like the mean of ``|s|``.
        temperature: ``T`` of the decorrelation.
        weight: Weights of the terms.
        steps: Number of steps.
        step_size: Step size.
    """

    name: ClassVar[str] = "cpa"
    source: ClassVar[str] = "Kariyappa et al. 2023, arXiv:2209.05578"
    differs: ClassVar[str] = (
        "Unmixes differences of pixels, not intensities (ours), with a contrast of 3 and weights "
        "of our own; the distance of log cosh to a Gaussian's is not squared, and the "
        "decorrelation has no kink, which stops a descent. Sign and scale come from the bias. "
        "Features are not inverted."
    )

    differences: bool = True
    contrast: float = 3.0
    temperature: float = 12.0
    weight: Weights = Weights()
    steps: int = 1000
    step_size: float = 0.01

    def __post_init__(self) -> None:
        for name in ("contrast", "temperature", "steps", "step_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return one image for each record.

        Raises:
            NotApplicable: No linear layer takes the image, or its gradient has fewer independent
                rows than there are records, or their number is withheld and cannot be told.
        """
        layer = find_image_layer(exchange)
        gradient = layer.gradient(exchange)
        span = _span(exchange, gradient)
        mixtures = _mixtures(layer, gradient, span)
        whitening = self._whitening(mixtures.images.reshape(-1, *exchange.spec.shape))
        directions = self._directions(mixtures.images, whitening, exchange.spec, rng)
        images = _images(mixtures, directions @ whitening, exchange)
        return Reconstruction(images, None, _confidence(exchange, layer, images, span))

    def control(self, case: "Case") -> "Case":
        """Return a batch of four records and a fully connected network."""
        easy = case.solvable(MLP())
        return replace(easy, user=replace(easy.user, num_data_points=4))

    def _whitening(self, images: Float[Tensor, "n channels *space"]) -> Tensor:
        """Return the matrix that makes mixtures uncorrelated and of unit variance."""
        signal = self._signal(images)
        variances, axes = torch.linalg.eigh(signal @ signal.T / signal.shape[1])
        kept = variances > 1e-12 * variances[-1]
        matrix: Tensor = (axes[:, kept] / variances[kept].sqrt()).T
        return matrix

    def _signal(self, images: Float[Tensor, "n channels *space"]) -> Tensor:
        """Return what is unmixed: centred differences, or intensities."""
        signal = differences(images) if self.differences else images.flatten(1)
        return signal - signal.mean(1, keepdim=True)

    def _directions(
        self, images: Tensor, whitening: Tensor, spec: ImageSpec, rng: torch.Generator
    ) -> Float[Tensor, "n n"]:
        """Return unit vectors along which whitened mixtures are least Gaussian."""
        count = len(whitening)
        drawn = torch.randn(count, count, generator=rng)
        first: Tensor = torch.linalg.qr(drawn)[0].to(images)
        if count < 2:
            return first
        whitened = (whitening @ images).reshape(-1, *spec.shape)
        signal, slopes = self._signal(whitened).float(), differences(whitened).float()
        gaussian, axes = _log_cosh_of_gaussian(self.contrast), len(spec.space)
        pairs = ~torch.eye(count, dtype=torch.bool, device=images.device)

        def objective(raw: Tensor) -> Tensor:
            unit = torch.nn.functional.normalize(raw, dim=1)
            likeness = _log_cosh(unit @ signal, self.contrast).mean(1) - gaussian
            roughness = axes * (unit @ slopes).abs().mean()
            cosines = (unit @ unit.T)[pairs]
            return (
                -self.weight.negentropy * likeness.abs().mean()
                + self.weight.total_variation * roughness
                + self.weight.decorrelation * ((self.temperature * cosines).cosh() - 1).mean()
            )

        raw = minimise(first.float(), objective, self.steps, self.step_size)
        return torch.nn.functional.normalize(raw, dim=1).to(images)


class Mixtures(NamedTuple):
    """Mixtures of the records' images.

    Attributes:
        images: Sums of pixels, each the share of the way from the least to the greatest intensity;
            without weights, less the share at which the layer's input is zero.
        weights: The sum of each mixture's weights; None if unknown.
        zero: That share.
    """

    images: Float[Tensor, "n pixels"]
    weights: Float[Tensor, " n"] | None
    zero: Float[Tensor, " pixels"]


def differences(images: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n differences"]:
    """Return the differences of neighbouring pixels along every spatial axis."""
    return torch.cat([images.diff(dim=axis).flatten(1) for axis in range(2, images.ndim)], dim=1)


def _span(exchange: Exchange, gradient: Gradient) -> Span:
    """Return the span of as many of a gradient's rows as there are records.

    Raises:
        NotApplicable: There are not so many, or it is not known how many there are.
    """
    if not gradient.weight.any():
        raise NotApplicable("the gradient of the layer that takes the image is zero")
    span = span_of(gradient.weight)
    count = records_of(exchange, span, CocktailParty.name)
    if len(span.values) < count:
        raise NotApplicable(
            f"cpa needs as many independent rows as records: of {len(gradient.weight)} rows of the "
            f"gradient {len(span.values)} are independent, and there are {count} records"
        )
    return span.leading(count)


def _mixtures(layer: ImageLayer, gradient: Gradient, span: Span) -> Mixtures:
    code = layer.code
    width = code.white - code.black
    inputs = (span.values[:, None] * span.right)[:, code.place]
    zero = (-code.black / width).double()
    if gradient.bias is None:
        return Mixtures((inputs / width).double(), None, zero)
    weights = span.left.T @ gradient.bias
    images = (inputs - weights[:, None] * code.black) / width
    return Mixtures(images.double(), weights.double(), zero)


def _images(
    mixtures: Mixtures, unmixing: Tensor, exchange: Exchange
) -> Float[Tensor, "n channels *space"]:
    """Return unmixed images in the spec's unit; a record's weights sum to 1, which scales it."""
    found, spec = unmixing @ mixtures.images, exchange.spec
    if mixtures.weights is None:
        shares = _scaled_without_bias(found, mixtures.zero, exchange)
    else:
        sums = (unmixing @ mixtures.weights)[:, None]
        shares = found / torch.where(sums == 0, torch.ones_like(sums), sums)
    images = spec.bounds[0] + spec.range * shares
    return images.clamp(*spec.bounds).float().reshape(-1, *spec.shape)


def _scaled_without_bias(
    found: Float[Tensor, "n pixels"], zero: Float[Tensor, " pixels"], exchange: Exchange
) -> Float[Tensor, "n pixels"]:
    """Return images with the deviation of public ones and the likelier sign.

    That sign brings an image closer to a public one or, if there is none, leaves more of it within
    the bounds.
    """
    spec = exchange.spec
    deviation = sum(spec.std) / len(spec.std) / spec.range
    scaled = found * deviation / found.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
    either = torch.stack([zero + scaled, zero - scaled])
    unlike = (either - either.clamp(0, 1)).square().sum(2)
    if len(exchange.public):
        public = ((exchange.public.to(found) - spec.bounds[0]) / spec.range).flatten(1)
        unlike = torch.cdist(either.flatten(0, 1), public).amin(1).reshape(2, -1)
    return torch.where((unlike[0] <= unlike[1])[:, None], either[0], either[1])


def _confidence(exchange: Exchange, layer: ImageLayer, images: Tensor, span: Span) -> Tensor | None:
    """Return how well claims fit the gradient's columns; None if any image would."""
    if 2 * len(span.values) > len(span.left) / len(exchange.rounds):
        return None
    return (1 - check(exchange, layer.name, images, span.left).residual).clamp(0, 1)


def _log_cosh(values: Tensor, a: float) -> Tensor:
    """Return ``log cosh(a s) / a``, also where ``cosh`` overflows."""
    size = a * values.abs()
    return (size + torch.nn.functional.softplus(-2 * size) - math.log(2)) / a


def _log_cosh_of_gaussian(a: float) -> float:
    """Return the mean of ``log cosh(a s) / a`` over a standard Gaussian."""
    points = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-points.square() / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(_log_cosh(points, a) * density, points))
