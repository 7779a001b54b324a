"""What the server of a Fed-Safe federation does: the mean, noise, and adversarial retraining."""

import copy
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medbreach import Seeds
from medbreach_federation import Aggregate, Result, Rule, Weights, weighted_mean
from medbreach_fedsafe.learner import ClassifierLearner
from medbreach_fedsafe.noise import with_noise
from medbreach_fedsafe.settings import FedSafe
from medbreach_fedsafe.shares import Shares
from medbreach_fedsafe.training import Stopwatch, fit, load, trained_names, weights_of


class FedSafeRule(Rule):
    """The plain mean of what clients send; what is sent back bears noise, another for each client.

    Running statistics of normalisation layers are averaged like weights.

    From the second round on, and for what clients hold after the last one: with ``downlink`` each
    client is sent the mean with noise of its own, and with retraining that noisy network after it
    was trained on adversarial images made for it. With retraining alone, the mean itself is trained
    on adversarial images made for it, and all are sent the same (conventional adversarial
    training). What is sent depends on the seed, the client, the round and the mean alone.

    Args:
        shares: The images; the pool is all that is looked at.
        network: The network that the federation begins with.
        settings: What the server does.
        seed: Of the noise and of retraining.
        device: Where to retrain.
        past: How many of the federation's last weights are remembered.

    Raises:
        DataError: There is nothing in the pool to retrain on.
    """

    def __init__(
        self,
        shares: Shares,
        network: nn.Module,
        settings: FedSafe,
        seed: int,
        device: torch.device,
        past: int = 0,
    ) -> None:
        self._shares, self._network, self._settings = shares, network, settings
        self._seeds, self._device = Seeds(seed), device
        self._trained = trained_names(network)
        self._seconds = 0.0
        self.past: deque[Weights] = deque(maxlen=past)
        if settings.retraining.share:
            shares.of_pool(settings.retraining.share)

    @classmethod
    def beside(cls, learner: ClassifierLearner, seed: int, past: int = 0) -> "FedSafeRule":
        """Return the server of the federation whose clients are a learner's."""
        network = learner.network(learner.first()).cpu()
        return cls(learner.shares, network, learner.settings, seed, learner.device, past)

    def send(self, client: int, round: int, weights: Weights) -> Weights:
        """Return what one client is sent: in the first round what the federation begins with."""
        settings = self._settings
        if round == 1 or not settings.downlink:
            return weights
        watch = Stopwatch(self._device)
        noise = self._seeds.stream(f"downlink/{client}/{round}")
        sent: Weights = with_noise(weights, settings.sigma, self._trained, noise)
        if settings.retraining.share:
            sent = self._retrained(sent, f"{client}/{round}")
        self._seconds += watch.seconds()
        return sent

    def aggregate(
        self,
        round: int,
        before: Weights,
        results: Mapping[int, Result],
    ) -> Aggregate:
        """Return the mean of what clients sent, each counting the same, retrained if asked for."""
        del before
        watch = Stopwatch(self._device)
        weights: Weights = weighted_mean(results, dict.fromkeys(results, 1.0))
        if self._settings.retraining.share and not self._settings.downlink:
            weights = self._retrained(weights, f"all/{round}")
        self.past.append(weights)
        seconds, self._seconds = self._seconds + watch.seconds(), 0.0
        return Aggregate(weights, {"server_seconds": seconds})

    def keep(self) -> dict[str, Any]:
        """Return the federation's last weights."""
        return {"past": [dict(weights) for weights in self.past]}

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Take up what `keep` returned."""
        self.past = deque(kept.get("past", ()), maxlen=self.past.maxlen)

    def _retrained(self, weights: Weights, role: str) -> dict[str, Tensor]:
        """Return weights after training on adversarial images with true labels, no clean ones."""
        settings, spec = self._settings.retraining, self._shares.spec
        pool = self._shares.of_pool(settings.share)
        network = load(copy.deepcopy(self._network), weights).to(self._device).eval()
        rng = self._seeds.stream(f"retrain/{role}")
        attacked = settings.attack([network], pool.images, pool.labels, spec, rng)
        fit(
            network,
            spec.normalise(attacked),
            pool.labels,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            max_grad_norm=self._settings.max_grad_norm,
            rng=rng,
        )
        return weights_of(network)
