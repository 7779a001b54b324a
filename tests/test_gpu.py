"""The same seed shows the same on a GPU as on the CPU."""

from dataclasses import replace

import pytest
import torch

from medbreach.assembly import assemble
from medbreach.audit import audit
from medbreach.case import draw
from medbreach.config import load
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.types import Role

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
GPU = torch.device("cuda:0")


@pytest.fixture(scope="module")
def planted():
    settings = ["case=brain_mr_3d", "case/server=malicious-model-rtf", "attack=imprint"]
    return assemble(load(settings))


def test_updates_are_the_same_up_to_rounding(planted):
    collection = planted.case.dataset.open()
    sample = draw(planted.case, collection, Seeds(0), 20, 100)
    on_gpu, on_cpu = (
        play(planted.case, sample, (), Seeds(0), device)[0] for device in (GPU, torch.device("cpu"))
    )
    for name, expected in on_cpu.update.change.items():
        torch.testing.assert_close(on_gpu.update.change[name].cpu(), expected, rtol=1e-3, atol=1e-5)


def test_an_audit_finds_the_same(planted):
    collection = planted.case.dataset.open()
    plan = replace(planted, options=replace(planted.options, metrics=()))
    found = [
        [o.finding for o in audit(plan, collection, d) if o.finding.role is Role.ATTACK]
        for d in (GPU, torch.device("cpu"))
    ]
    assert [f.identified for f in found[0]] == [f.identified for f in found[1]]
    assert found[0][0].peak_memory_mb > 0
    assert found[0][0].device == "cuda:0"
