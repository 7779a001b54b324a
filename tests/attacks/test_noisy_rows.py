"""Imprint rows behind noise and pruning, read by who knows of it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from medbreach import Defense, Exchange, config
from medbreach.attacks.noisy_rows import read_noisy_rows, rows_of
from medbreach.plugins import attacks
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.session import prepare

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Noise(Defense):
    """Noise of a known deviation."""

    name: ClassVar[str] = "noise"
    source: ClassVar[str] = "test"
    std: float = 0.0

    def wrap(self, train):
        def trained(task):
            update = train(task)
            noisy = {
                n: g + self.std * torch.randn(g.shape, generator=task.rng)
                for n, g in update.change.items()
            }
            return replace(update, change=noisy)

        return trained

    def noise(self, seen):
        return self.std


@dataclass(frozen=True)
class Sparse(Noise):
    """Send the largest half of the entries of each tensor."""

    def wrap(self, train):
        def trained(task):
            update = train(task)
            return replace(update, change={n: self.kept(g) for n, g in update.change.items()})

        return trained

    def kept(self, g):
        return g.where(g.abs() >= g.abs().median(), 0.0)

    def noise(self, seen):
        return 0.0


@pytest.fixture(scope="module", params=["rtf", "qbi"])
def session(request):
    return prepare(
        config.load([
            "case=dermoscopy_2d", f"case/server=malicious-model-{request.param}",
            "attack=imprint", "case.user.num_data_points=8",
            "case.server.model_modification.num_bins=32", "audit.null_draws=1",
            "audit.metrics=[psnr]", "case.model=torchvision_resnet18",
        ]),
        CPU,
    )  # fmt: skip


def exchange_of(session, *defenses) -> Exchange:
    return play(session.plan.case, session.sample, defenses, Seeds(0), CPU)[0]


def psnr(images, truth, most=45.0):
    """Mean over records of the PSNR of the nearest claim, each at most so much."""
    apart = torch.cdist(images.clamp(0, 1).flatten(1), truth.flatten(1)).amin(0)
    each = -10 * torch.log10(apart.square().clamp_min(1e-12) / truth[0].numel())
    return float(each.clamp_max(most).mean())


def claims(session, exchange, *, adaptive):
    return attacks()["imprint-readout"](adaptive=adaptive)(exchange, torch.Generator()).images


def test_without_a_defense_knowing_changes_nothing(session):
    exchange = exchange_of(session)
    plain, adaptive = (claims(session, exchange, adaptive=a) for a in (False, True))
    assert torch.equal(plain, adaptive)


def test_rows_without_noise_are_what_records_gave(session):
    """Read natively, the rows give the claims that breaching's readout gives."""
    exchange = exchange_of(session)
    rows = rows_of(exchange, exchange.rounds[0], exchange.secret)
    assert rows.noise == 0
    native = read_noisy_rows(exchange, exchange.rounds[0], exchange.secret).images
    truth = session.sample.truth.images
    assert psnr(native, truth) == pytest.approx(
        psnr(claims(session, exchange, adaptive=False), truth), abs=0.5
    )


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_noise_is_taken_off(session, share):
    """Noise in shares of the largest bias; the claims gain several dB and are fewer."""
    bare = exchange_of(session)
    std = share * float(rows_of(bare, bare.rounds[0], bare.secret).bias.abs().max())
    exchange, truth = exchange_of(session, Noise(std)), session.sample.truth.images
    plain, adaptive = (claims(session, exchange, adaptive=a) for a in (False, True))
    assert psnr(adaptive, truth) > psnr(plain, truth) + 2
    assert len(adaptive) < len(plain)


def test_gaps_are_filled_in(session):
    exchange, truth = exchange_of(session, Sparse()), session.sample.truth.images
    plain, adaptive = (claims(session, exchange, adaptive=a) for a in (False, True))
    assert psnr(adaptive, truth, 70.0) > psnr(plain, truth, 70.0) + 1


def test_without_public_images_the_rows_are_read_as_they_stand(session):
    exchange = exchange_of(session, Noise(1e-7))
    bare = replace(exchange, public=exchange.public[:0])
    assert len(claims(session, bare, adaptive=True)) > 0


@dataclass(frozen=True)
class BiasesOnly(Noise):
    """Send one-dimensional entries only."""

    def wrap(self, train):
        def trained(task):
            update = train(task)
            sent = {n: g * (g.dim() == 1) for n, g in update.change.items()}
            return replace(update, change=sent)

        return trained

    def noise(self, seen):
        return 0.0


def test_rows_of_which_nothing_was_sent_become_the_mean_public_image(session):
    """They tell nothing; that is no reason to fail."""
    exchange = exchange_of(session, BiasesOnly())
    found = claims(session, exchange, adaptive=True)
    assert len(found) > 0
    assert torch.allclose(found, exchange.public.mean(0).expand_as(found), atol=1e-5)
