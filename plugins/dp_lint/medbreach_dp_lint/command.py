"""``medbreach dp-lint``."""

import json
from pathlib import Path
from typing import Any, Final

import click

from medbreach import ConfigError

CLEAN: Final = 0
FOUND: Final = 1

_OWN = ("noise_multiplier", "clip", "sample_rate", "steps")


@click.command("dp-lint")
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option("--noise-multiplier", type=float, help="Standard deviation over the clipping norm.")
@click.option("--clip", type=float, help="L2 norm that each record's gradient is clipped to.")
@click.option("--sample-rate", type=float, help="Share of the records in a step (Poisson).")
@click.option("--steps", type=int, help="Noisy steps in a round.")
@click.option("--delta", type=float, help="The delta at which epsilon is counted.")
@click.option("--rounds", type=int, help="Rounds of the training; 1 if nothing says it.")
@click.option("--parameters", type=int, help="Number of values of an update.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def dp_lint_command(files: tuple[Path, ...], as_json: bool, **numbers: float | None) -> int:
    """Say what a differential-privacy configuration gives, and what is wrong with it.

    FILE is YAML or JSON: arguments of Opacus, of Flower's LocalDpMod or central strategies, or the
    client configuration of an NVFlare job. Nothing in it is run. Plain numbers may be given as
    options instead. --rounds, --delta and --parameters add to files what they leave open.

    Exit codes: 0 nothing wrong, 1 an error found, 2 wrong input.
    """
    from medbreach_dp_lint.accounting import linted
    from medbreach_dp_lint.checks import findings
    from medbreach_dp_lint.rendering import plain, text

    given = {key: value for key, value in numbers.items() if value is not None}
    cases = [linted(said) for said in _configurations(files, given)]
    results = [(case, findings(case)) for case in cases]
    if as_json:
        click.echo(json.dumps([plain(*result) for result in results], indent=2, allow_nan=False))
    else:
        click.echo("\n\n".join(text(*result) for result in results))
    wrong = any(f.severity == "error" for _, found in results for f in found)
    return FOUND if wrong else CLEAN


def _configurations(files: tuple[Path, ...], given: dict[str, float]) -> list[Any]:
    """Return what the files say; without any, what the options say.

    Raises:
        ConfigError: There is neither, or both.
        DataError: A file cannot be read.
    """
    from medbreach_dp_lint.files import read
    from medbreach_dp_lint.formats import configuration

    own = [key for key in _OWN if key in given]
    if not files:
        if not own:
            raise ConfigError(
                "dp-lint: name a file, or give --noise-multiplier, --clip and --steps"
            )
        return [configuration({**given, "noise": "gaussian"}, "options", {})]
    if own:
        option = own[0].replace("_", "-")
        raise ConfigError(f"dp-lint: --{option} is for plain numbers, and a file is given")
    return [configuration(read(file), str(file), given) for file in files]
