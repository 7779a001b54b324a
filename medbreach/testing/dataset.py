"""What every data set keeps."""

from collections.abc import Mapping
from typing import Any, Final

from medbreach.collection import Collection
from medbreach.components import Dataset
from medbreach.testing.declaration import check_declaration
from medbreach.testing.guard import repeatable, require

READ: Final = 12  # images to look at, spread over the data set
USED: Final = 0.05  # share of the bounds that they must span: less means a wrong unit


def check_dataset(dataset: type[Dataset], settings: Mapping[str, Any] | None = None) -> None:
    """Check that a data set keeps the contract: patients are known, the spec tells the truth.

    Args:
        dataset: Its class.
        settings: Its settings, such as the path of a small example.

    Raises:
        AssertionError: It does not; the sentence says how.
    """
    made = check_declaration(dataset, settings)
    missing = dataset.missing()
    require(isinstance(missing, str), f"{made.name}: missing must return a string")
    require(not (missing and settings is None), f"{made.name} is not here to be checked: {missing}")
    require(bool(made.licence), f"{made.name} does not tell the images' terms: set licence to them")
    collection = repeatable(made.name, made.open, outcomes=())
    require(isinstance(collection, Collection), f"{made.name}: open must return a Collection")
    _check_entries(made.name, collection)
    _check_images(made.name, collection)


def _check_entries(name: str, collection: Collection) -> None:
    patients = set()
    for k, entry in enumerate(collection.entries):
        where = f"{name}, entry {k}: the place that an error would name is missing"
        require(bool(entry.place), where)
        patients.add(entry.patient)
    require(len(patients) > 1, f"{name}: one patient cannot be dealt to a client and to the public")


def _check_images(name: str, collection: Collection) -> None:
    spec = collection.spec
    indices = range(0, len(collection.entries), max(1, len(collection.entries) // READ))[:READ]
    images = repeatable(name, lambda: collection.images(indices), outcomes=())
    used = float(images.max() - images.min()) / spec.range
    require(
        used >= USED,
        f"{name}: the images span {used:.1%} of the bounds {spec.bounds}: is their unit right?",
    )
