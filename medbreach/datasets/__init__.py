"""The data sets that come with medbreach."""

from medbreach.components import Dataset
from medbreach.datasets.brain_mr import BrainMR
from medbreach.datasets.cifar import CIFAR10, CIFAR100
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.datasets.dicom_series import DicomSeries
from medbreach.datasets.example_scans import AbdomenMR, ChestCT
from medbreach.datasets.image_folder import ImageFolder
from medbreach.datasets.medmnist import MedMNIST
from medbreach.datasets.nifti_folder import NiftiFolder
from medbreach.datasets.npz import Npz
from medbreach.hookspecs import hookimpl

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "AbdomenMR",
    "BrainMR",
    "ChestCT",
    "Dermoscopy",
    "DicomSeries",
    "ImageFolder",
    "MedMNIST",
    "NiftiFolder",
    "Npz",
]


@hookimpl
def medbreach_datasets() -> list[type[Dataset]]:
    """Return the data sets in this package."""
    return [
        AbdomenMR,
        BrainMR,
        ChestCT,
        CIFAR10,
        CIFAR100,
        Dermoscopy,
        DicomSeries,
        ImageFolder,
        MedMNIST,
        NiftiFolder,
        Npz,
    ]
