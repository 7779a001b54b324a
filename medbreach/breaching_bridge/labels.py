"""Inferring withheld labels where breaching's ways fall short."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medbreach.types import Change, Exchange

MOST_PUBLIC = 256  # images that the mean softmax is estimated on


def by_impact(
    gradients: Sequence[Float[Tensor, "classes features"]], count: int
) -> Int[Tensor, " records"]:
    """Return the labels that the gradient of the last layer's weight speaks for.

    Differs from breaching's ``wainakh-simple``, which, having found the classes that are there,
    takes the impact of each further record off the same class instead of the one it has chosen.

    Args:
        gradients: Gradient of that weight in each round, for features that are not negative.
        count: Number of records.

    Source: Wainakh et al. 2022, arXiv:2105.09369, with the gradient alone.
    """
    evidence = torch.stack([g.sum(1) for g in gradients])
    classes = evidence.shape[1]
    impact = evidence.clamp_max(0).sum(1).mean() * (1 + 1 / classes) / count
    left = evidence.mean(0)
    found = (left < 0).nonzero().flatten().tolist()
    left[found] -= impact
    while len(found) < count:
        likeliest = int(left.argmin())
        found.append(likeliest)
        left[likeliest] -= impact
    return torch.tensor(found[:count], device=left.device)


def by_share(
    exchange: Exchange, gradients: Sequence[Float[Tensor, " classes"]], count: int
) -> Int[Tensor, " records"] | None:
    """Return the labels that fit the gradient of the last layer's bias; None where it tells none.

    For the mean cross-entropy, that gradient is the mean softmax less each class's share of the
    records. The mean softmax is estimated on public images. A change of weights has to come with
    its recipe.

    Args:
        exchange: What the server saw.
        gradients: Gradient of that bias in each round; for a change of weights, its negative.
        count: Number of records.

    Source: ours, after Ma et al., "Instance-wise batch label restoration via gradients in federated
    learning", ICLR 2023, who solve for the softmax of each record.
    """
    update, loss = exchange.update, exchange.loss
    if not isinstance(loss, torch.nn.CrossEntropyLoss) or not len(exchange.public):
        return None
    if update.kind is Change.DIFFERENCE and update.recipe is None:
        return None
    scale = 1.0 if update.recipe is None else update.recipe.steps * update.recipe.lr
    gradient = torch.stack(list(gradients)).mean(0) / scale
    shares = (_mean_softmax(exchange) - gradient).clamp_min(0)
    wanted = count * shares / shares.sum().clamp_min(1e-12)
    counts = wanted.floor().long()
    short = count - int(counts.sum())
    counts[(wanted - counts).argsort(descending=True)[:short]] += 1
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


def _mean_softmax(exchange: Exchange) -> Float[Tensor, " classes"]:
    like = next(exchange.model.parameters())
    images = exchange.spec.normalise(exchange.public[:MOST_PUBLIC]).to(like)
    training = exchange.model.training
    try:
        with torch.no_grad():
            outputs: Tensor = exchange.model.eval()(images)
        return outputs.softmax(1).mean(0)
    finally:
        exchange.model.train(training)
