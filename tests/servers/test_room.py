"""Memory that a planted layer takes, asked for before it is made."""

import pytest

from medbreach.errors import NotApplicable
from medbreach.measure import available_memory
from medbreach.servers.room import check_room


def test_a_layer_that_does_not_fit_is_refused_with_numbers():
    with pytest.raises(NotApplicable) as refusal:
        check_room("ImprintBlock with 256 rows", 256 * 10 * 3 * 2**21, 14, free=8 * 2**30)
    assert str(refusal.value).startswith("ImprintBlock with 256 rows has 60.0 GiB of weights")
    assert "takes 840.0 GiB, of which 8.0 are free" in str(refusal.value)


def test_one_that_fits_is_not():
    check_room("ImprintBlock with 32 rows", 32 * 2**21, free=8 * 2**30)


def test_free_memory_is_told_where_it_can_be():
    free = available_memory()
    assert free is None or 2**20 < free < 2**50
