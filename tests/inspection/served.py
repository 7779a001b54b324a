"""Networks that medbreach's own malicious servers send, plain and disguised."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import planted as plants
import torch
from torch import Tensor, nn

from medbreach import choices, plugins
from medbreach.assembly import component
from medbreach.components import Planted, Server
from medbreach.config import read_choice
from medbreach.inspection.agreement import compare
from medbreach.servers.loki import LokiBlock
from medbreach.servers.peeling import PeelingBlock

NOISE = 0.05
"""Of the disguise, in root mean squares of each row."""

SERVERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "rtf": ("malicious-model-rtf", {}),
    "rtf, random": ("malicious-model-rtf", {"linfunc": "randn"}),
    "sparse": ("malicious-model-rtf", {"type": "SparseImprintBlock"}),
    "one-shot": ("malicious-model-rtf", {"type": "OneShotBlock"}),
    "cah": ("malicious-model-cah", {}),
    "legacy_dkfz": ("malicious-model-cah", {"legacy_dkfz": True, "scale_factor": 0.01}),
    "qbi": ("malicious-model-qbi", {}),
    "loki": ("malicious-model-loki", {}),
    "peeling": ("malicious-model-peeling", {}),
    "peeling, a part of the records": ("malicious-model-peeling", {"expected_records": 200}),
    "fishing": ("malicious-fishing", {}),
    "fishing, class": ("malicious-fishing", {"expected_records": 1}),
    "fishing, feature": ("malicious-fishing", {"feature": 19}),
}
"""By name: the choice in the config tree, and what of its block, or of the server, is changed."""


def is_malicious(choice: str) -> bool:
    kind = plugins.servers().get(choices.component_name("case/server", choice))
    return kind is not None and kind.malicious and kind.__module__.startswith("medbreach.")


CHOICES = tuple(filter(is_malicious, choices.names("case/server")))
"""medbreach's malicious servers in the config tree."""


def server(name: str) -> Server:
    choice, changes = SERVERS[name]
    settings = read_choice("case/server", choice)
    block = settings.get("model_modification")
    settings |= changes if block is None else {"model_modification": block | changes}
    return component(plugins.servers(), settings, "case.server")


def disguised(sent: Planted, honest: nn.Module, disguise: str) -> bool:
    """Disguise in place what a server planted; return whether that can be done, or two of all."""
    steps = DISGUISES[disguise]
    with torch.no_grad():
        done = sum(step(sent, honest) for step in steps)
    return done >= min(2, len(steps))


def blocks(sent: Planted) -> Iterator[Any]:
    """Yield the block that a server planted before the network, if it planted one."""
    kinds = (LokiBlock, PeelingBlock)
    yield from (m for m in sent.model.modules() if isinstance(m, kinds) or hasattr(m, "structure"))


def shuffle(sent: Planted, _: nn.Module) -> bool:
    for block in blocks(sent):
        if isinstance(block, PeelingBlock):
            parts = torch.split(block.ends, block.groups)
            block.ends.copy_(torch.cat([p[torch.randperm(len(p))] for p in parts]))
        else:
            apply(block, lambda matrix, bias, order: (matrix[order], bias[order]), torch.randperm)
        return True
    return False


def scale(sent: Planted, _: nn.Module) -> bool:
    for block in blocks(sent):
        if isinstance(block, LokiBlock):
            return False  # its rows end at 1
        if isinstance(block, PeelingBlock):
            factors = torch.exp(torch.randn(len(block.directions)))
            block.directions *= factors[:, None]
            own, gates = factors.tensor_split([len(block.groups)])
            block.ends *= own.repeat_interleave(torch.tensor(block.groups))
            block.reach *= gates
        else:
            apply(block, lambda m, b, f: (m * f[:, None], b * f), lambda n: torch.randn(n).exp())
        return True
    return False


def apply(
    block: Any,
    change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    draw: Callable[[int], Tensor],
) -> None:
    """Change a block's rows, all of its matrices alike."""
    layers = block if isinstance(block, LokiBlock) else block.linear0
    matrices = layers.weights if isinstance(block, LokiBlock) else [layers.weight]
    drawn = draw(len(layers.bias))
    bias = layers.bias.clone()
    for matrix in matrices:
        rows, shifted = change(matrix, bias, drawn)
        matrix.copy_(rows)
        layers.bias.copy_(shifted)


def add_noise(sent: Planted, honest: nn.Module) -> bool:
    state = sent.model.state_dict()
    extra = compare(honest.state_dict(), state).extra
    for name in extra:
        size = state[name].square().mean(-1, keepdim=True).sqrt()
        state[name] += NOISE * size * torch.randn_like(state[name])
    if not extra:
        plants.with_noise(sent.model, "noisy", NOISE)
    return True


def split(sent: Planted, _: nn.Module) -> bool:
    """Spread rows over two layers; the blocks that are no dense layer of one matrix stay."""
    for block in blocks(sent):
        if not isinstance(block, LokiBlock | PeelingBlock):
            rows = plants.Rows(block.linear0.weight, block.linear0.bias, nn.ReLU())
            block.linear0 = plants.split_layer(rows)
            return True
    return False


DISGUISES: Mapping[str, tuple[Callable[[Planted, nn.Module], bool], ...]] = {
    "plain": (),
    "shuffled": (shuffle,),
    "scaled": (scale,),
    "noisy": (add_noise,),
    "split": (split,),
    "all": (shuffle, scale, add_noise, split),
}
