"""NVFlare's filter after the sparse vector technique."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from medbreach import (
    Change,
    ClientTask,
    Defense,
    Gradient,
    Guarantee,
    LocalTraining,
    NotApplicable,
    Update,
    Workload,
)
from medbreach_differential_privacy.accounting import check_accounting
from medbreach_differential_privacy.nvflare_percentile import steps_of
from medbreach_differential_privacy.vectors import laplacian, straight_clamp, what_was_sent

PASSES = 1000
"""Passes over the entries after which too few were accepted (ours; NVFlare goes on forever)."""


@dataclass(frozen=True)
class NVFlareSVT(Defense):
    """Send a random share of the entries, cut off and with Laplace noise, as NVFlare does.

    The change is divided by the number of steps. Entries are accepted whose absolute value, cut off
    at ``gamma`` and with noise, is above a noisy threshold; those that are not are asked again with
    new noise until there are enough. From them the share is drawn, with replacement; each is cut
    off at ``gamma``, gets noise, and is multiplied by the steps again. All others are zero.

    With the defaults the noise on an entry is 20 times the most that the entry can be. The
    guarantee is what NVFlare's own accountant adds up, which NVFlare calls filter-level: the
    threshold's, the queries' and the release's epsilon, summed over rounds. It is stated as theirs,
    not ours: their account of the selection assumes that asking stops at the share's last answer,
    and the filter accepts more. The release's part depends on the number of weights, which has to
    be given.

    An attacker who knows of it reads off the update which entries were sent, leaves the others out
    of the comparison, and cuts off what candidates give.

    Attributes:
        fraction: Share of the entries to send, above 0 and at most 1.
        epsilon: Budget of the threshold and the queries together.
        noise_var: Budget of the release for each entry sent (no variance, in spite of its name),
            unless ``epsilon_release`` is given.
        gamma: Greatest absolute value of an entry, in the unit of one step's change of weights.
        tau: Threshold, in the unit of ``gamma``.
        replace: Draw the share with replacement, so that fewer entries are sent.
        epsilon_threshold: Budget of the threshold; null for the rest of ``epsilon``, or the
            standard split if ``epsilon_query`` is null too.
        epsilon_query: Budget of the queries; null likewise.
        epsilon_release: Budget of the whole release; null for ``noise_var`` an entry.
        weights: Number of weights that the network trains, for the guarantee; null: none is stated
            unless ``epsilon_release`` is given. Not NVFlare's.
        rounds: Rounds that a client takes part in, for the guarantee. Not NVFlare's.
    """

    name: ClassVar[str] = "nvflare_svt"
    source: ClassVar[str] = "NVFlare 2.9.0, nvflare.app_common.filters.SVTPrivacy"
    differs: ClassVar[str] = (
        "A gradient is taken as one step's change of weights with learning rate 1; only weights "
        "that are trained are filtered. Entries are drawn in one piece, which has the distribution "
        "of NVFlare's draw in pieces. It gives up where NVFlare would ask forever. NVFlare keeps "
        "its account while it runs; here it is computed from the settings. Attackers take the "
        "mean of an aggregate of clients for one client's update."
    )

    fraction: float = 0.1
    epsilon: float = 0.1
    noise_var: float = 0.1
    gamma: float = 1e-5
    tau: float = 1e-6
    replace: bool = True
    epsilon_threshold: float | None = None
    epsilon_query: float | None = None
    epsilon_release: float | None = None
    weights: int | None = None
    rounds: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie above 0 and at most at 1, got {self.fraction}")
        budgets = ("epsilon", "noise_var", "gamma", "epsilon_threshold", "epsilon_query")
        for name in (*budgets, "epsilon_release", "weights"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        threshold, query = self.split(1)
        if min(threshold, query) <= 0 or not math.isclose(threshold + query, self.epsilon):
            raise ValueError(
                "epsilon_threshold and epsilon_query must be positive and add up to epsilon "
                f"{self.epsilon}, got {threshold:g} and {query:g}"
            )
        check_accounting(0.5, self.rounds)

    def sent(self, entries: int) -> int:
        """Return how many entries are drawn to be sent."""
        return min(math.ceil(entries * self.fraction), entries)

    def split(self, sent: int) -> tuple[float, float]:
        """Return the budgets of the threshold and of the queries."""
        if self.epsilon_threshold is not None:
            rest = self.epsilon - self.epsilon_threshold
            return self.epsilon_threshold, rest if self.epsilon_query is None else (
                self.epsilon_query
            )
        if self.epsilon_query is not None:
            return self.epsilon - self.epsilon_query, self.epsilon_query
        threshold = self.epsilon / (1 + (2 * sent) ** (2 / 3))
        return threshold, self.epsilon - threshold

    def release_scale(self, sent: int) -> float:
        """Return the scale of the noise on an entry that is sent, for one step."""
        return 2 * self.gamma * sent / self._release(sent)

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is filtered."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            change, steps = update.change, steps_of(update)
            flat = torch.cat([g.detach().cpu().double().flatten() for g in change.values()])
            released = steps * self._released(flat / steps, task.rng)
            parts = torch.split(released, [g.numel() for g in change.values()])
            filtered = {
                name: g if g.ndim == 0 else part.reshape(g.shape).to(g)
                for (name, g), part in zip(change.items(), parts, strict=True)
            }
            return replace(update, change=filtered)

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change where the client sent one, cut off as it was."""
        sent = what_was_sent(change, seen)
        if seen.kind is Change.DIFFERENCE and seen.recipe is None:  # then nobody knows the bound
            return sent
        bound = self.gamma * steps_of(seen)
        return {n: g if g.ndim == 0 else straight_clamp(g, bound) for n, g in sent.items()}

    def noise(self, seen: Update) -> float:
        """Return the deviation of the noise on entries that were sent; on zeros there is none."""
        sent = self.sent(sum(g.numel() for g in seen.change.values()))
        return self.release_scale(sent) * steps_of(seen) * math.sqrt(2 / seen.clients)

    def guarantee(self, work: Workload) -> Guarantee | None:
        """Return what NVFlare's accountant adds up; None if the number of weights is missing."""
        if self.weights is None and self.epsilon_release is None:
            return None
        rounds = self.rounds if work.rounds is None else work.rounds
        release = self._release(self.sent(self.weights or 1))
        return Guarantee(
            epsilon=rounds * work.updates * (self.epsilon + release),
            delta=0.0,
            unit="client",
            adjacency="replace one",
            rounds=rounds,
            how=(
                f"NVFlare's own filter-level account, not ours: epsilon {self.epsilon:g} for the "
                f"selection and {release:g} for the release of each update, summed over all. Its "
                "account of the selection assumes that asking stops at the last entry to be sent, "
                "and the filter accepts more."
            ),
        )

    def _release(self, sent: int) -> float:
        return self.epsilon_release or sent * self.noise_var

    def _released(self, change: Tensor, rng: torch.Generator) -> Tensor:
        """Return what of a whole change is sent, as one vector.

        Raises:
            NotApplicable: Next to nothing reaches the threshold.
        """
        sent = self.sent(len(change))
        accepted = self._accepted(change.clamp(-self.gamma, self.gamma).abs(), sent, rng)
        if self.replace:
            drawn = torch.unique(accepted[torch.randint(len(accepted), (sent,), generator=rng)])
        else:
            drawn = accepted[torch.randperm(len(accepted), generator=rng)[:sent]]
        kept = change[drawn].clamp(-self.gamma, self.gamma)
        released = torch.zeros_like(change)
        released[drawn] = kept + laplacian(kept, self.release_scale(sent), rng)
        return released

    def _accepted(self, size: Tensor, sent: int, rng: torch.Generator) -> Tensor:
        """Return the places of entries that a noisy threshold let pass, at least so many."""
        for_threshold, for_query = self.split(sent)
        threshold = self.tau + laplacian(size[:1], self.gamma / for_threshold, rng)
        passed = torch.zeros(len(size), dtype=torch.bool)
        for _ in range(PASSES):
            noisy = size + laplacian(size, 2 * self.gamma * sent / for_query, rng)
            passed |= noisy >= threshold  # asking those that have passed again changes nothing
            if int(passed.sum()) >= sent:
                return passed.nonzero()[:, 0]
        raise NotApplicable(
            f"nvflare_svt found too few entries above its threshold in {PASSES} passes: lower "
            "defense.tau or defense.epsilon_query"
        )
