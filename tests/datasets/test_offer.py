"""What the package offers: names, documentation, YAML and a cheap import."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medbreach.datasets import medbreach_datasets
from medbreach.federation import Federation
from medbreach.settings import attribute_docs, build

CASES = Path(__file__).parents[2] / "cases" / "case" / "data"
KINDS = {kind.name: kind for kind in medbreach_datasets()}
FILES = sorted(CASES.glob("*.yaml"))


def test_every_name_is_offered_and_has_its_file():
    assert set(KINDS) == {
        "CIFAR10", "CIFAR100", "abdomen_mr", "brain_mr", "chest_ct", "dermoscopy", "dicom_series",
        "image_folder", "medmnist", "nifti_folder", "npz",
    }  # fmt: skip
    names = {f.stem for f in FILES}
    assert names >= set(KINDS)
    assert len({name.lower() for name in names}) == len(names), "disks may not tell them apart"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_every_field_is_documented(kind):
    docs = attribute_docs(kind)
    assert kind.source
    assert kind.licence
    for field in dataclasses.fields(kind):
        assert docs.get(field.name), field.name


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_yaml_builds(file, tmp_path):
    text = file.read_text()
    assert text.startswith("# ")
    settings = yaml.safe_load(text)
    kind = KINDS[settings.pop("name")]
    if settings.get("path") == "???":
        settings["path"] = str(tmp_path)
    dealing = {f.name for f in dataclasses.fields(Federation)}
    own = {k: v for k, v in settings.items() if k not in dealing}
    assert set(own) == {f.name for f in dataclasses.fields(kind)}, "every setting is visible"
    build(kind, own, "case.data")
    build(Federation, {k: v for k, v in settings.items() if k in dealing}, "case.data")
    assert {"partition", "default_clients", "examples_from_split", "normalize"} <= set(settings)


def test_yaml_says_the_defaults(tmp_path):
    for file in FILES:
        settings = yaml.safe_load(file.read_text())
        kind = KINDS[settings.pop("name")]
        needed = {"path": str(tmp_path)} if settings.get("path") == "???" else {}
        default = build(kind, needed, "case.data")
        own = {k: v for k, v in settings.items() if hasattr(default, k) and v != "???"}
        chosen = build(kind, own | needed, "case.data")
        assert dataclasses.asdict(chosen) | {"path": 0} == (
            dataclasses.asdict(default) | {"path": 0}
        ), file.name


def test_import_is_cheap():
    code = (
        "import sys, medbreach.datasets; heavy = {'torchvision', 'nibabel', 'pydicom', 'monai', "
        "'medmnist', 'scipy'} & set(sys.modules); sys.exit(' '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
