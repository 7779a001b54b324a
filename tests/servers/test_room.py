"""Memory that a planted layer takes, asked for before it is made."""

import pytest

from medbreach.errors import NotApplicable
from medbreach.measure import _free_of_container, available_memory
from medbreach.servers.room import check_room


def test_a_layer_that_does_not_fit_is_refused_with_numbers():
    with pytest.raises(NotApplicable) as refusal:
        check_room("ImprintBlock with 256 rows", 4 * 256 * 10 * 3 * 2**21, 14, free=8 * 2**30)
    assert str(refusal.value).startswith("ImprintBlock with 256 rows has 60.0 GiB of weights")
    assert "takes 840.0 GiB, of which 8.0 are free" in str(refusal.value)


def test_one_that_fits_is_not():
    check_room("ImprintBlock with 32 rows", 4 * 32 * 2**21, free=8 * 2**30)


def test_free_memory_is_told_where_it_can_be():
    free = available_memory()
    assert free is None or 2**20 < free < 2**50


GROUPS = {
    "version 2": ("memory.max", "memory.current", "memory.stat"),
    "version 1": (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
    ),
}  # fmt: skip


@pytest.mark.parametrize("files", GROUPS.values(), ids=GROUPS)
def test_a_containers_limit_counts(files, tmp_path):
    (tmp_path / files[0]).parent.mkdir(exist_ok=True)
    for name, text in zip(files, ("1000\n", "700\n", "anon 5\ninactive_file 200\n"), strict=True):
        (tmp_path / name).write_text(text)
    assert _free_of_container(tmp_path) == 500


def test_a_container_without_a_limit(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_of_container(tmp_path) is None
