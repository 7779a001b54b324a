"""Reading records out of a layer that the server planted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from medbreach.attacks.bin_table import first_alike
from medbreach.attacks.closed_form import ClosedForm
from medbreach.attacks.loki_readout import read_loki
from medbreach.attacks.noisy_rows import known_noise, read_noisy_rows, restored
from medbreach.errors import NotApplicable
from medbreach.servers.imprint import single_record
from medbreach.servers.loki import LokiSecret
from medbreach.servers.secrets import ImprintSecret
from medbreach.types import Exchange, ImageSpec, Reconstruction, Reveals

if TYPE_CHECKING:
    from medbreach.case import Case


@dataclass(frozen=True)
class ImprintReadout(ClosedForm):
    """Divide the weight gradient of planted rows by their bias gradient, in 2D and 3D.

    Of several rounds each is read, and what repeats an earlier claim is left out.

    What LOKI planted is read client by client: the rows whose checksum in the update fits a single
    record, and a record that came through several rows once. Under noise a mixture may fit too; the
    more there is, the lower the confidence. The settings do not count.

    Attributes:
        breach_padding: Fill up with blank images to the number of records.
        breach_reduction: Which claims to keep if there are more than records: those with the
            smallest ``bias`` or mean ``weight`` gradient, or null for all.
        sort_by_bias: Undo a shuffling of rows.
        adaptive: Behind defenses, attack a second time, with all that is known of them: only rows
            that stand out from the noise are read, and what noise blurs and pruning leaves out is
            restored from public images; the settings above do not count then.
    """

    name: ClassVar[str] = "imprint-readout"
    source: ClassVar[str] = "Fowl et al. 2022, arXiv:2110.13057"
    differs: ClassVar[str] = (
        "Works on images of any number of axes and channels, and without the number of records; "
        "blank padding is off."
    )
    needs: ClassVar[frozenset[Reveals]] = frozenset()

    breach_padding: bool = False
    breach_reduction: Literal["bias", "weight"] | None = None
    sort_by_bias: bool = False
    adaptive: bool = True

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return one image for each row that records went through, of any round.

        Raises:
            NotApplicable: The server planted nothing, or the number of records is asked for and
                withheld.
        """
        knows = self.adaptive and bool(exchange.defenses)
        if isinstance(exchange.secret, LokiSecret):
            first = exchange.rounds[0]
            noisy = knows and any(known_noise(exchange, first, n) > 0 for n in first.update.change)
            return restored(read_loki(exchange), exchange) if noisy else read_loki(exchange)
        if exchange.update.count is None and (self.breach_padding or self.breach_reduction):
            raise NotApplicable(
                "breach_padding and breach_reduction need the number of records, which the client "
                "withholds"
            )
        rounds = []
        for played in exchange.rounds:
            if knows and isinstance(played.secret, ImprintSecret):
                rounds.append(read_noisy_rows(exchange, played, played.secret))
            else:
                rounds.append(super().run(replace(exchange, rounds=(played,)), rng))
        return rounds[0] if len(rounds) == 1 else each_once(rounds, exchange.spec)

    def control(self, case: "Case") -> "Case":
        """Return one record, with the case's own server, rows fitted to single records."""
        return single_record(case)

    def secrets(self, exchange: Exchange) -> dict[str, Any]:
        """Return where the planted layer is.

        Raises:
            NotApplicable: The server planted none.
        """
        from medbreach.breaching_bridge.run import imprint_secrets

        secret = exchange.secret
        if not isinstance(secret, ImprintSecret):
            raise NotApplicable(
                "imprint reads a layer that the server planted: choose a server that plants one, "
                "such as case/server=malicious-model-rtf"
            )
        return imprint_secrets(exchange, secret.weight, secret.bias, secret.structure)


def each_once(rounds: Sequence[Reconstruction], spec: ImageSpec) -> Reconstruction:
    """Return the claims of all rounds, but for those that repeat an earlier one."""
    images = torch.cat([claims.images for claims in rounds])
    flat = spec.normalise(images.clamp(*spec.bounds)).flatten(1)
    kept = [k for k, place in enumerate(first_alike(list(flat))) if k == place]
    labels = [claims.labels for claims in rounds if claims.labels is not None]
    known = torch.cat(labels)[kept] if len(labels) == len(rounds) else None
    return Reconstruction(images[kept], known)
