"""From settings to a run that is going on: what the program and scripts share."""

import contextlib
import dataclasses
import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from medbreach import interrupts, plugins
from medbreach.assembly import assemble
from medbreach.audit import audit, check
from medbreach.case import Sample
from medbreach.collection import Collection
from medbreach.components import Dataset
from medbreach.encoding import encode
from medbreach.errors import (
    ContractError,
    DataError,
    ModelError,
    NotApplicable,
    RecordError,
)
from medbreach.models.user_network import UserNetwork
from medbreach.plan import Attempt, Plan
from medbreach.progress import FileWatch, Watch
from medbreach.record import RunRecord
from medbreach.settings import plain
from medbreach.text import blaming
from medbreach.types import Finding

PACKAGES = (
    "medbreach", "breaching", "torch", "torchvision", "monai", "medmnist", "pluggy", "hydra-core",
    "numpy", "scipy", "nibabel", "pydicom", "scikit-image",
)  # fmt: skip

Settings = Mapping[str, Any]


class Follower:
    """Somebody who hears how a run goes on. This one takes no interest."""

    def begins(self, attempt: Attempt) -> None:
        """Hear that an attempt begins."""

    def steps(self, done: int, total: int) -> None:
        """Hear how far the attempt is."""

    def ends(self, finding: Finding) -> None:
        """Hear what the attempt showed."""


@dataclass(frozen=True)
class Session:
    """An audit that is ready to run.

    Attributes:
        plan: What it will do.
        collection: The case's images.
        sample: The first seed's images.
        device: Where it computes.
    """

    plan: Plan
    collection: Collection
    sample: Sample
    device: torch.device


def prepare(
    settings: Settings, device: torch.device, user_network: UserNetwork | None = None
) -> Session:
    """Build everything that settings describe and check it against the input.

    Raises:
        InputError: Something does not fit; nothing has been written.
    """
    plan = assemble(settings, user_network)
    collection = _opened(plan.case.dataset)
    if user_network is not None:
        plan, collection = _with_the_channels_of(user_network, plan, collection)
    try:
        sample = check(plan, collection)
    except (NotApplicable, ContractError) as error:
        raise ModelError(str(error)) from error
    return Session(plan, collection, sample, device)


def _opened(dataset: Dataset) -> Collection:
    """Return a data set's images.

    Raises:
        DataError: Its code fails, or returns something else.
    """
    with blaming(DataError, f"the images of {dataset.name} cannot be opened"):
        collection = dataset.open()
    if not isinstance(collection, Collection):
        raise DataError(f"{dataset.name} returned a {type(collection).__name__}, no Collection")
    return collection


def header(
    session: Session,
    settings: Settings,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what the run record keeps of a session, as plain values."""
    plan, model = session.plan, session.plan.case.model
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "overrides": list(overrides),
        "settings": plain(settings),
        "resolved": _resolved(plan, settings),
        "attempts": [a.id for a in plan.attempts()],
        "user_network": _user_network(model) if isinstance(model, UserNetwork) else None,
        "weights_sha256": digest(plan.case.weights),
        "images": _images(session),
        "device": str(session.device),
        "software": software(),
    }


def software() -> dict[str, Any]:
    """Return versions of what computes, and the git revision if medbreach is a checkout."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": versions,
        "plugins": [list(row) for row in plugins.installed()],
        "revision": _revision(),
    }


def carry_out(
    session: Session,
    record: RunRecord,
    follower: Follower | None = None,
) -> Iterator[Finding]:
    """Run every attempt that the record lacks; record each and pass it on.

    Raises:
        RecordError: The record cannot be written, or belongs to another plan.
    """
    follower = follower or Follower()
    _check_same(record, session)
    seconds = session.plan.options.checkpoint_seconds
    with record.writing(), interrupts.remembered() as interrupted:
        outcomes = audit(
            session.plan,
            session.collection,
            session.device,
            record.findings(),
            _watcher(record, follower, seconds, interrupted),
        )
        for outcome in outcomes:
            interrupted()
            record.append(outcome)
            follower.ends(outcome.finding)
            plugins.announce(outcome.finding)
            yield outcome.finding


