"""How pages are made from templates, whoever they belong to."""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(folder: str, package: str = "medbreach") -> Environment:
    """Return the templates in a package's folder; what they are given is escaped."""
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style_sheet() -> str:
    """Return the style sheet that all pages share."""
    return (resources.files("medbreach.report") / "report.css").read_text()
