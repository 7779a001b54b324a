"""Carrying a reproduction out, and going on with one that was cut off."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from medbreach.errors import RecordError
from medbreach.reproductions.dkfz import lines_of, measure
from medbreach.reproductions.dkfz_setting import Setting
from medbreach.reproductions.line import Line
from medbreach.reproductions.tables import as_csv, as_html, as_text
from medbreach.storage import speaking_of, write_whole

LINES: Final = "lines.json"


def reproduce(
    setting: Setting, folder: Path, device: torch.device, tell: Callable[[str], None]
) -> str:
    """Measure every line that a folder lacks, write the table, and return it as text.

    Args:
        setting: What to reproduce, and on what.
        folder: Where lines and tables are kept.
        device: Where to compute.
        tell: Is told how far it is.

    Raises:
        InputError: The images do not fit, or the folder holds something else.
    """
    lines = {line.key: line for line in lines_of(setting)}
    done = _kept(folder, setting)
    missing = [line for key, line in lines.items() if key not in done]
    for k, line in enumerate(measure(setting, missing, device), start=1):
        done[line.key] = line
        _keep(folder, setting, list(done.values()))
        share = f"{100 * line.shown / line.records:.0f} % at 30 dB" if line.seeds else line.reasons
        tell(f"{k} of {len(missing)}: {line.title}: {share}")
    ordered = [done[key] for key in lines]
    text = as_text(setting, ordered)
    with speaking_of(folder):
        write_whole(folder / "table.txt", text.encode())
        write_whole(folder / "table.csv", as_csv(setting, ordered).encode())
        write_whole(folder / "table.html", as_html(setting, ordered).encode())
    return text


def _keep(folder: Path, setting: Setting, lines: Sequence[Line]) -> None:
    content = {
        "setting": _identity(setting),
        "lines": [dataclasses.asdict(line) for line in lines],
    }
    with speaking_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / LINES, json.dumps(content, indent=1).encode())


def _kept(folder: Path, setting: Setting) -> dict[tuple[str, str, int], Line]:
    """Return the lines that an earlier run of the same setting has measured.

    Raises:
        RecordError: The folder holds something else, or damaged lines.
    """
    file = folder / LINES
    if not file.is_file():
        if (folder.is_dir() and any(folder.iterdir())) or folder.is_file():
            raise RecordError(f"{folder} holds something else: choose another --out")
        return {}
    try:
        content = json.loads(file.read_text())
        lines = [_line(fields) for fields in content["lines"]]
        same = content["setting"] == _identity(setting)
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{file} is damaged: remove {folder}, or choose another --out") from error
    if not same:
        raise RecordError(f"{folder} holds results of another setting: choose another --out")
    return {line.key: line for line in lines}


def _identity(setting: Setting) -> dict[str, Any]:
    """Return what lines must share to stand in one table; fetched images may change the forms."""
    forms = {form: list(overrides) for form, overrides in setting.forms.items()}
    return {**dataclasses.asdict(setting), "forms": forms}


def _line(fields: dict[str, Any]) -> Line:
    notes = tuple(map(str, fields.pop("notes")))
    pictures = tuple((str(a), str(b)) for a, b in fields.pop("pictures"))
    return Line(**fields, pictures=pictures, notes=notes)