def _check_same(record: RunRecord, session: Session) -> None:
    """Check that a run goes on as it began. Statistics of images may differ by rounding.

    Raises:
        RecordError: Its attempts or its images are others.
    """
    header = record.header()
    if header.get("attempts") != [a.id for a in session.plan.attempts()]:
        raise RecordError(
            f"{record.folder} was planned by another version of medbreach or its plugins"
        )
    if header.get("weights_sha256") != digest(session.plan.case.weights):
        raise RecordError(
            f"{session.plan.case.weights} is not the weights file that {record.folder} began with"
        )
    resolved = encode(_resolved(session.plan, header["settings"]))
    if header.get("resolved") != json.loads(json.dumps(resolved)):
        raise RecordError(
            f"{record.folder} was begun by another version of medbreach or its plugins, with other "
            "defaults"
        )
    began, now = header.get("images"), _images(session)
    if isinstance(began, dict):
        for key in ("source", "labelled", "entries", "patients", "public", "decoys"):
            if began.get(key) != now[key]:
                raise RecordError(
                    f"the images are not those that {record.folder} began with: {key} was "
                    f"{began.get(key)}, now it is {now[key]}"
                )


def _watcher(
    record: RunRecord, follower: Follower, seconds: float, interrupted: Callable[[], None]
) -> Callable[[Attempt], contextlib.AbstractContextManager[Watch]]:
    def steps(done: int, total: int) -> None:
        interrupted()
        follower.steps(done, total)

    @contextlib.contextmanager
    def watch_for(attempt: Attempt) -> Iterator[Watch]:
        follower.begins(attempt)
        yield FileWatch(steps, record.checkpoint_file(attempt.id), seconds)

    return watch_for


def _with_the_channels_of(
    network: UserNetwork, plan: Plan, collection: Collection
) -> tuple[Plan, Collection]:
    """Read the images with as many channels as the user's network takes, where that is left open.

    A network whose function asks for the channels is given the images' own.
    """
    dataset: Any = plan.case.dataset
    if getattr(dataset, "channels", 0) is not None:
        return plan, collection
    classes = len(collection.classes or ()) or plan.case.federation.unlabelled_classes
    wanted = network.wanted_channels(collection.spec, classes)
    if wanted not in (1, 3) or wanted == collection.spec.channels:
        return plan, collection
    fitted = dataclasses.replace(dataset, channels=wanted)
    case = dataclasses.replace(plan.case, dataset=fitted)
    return dataclasses.replace(plan, case=case), fitted.open()


def digest(file: str | None) -> str | None:
    """Return the SHA-256 of a file of weights, if there is one."""
    if file is None:
        return None
    return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()


def _user_network(network: UserNetwork) -> dict[str, str]:
    return {"file": network.path.name, "factory": network.factory, "sha256": network.digest}


def _images(session: Session) -> dict[str, Any]:
    """Return what the run record says of the images."""
    dataset, collection = session.plan.case.dataset, session.collection
    return {
        "source": dataset.source,
        "licence": dataset.licence,
        "note": collection.note,
        "labelled": collection.classes is not None,
        "entries": len(collection.entries),
        "patients": len({e.patient for e in collection.entries}),
        "patients_are": collection.patients_are,
        "spec": plain(session.sample.spec),
        "public": len(session.sample.public),
        "decoys": min(pool.decoys for pool in session.sample.pools),
    }


def _resolved(plan: Plan, settings: Settings) -> dict[str, Any]:
    """Return every setting of a plan's components, defaults included; paths as they were given."""
    case, given = plan.case, settings["case"]["data"]
    dataset = {"name": case.dataset.name, **plain(case.dataset), **plain(case.federation)}
    if "path" in given:
        dataset["path"] = given["path"]
    model = case.model
    network = _user_network(model) if isinstance(model, UserNetwork) else plain(model)
    return {
        "case": {
            "name": case.name,
            "data": dataset,
            "model": {"name": model.name, **network},
            "server": {"name": case.server.name, **plain(case.server)},
            "user": plain(case.user),
            "weights": case.weights,
            "dtype": str(case.dtype).removeprefix("torch."),
        },
        "attacks": {n: {"attack_type": a.name, **plain(a)} for n, a in plan.attacks.items()},
        "stacks": {
            n: [{"name": d.name, **plain(d)} for d in stack] for n, stack in plan.stacks.items()
        },
        "audit": plain(plan.options),
    }


def _revision() -> str | None:
    """Return the commit of medbreach's checkout, with a + if files differ; None elsewhere."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        commit, changed = (
            subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")
