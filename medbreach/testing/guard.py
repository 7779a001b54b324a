"""Running a stranger's code so that what it should not do shows."""

import contextlib
import copy
import dataclasses
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from medbreach.errors import MedbreachError, NotApplicable
from medbreach.text import in_a_line

T = TypeVar("T")


def require(holds: bool, sentence: str) -> None:
    """Fail with a sentence unless something holds.

    Raises:
        AssertionError: It does not.
    """
    if not holds:
        raise AssertionError(sentence)


@contextlib.contextmanager
def running(who: str, outcomes: tuple[type[Exception], ...] = (NotApplicable,)) -> Iterator[None]:
    """Turn whatever a component raises into a failure, but for the outcomes that it may have.

    Raises:
        AssertionError: It raised something else.
    """
    try:
        yield
    except outcomes:
        raise
    except MedbreachError as error:
        raise AssertionError(f"{who}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{who} raised {in_a_line(error)}") from error


def repeatable(
    who: str,
    compute: Callable[[], T],
    outcomes: tuple[type[Exception], ...] = (NotApplicable,),
    **inputs: Any,
) -> T:
    """Return what a component computes, after checking what a component must not do.

    It is run twice, from different states of the global random generators: it has to return the
    same, and to leave its inputs and those generators alone (in the second run; in the first it may
    import libraries, which do as they like).

    Args:
        who: The component and what it is run on, for the sentence.
        compute: Runs it, with a random stream that begins anew each time.
        outcomes: What it may raise.
        inputs: What it must not change, by name.

    Raises:
        AssertionError: It does what it must not.
    """
    before = copy.deepcopy(inputs)
    results: list[T] = []
    for state in (1, 2):
        with _global_state(state) as used, running(who, outcomes):
            results.append(compute())
        changed = difference(before, inputs)
        require(changed is None, f"{who} changes its input {changed}: work on a copy")
    require(
        not used,
        f"{who} uses {' and '.join(used)} global random generator: draw from the generator that it "
        "is given",
    )
    differs = difference(results[0], results[1])
    require(
        differs is None,
        f"{who} does not return the same {differs or 'value'} again with the same seed: draw "
        "random numbers from the generator that it is given, and from nowhere else",
    )
    return results[0]


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """Return where two values differ, such as ``update.change[bias]``; None if they do not.

    Tensors, arrays, networks, plain values, and what dataclasses, mappings and sequences hold of
    them are compared; functions and generators are not.
    """
    if isinstance(a, Tensor):
        return None if _same_tensor(a, b) else path
    if isinstance(a, np.ndarray):
        return None if np.array_equal(a, b, equal_nan=a.dtype.kind == "f") else path
    if isinstance(a, (str, int, float, bool, type(None))):
        return None if a == b or (a != a and b != b) else path  # NaN is NaN
    parts, others = _parts(a), _parts(b)
    if list(parts) != list(others):
        return path
    found = (difference(parts[k], others[k], f"{path}{k}".lstrip(".")) for k in parts)
    return next((where for where in found if where is not None), None)


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, nn.Module):
        return {f" {name}": tensor for name, tensor in value.state_dict().items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f".{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {f".{key}": item for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return {f"[{k}]": item for k, item in enumerate(value)}
    return {}


def _same_tensor(a: Tensor, b: Any) -> bool:
    if not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))


@contextlib.contextmanager
def _global_state(seed: int) -> Iterator[list[str]]:
    """Set the global generators and put them back; fill the list with those that were used."""
    kept = _generators()
    _restore(
        {
            "Python's": random.Random(seed).getstate(),
            "NumPy's": np.random.RandomState(seed).get_state(),
            "torch's": torch.Generator().manual_seed(seed).get_state(),
        }
    )
    begun, used = _generators(), list[str]()
    try:
        yield used
    finally:
        ended = _generators()
        _restore(kept)
    if _types_are_checked():
        del begun["Python's"]
    used += [name for name in begun if difference(begun[name], ended[name]) is not None]


def _types_are_checked() -> bool:
    """Return whether calls are checked by beartype, which picks items by Python's generator."""
    return any(type(finder).__module__.startswith("jaxtyping") for finder in sys.meta_path)


def _generators() -> dict[str, Any]:
    return {
        "Python's": random.getstate(),
        "NumPy's": np.random.get_state(),  # noqa: NPY002 - it is the one to be guarded
        "torch's": torch.get_rng_state(),
    }


def _restore(states: Mapping[str, Any]) -> None:
    random.setstate(states["Python's"])
    np.random.set_state(states["NumPy's"])  # noqa: NPY002
    torch.set_rng_state(states["torch's"])
