"""Images that stand for the clients' private records."""

from abc import abstractmethod
from typing import ClassVar

from medbreach.collection import Collection
from medbreach.components.component import Component
from medbreach.errors import NotApplicable


class Dataset(Component):
    """Images that stand for the clients' private records. Subclasses write `open`.

    Attributes:
        licence: Terms of the images, in a word or two.
    """

    licence: ClassVar[str] = ""

    @abstractmethod
    def open(self) -> Collection:
        """Return the images, unread where they are many.

        Raises:
            DataError: Something is missing, damaged or ambiguous; the message names the file.
        """

    @classmethod
    def missing(cls) -> str:
        """Return why the images are not on this machine and how to get them, or ``""``."""
        return ""

    @classmethod
    def fetch(cls) -> str:
        """Bring the images to this machine; return where they lie.

        Raises:
            DataError: They cannot be fetched, or are not what was expected.
        """
        raise NotApplicable(f"{cls.name} has nothing to fetch: give its files by case.data.path")
