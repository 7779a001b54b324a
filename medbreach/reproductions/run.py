"""Carrying a reproduction out, and going on with one that was cut off."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from medbreach.errors import RecordError
from medbreach.reproductions.dkfz import Row, Setting, measure, rows_of
from medbreach.reproductions.tables import as_csv, as_html, as_text
from medbreach.storage import speaking_of, write_whole

ROWS: Final = "rows.json"


def reproduce(
    setting: Setting, folder: Path, device: torch.device, tell: Callable[[str], None]
) -> str:
    """Measure every row that a folder lacks, write the table, and return it as text.

    Args:
        setting: What to reproduce, and on what.
        folder: Where rows and tables are kept.
        device: Where to compute.
        tell: Is told how far it is.

    Raises:
        InputError: The images do not fit, or the folder holds something else.
    """
    rows = {row.key: row for row in rows_of(setting)}
    done = _kept(folder, setting)
    missing = [row for key, row in rows.items() if key not in done]
    for k, row in enumerate(measure(setting, missing, device), start=1):
        done[row.key] = row
        _keep(folder, setting, list(done.values()))
        share = f"{100 * row.shown / row.records:.0f} % at 30 dB" if row.records else row.note
        tell(f"{k} of {len(missing)}: {row.form}, {row.clients} clients, {row.method}: {share}")
    ordered = [done[key] for key in rows]
    text = as_text(setting, ordered)
    with speaking_of(folder):
        write_whole(folder / "table.txt", text.encode())
        write_whole(folder / "table.csv", as_csv(ordered).encode())
        write_whole(folder / "table.html", as_html(setting, ordered).encode())
    return text


def _keep(folder: Path, setting: Setting, rows: Sequence[Row]) -> None:
    content = {
        "setting": dataclasses.asdict(setting),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    with speaking_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ROWS, json.dumps(content, indent=1).encode())


def _kept(folder: Path, setting: Setting) -> dict[tuple[str, str, int], Row]:
    """Return the rows that an earlier run of the same setting has measured.

    Raises:
        RecordError: The folder holds something else, or damaged rows.
    """
    file = folder / ROWS
    if not file.is_file():
        if (folder.is_dir() and any(folder.iterdir())) or folder.is_file():
            raise RecordError(f"{folder} holds something else: choose another --out")
        return {}
    try:
        content = json.loads(file.read_text())
        rows = [_row(fields) for fields in content["rows"]]
        same = content["setting"] == dataclasses.asdict(setting)
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{file} is damaged: remove {folder}, or choose another --out") from error
    if not same:
        raise RecordError(f"{folder} holds rows of another setting: choose another --out")
    return {row.key: row for row in rows}


def _row(fields: dict[str, Any]) -> Row:
    pictures = tuple((str(a), str(b)) for a, b in fields.pop("pictures"))
    return Row(**fields, pictures=pictures)
