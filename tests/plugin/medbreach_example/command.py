"""Commands of the plugin's own."""

import click


@click.command("example-patients")
@click.argument("name")
def patients_command(name: str) -> None:
    """Count the patients of a data set whose images are here."""
    from medbreach import plugins

    dataset = plugins.pick(plugins.datasets(), name, "data set")
    patients = {entry.patient for entry in dataset().open().entries}
    click.echo(f"{name}: {len(patients)} patients")


@click.command("example_result")
def result_command() -> None:
    """Say how many scans the head MR has."""
    from medbreach import plugins

    dataset = plugins.pick(plugins.datasets(), "brain_mr", "data set")
    click.echo(f"{len(dataset().open().entries)} slices")
