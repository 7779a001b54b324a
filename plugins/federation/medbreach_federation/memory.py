"""What clients keep from round to round, each on its own disk."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medbreach.storage import packed, write_whole


class Memories:
    """The memories of a folder's clients, the last two of each.

    A round that was cut off is played again, so what a client kept before it has to be there still.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "clients"

    def before(self, client: int, round: int) -> Mapping[str, Any]:
        """Return what a client kept from the last round that it took part in; empty if none."""
        earlier = [number for number in self._rounds(client) if number < round]
        if not earlier:
            return {}
        kept: Mapping[str, Any] = torch.load(
            self._file(client, earlier[-1]), map_location="cpu", weights_only=True
        )
        return kept

    def keep(self, client: int, round: int, memory: Mapping[str, Any]) -> None:
        """Keep what a client has after a round; not if it has a later round's already.

        A client that is slower than the server waits ends a round when others are played.
        """
        known = self._rounds(client)
        if (not memory and not known) or any(number > round for number in known):
            return
        write_whole(self._file(client, round), packed(memory))
        for number in [n for n in self._rounds(client) if n < round][:-1]:
            self._file(client, number).unlink()

    def forget_after(self, round: int) -> None:
        """Drop what clients kept from rounds that did not come to an end."""
        for file in self._folder.glob("*.pt"):
            if int(file.stem.partition("-")[2]) > round:
                file.unlink()

    def _rounds(self, client: int) -> list[int]:
        pattern = re.compile(rf"{client}-(\d+)\.pt")
        names = (pattern.fullmatch(file.name) for file in self._folder.glob(f"{client}-*.pt"))
        return sorted(int(name[1]) for name in names if name)

    def _file(self, client: int, round: int) -> Path:
        return self._folder / f"{client}-{round}.pt"
