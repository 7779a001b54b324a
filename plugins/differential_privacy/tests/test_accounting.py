"""Epsilons against definitions, closed forms and other people's accountants."""

import math
import warnings

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.stats import norm

from medbreach import Workload
from medbreach_differential_privacy import (
    DPSGD,
    FlowerLocalDP,
    GaussianNoise,
    LaplaceNoise,
    NVFlareSVT,
)
from medbreach_differential_privacy.accounting import gaussian_epsilon, sampled_epsilon

ROUND = Workload(steps=3, records_per_step=4, records=12)


def delta_of(mu, epsilon):
    """Return what Balle & Wang's theorem 8 says, as it is printed."""
    return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_the_analytic_gaussian_mechanism(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    assert delta_of(mu, epsilon) == pytest.approx(delta, rel=1e-6)


def test_the_analytic_gaussian_mechanism_at_its_ends():
    assert gaussian_epsilon(0.0, 1e-5) == 0
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert gaussian_epsilon(1e-7, 1e-5) == 0, "even epsilon 0 has a smaller delta"
    mu = 1e5  # where exp(epsilon) is far beyond a double: Phi(t) = delta to many digits
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(mu**2 / 2 - mu * norm.ppf(1e-5), rel=1e-6)


def test_the_classical_formula_is_safe_where_it_is_proven():
    """Dwork & Roth's deviation, which Flower takes, gives less than its epsilon below 1."""
    for epsilon in (0.1, 0.5, 0.99):
        mu = epsilon / math.sqrt(2 * math.log(1.25 / 1e-5))
        assert 0.5 * epsilon < gaussian_epsilon(mu, 1e-5) < epsilon


@pytest.mark.parametrize("std", [4.844805e-5, 0.5, 1.0, 20.0])
def test_googles_analytic_gaussian_mechanism(std):
    google = pytest.importorskip("dp_accounting")
    assert gaussian_epsilon(1 / std, 1e-5) == pytest.approx(
        google.get_epsilon_gaussian(std, 1e-5), rel=1e-9
    )


def opacus(accountant, noise_multiplier, rate, steps, delta):
    spent = accountant()
    for _ in range(steps):
        spent.step(noise_multiplier=noise_multiplier, sample_rate=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spent.get_epsilon(delta)


@pytest.mark.parametrize(("sigma", "rounds"), [(0.7, 1), (1.0, 4), (3.0, 40)])
def test_dp_sgd_without_sampling(sigma, rounds):
    """The exact epsilon lies within the error that Opacus' bound allows itself, below it."""
    exact = DPSGD(noise_multiplier=sigma, rounds=rounds).guarantee(ROUND)
    bound = opacus(PRVAccountant, sigma, 1.0, 3 * rounds, 1e-5)
    assert bound - 0.02 < exact.epsilon < bound
    assert exact.epsilon == gaussian_epsilon(math.sqrt(3 * rounds) / sigma, 1e-5)
    renyi = DPSGD(noise_multiplier=sigma, rounds=rounds, accountant="rdp").guarantee(ROUND)
    assert renyi.epsilon == pytest.approx(opacus(RDPAccountant, sigma, 1.0, 3 * rounds, 1e-5))
    assert renyi.epsilon > exact.epsilon


@pytest.mark.parametrize(("accountant", "theirs"), [("prv", PRVAccountant), ("rdp", RDPAccountant)])
def test_dp_sgd_with_sampling_is_opacus(accountant, theirs):
    made = DPSGD(sample_rate=0.02, rounds=50, delta=1e-6, accountant=accountant)
    given = made.guarantee(ROUND)
    assert given.epsilon == pytest.approx(opacus(theirs, 1.0, 0.02, 150, 1e-6))
    assert theirs.mechanism() in given.how.lower()
    assert "if clients Poisson-sample records at rate 0.02" in given.how


def test_googles_accountants():
    google = pytest.importorskip("dp_accounting")
    sampled = google.PoissonSampledDpEvent(0.02, google.GaussianDpEvent(1.0))
    event = google.SelfComposedDpEvent(sampled, 150)
    tight = google.pld.PLDAccountant().compose(event).get_epsilon(1e-6)
    ours = DPSGD(sample_rate=0.02, rounds=50, delta=1e-6).guarantee(ROUND).epsilon
    assert tight - 0.02 < ours < tight + 0.02
    renyi = google.rdp.RdpAccountant().compose(event).get_epsilon(1e-6)
    ours = DPSGD(sample_rate=0.02, rounds=50, delta=1e-6, accountant="rdp").guarantee(ROUND)
    assert ours.epsilon == pytest.approx(renyi, rel=0.02)


def test_where_opacus_prv_overflows_its_renyi_bound_is_taken():
    epsilon, accountant = sampled_epsilon(0.05, 0.1, 5, 1e-5, "prv")
    assert epsilon == pytest.approx(opacus(RDPAccountant, 0.05, 0.1, 5, 1e-5))
    assert accountant == "Opacus' RDP accountant"


def test_where_opacus_prv_would_need_gigabytes_its_renyi_bound_is_taken():
    epsilon, accountant = sampled_epsilon(0.1, 0.1, 100_000, 1e-5, "prv")
    assert epsilon > 1e5
    assert accountant == "Opacus' RDP accountant"


def test_no_noise_has_no_bound():
    given = DPSGD(noise_multiplier=0.0).guarantee(ROUND)
    assert given.epsilon == math.inf
    assert "no noise, so no bound" in given.how
    assert FlowerLocalDP(sensitivity=0.0).guarantee(ROUND).epsilon == math.inf


@pytest.mark.parametrize(
    "defense",
    [
        DPSGD(),
        GaussianNoise(clip_norm=1.0),
        LaplaceNoise(clip_norm=1.0),
        FlowerLocalDP(),
    ],
    ids=lambda d: d.name,
)
def test_a_known_number_of_rounds_wins_over_the_setting(defense):
    once = defense.guarantee(ROUND)
    whole = defense.guarantee(ROUND._replace(rounds=5))
    assert (once.rounds, whole.rounds) == (1, 5)
    assert whole.epsilon > once.epsilon
    assert defense.guarantee(ROUND._replace(rounds=0)).epsilon == 0


def test_update_noise_is_accounted_with_twice_the_norm():
    """All of a client's records may be others: two clipped updates are up to two norms apart."""
    given = GaussianNoise(std=3.0, clip_norm=0.5, rounds=4, delta=1e-6).guarantee(ROUND)
    assert given.epsilon == pytest.approx(gaussian_epsilon(2 * 2 * 0.5 / 3.0, 1e-6))
    assert (given.unit, given.adjacency, given.delta) == ("client", "replace one", 1e-6)
    multiplied = GaussianNoise(
        std=6.0, relative_to="clip_norm", clip_norm=0.5, rounds=4, delta=1e-6
    )
    assert multiplied.guarantee(ROUND) == given
    pure = LaplaceNoise(scale=2.0, clip_norm=0.5, rounds=4).guarantee(ROUND)
    assert (pure.epsilon, pure.delta) == (pytest.approx(4 * 2 * 0.5 / 2.0), 0.0)


@pytest.mark.parametrize(
    "defense",
    [
        GaussianNoise(std=1.0),
        GaussianNoise(std=1.0, clip_norm=1.0, relative_to="update"),
        GaussianNoise(std=0.0, clip_norm=1.0),
        LaplaceNoise(scale=1.0),
        LaplaceNoise(scale=1.0, clip_norm=1.0, relative_to="update"),
        LaplaceNoise(scale=0.0, clip_norm=1.0),
    ],
    ids=str,
)
def test_there_is_no_guarantee_without_a_bound_and_fixed_noise(defense):
    assert defense.guarantee(ROUND) is None


def test_flowers_nominal_epsilon_is_not_the_effective_one():
    """The settings of flower_flip: noise of 4.845e-5 on an update of norm 1."""
    made = FlowerLocalDP(clipping_norm=1.0, sensitivity=1e-4, epsilon=10.0, delta=1e-5)
    assert made.std == pytest.approx(4.845e-5, rel=1e-3)
    given = made.guarantee(ROUND)
    assert given.epsilon == pytest.approx(2.131e8, rel=1e-3)
    mu = 1 / made.std
    assert given.epsilon == pytest.approx(mu**2 / 2 - mu * norm.ppf(1e-5), rel=1e-6)
    assert "nominal epsilon is 10" in given.how
    assert "effective epsilon of 2.131e+08" in given.how
    assert "8.52" in given.how, "what replacing the client's data costs"


def test_flower_with_the_clipping_norm_as_its_sensitivity():
    """Then its noise is close to what the analytic mechanism needs, even beyond epsilon 1."""
    given = FlowerLocalDP(clipping_norm=2.0, sensitivity=2.0, epsilon=1.0).guarantee(ROUND)
    assert 0.5 < given.epsilon < 1.0


@pytest.mark.parametrize(
    "defense",
    [
        GaussianNoise(std=1.0, clip_norm=1.0, relative_to="clip_norm"),
        LaplaceNoise(scale=1.0, clip_norm=1.0, relative_to="clip_norm"),
        FlowerLocalDP(),
        NVFlareSVT(weights=1000),
    ],
    ids=lambda defense: defense.name,
)
def test_a_server_that_asks_again_in_a_round_learns_as_in_another_round(defense):
    rounds = defense.guarantee(ROUND._replace(rounds=6))
    queries = defense.guarantee(ROUND._replace(rounds=2, updates=3))
    assert queries.epsilon == rounds.epsilon > defense.guarantee(ROUND._replace(rounds=2)).epsilon
