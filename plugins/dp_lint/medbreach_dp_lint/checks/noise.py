"""Checks of what is drawn and added."""

from medbreach_dp_lint.accounting import Linted
from medbreach_dp_lint.checks.finding import Finding, some, words
from medbreach_dp_lint.gaussian import epsilon_of, mu_of


def no_mechanism(case: Linted) -> Finding | None:
    """Find that nothing in the configuration protects anything."""
    if case.said.mechanism != "none" or any(f.kind != "neutral" for f in case.said.filters):
        return None
    return Finding(
        "no-mechanism",
        "error",
        "Nothing in this configuration adds noise: updates leave as they are.",
        "Clip each contribution and add noise in proportion to the bound.",
    )


def no_noise(case: Linted) -> Finding | None:
    """Find that the noise is zero, or missing."""
    noise = case.said.noise
    if case.said.mechanism != "noise" or noise.scale:
        return None
    if case.said.clipping.sensitivity == 0:
        return None  # another check's
    how = "missing" if noise.scale is None else "0"
    return Finding(
        "no-noise",
        "error",
        f"The noise is {how}, so there is no differential privacy, however small the clipping.",
        "Set a noise multiplier above 0; at 1 the noise is as large as one clipped contribution.",
    )


def partial_noise(case: Linted) -> Finding | None:
    """Find layers that are trained and sent without noise."""
    bare = case.said.noise.bare
    if not bare:
        return None
    return Finding(
        "partial-noise",
        "error",
        f"{some(bare)} {'is' if len(bare) == 1 else 'are'} trained and sent without noise, so the "
        "whole update has no guarantee.",
        "Add the noise to every trained layer, or freeze those that get none.",
    )


def laplace_with_l2(case: Linted) -> Finding | None:
    """Find Laplace noise where the clipping bounds another norm."""
    said = case.said
    if said.noise.kind != "laplace" or said.clipping.order == "l1" or said.clipping.norm is None:
        return None
    return Finding(
        "laplace-l2",
        "error",
        "Laplace noise needs a bound on the L1 norm, and the clipping bounds the L2 norm: over "
        f"{said.parameters:,} values the L1 norm may be {words(said.parameters**0.5)} times that.",
        "Clip the L1 norm, or use Gaussian noise.",
    )


def classic_formula(case: Linted) -> Finding | None:
    """Find the classic Gaussian formula where its proof does not hold."""
    said = case.said
    stated, multiplier = said.claim.epsilon, said.noise.multiplier
    if said.noise.calibration != "classic" or stated is None or stated < 1 or not multiplier:
        return None
    exact = epsilon_of(1 / multiplier, said.delta)
    needed = 1 / mu_of(stated, said.delta)
    return Finding(
        "classic-gaussian",
        "error" if exact > stated * (1 + 1e-6) else "warning",
        f"sqrt(2 ln(1.25/delta))/epsilon is proven for epsilon < 1 only, and epsilon is "
        f"{words(stated)}: by the analytic Gaussian mechanism (Balle and Wang 2018) this noise "
        f"gives {words(exact)} where the sensitivity is as configured.",
        f"For epsilon {words(stated)} the noise has to be {words(needed)} times the sensitivity, "
        f"and is {words(multiplier)} times.",
    )


def insecure_noise(case: Linted) -> Finding | None:
    """Tell that noise is drawn by an ordinary generator, in floating point."""
    if case.said.secure_mode is not False:
        return None
    return Finding(
        "secure-mode-off",
        "note",
        "secure_mode is off: the noise is pseudo-random and in floating point, whose gaps can "
        "give values away (Mironov 2012).",
        "Turn secure_mode on for the final training.",
    )


def server_noise(case: Linted) -> Finding | None:
    """Tell that a server that adds the noise sees updates without it."""
    if case.said.noise.added_by != "server":
        return None
    wrong = (
        "The server adds the noise, so what it receives carries none: the guarantee holds "
        "against those who see the model, not against the server."
    )
    right = "Against the server, use noise at the client, or secure aggregation besides."
    if case.said.claim.against_server:
        return Finding("server-sees-updates", "error", wrong, right)
    return Finding("trusted-server", "note", wrong, right)


CHECKS = (
    no_mechanism,
    no_noise,
    partial_noise,
    laplace_with_l2,
    classic_formula,
    insecure_noise,
    server_noise,
)
