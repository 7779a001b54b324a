"""Several rounds over the same records: closed forms use them all."""

import statistics
from dataclasses import replace

import torch

from medbreach.attacks.analytic import Analytic
from medbreach.models.mlp import MLP
from medbreach.protocol import LocalNoise, User
from medbreach.servers.honest_but_curious import HonestServer
from medbreach.testing import tiny_exchange, tiny_sample


def test_the_fit_to_all_noisy_rounds_is_closer_than_most():
    user = User(provide_labels=True, local_diff_privacy=LocalNoise(gradient_noise=1e-4))
    changes = {"model": MLP(width=32), "user": user, "server": HonestServer(num_queries=8)}
    exchange = tiny_exchange(**changes)
    assert len(exchange.rounds) == 8

    def claim(rounds):
        return Analytic()(replace(exchange, rounds=rounds), torch.Generator()).images

    truth = tiny_sample(**changes).truth.images
    each = [float((claim((one,)) - truth).square().mean()) for one in exchange.rounds]
    together = float((claim(exchange.rounds) - truth).square().mean())
    assert together < statistics.median(each)
