"""breaching called without medbreach's bridge, and the same round as an exchange."""

import contextlib
import importlib
import io
import warnings
from dataclasses import dataclass, replace

import torch
from omegaconf import OmegaConf
from torch import nn

from medbreach import config
from medbreach.assembly import assemble
from medbreach.breaching_bridge import library  # breaching without its side effects
from medbreach.testing.examples import tiny_sample
from medbreach.types import Change, Exchange, Recipe, Round, Update

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}


class Container(nn.Module):
    """breaching's networks lie below the attribute ``model``."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images)


@dataclass(frozen=True)
class Played:
    """One round, in no library's words.

    Attributes:
        network: The network as sent.
        spec: What is known about the images.
        images: The client's records, in the spec's unit.
        labels: Their classes.
        gradients: What the client sent: a gradient, or a change of weights.
        revealed: Labels that it gave away, or None.
        training: The client used its own batch statistics.
        buffers: Buffers that it sent, or None.
        recipe: Learning rate, steps, records and labels of each step, or None.
        kind: What ``gradients`` are.
        secrets: What breaching's server remembers.
        secret: What ours does.
        rounds: How often the same was sent.
    """

    network: nn.Module
    spec: object
    images: torch.Tensor
    labels: torch.Tensor
    gradients: list
    revealed: torch.Tensor | None = None
    training: bool = False
    buffers: list | None = None
    recipe: dict | None = None
    kind: Change = Change.GRADIENT
    secrets: dict | None = None
    secret: object = None
    rounds: int = 1


def play(network, *, records=2, space=(12, 12), channels=3, revealed=True, **changes):
    """Return a round of one client's gradient, computed here in the network's precision."""
    sample = tiny_sample(space, channels)
    images = sample.decoys[:records].to(next(network.parameters()))
    labels = torch.arange(records) % 3
    sent = {k: v.clone() for k, v in network.state_dict().items()}
    network.train(changes.get("training", False))
    loss = nn.functional.cross_entropy(network(sample.spec.normalise(images)), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    network.load_state_dict(sent)
    return Played(
        network,
        sample.spec,
        images,
        labels,
        list(gradients),
        labels if revealed else None,
        **changes,
    )


def trained_locally(network, *, steps, per_step, lr=0.1, revealed=True, **which):
    """Return a round of one client's change of weights after SGD, computed here."""
    played = play(network, revealed=revealed, **which)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    seen, start = [], 0
    for _ in range(steps):
        part = slice(start, start + per_step)
        start = (start + per_step) % len(played.labels)
        optimizer.zero_grad()
        outputs = network(played.spec.normalise(played.images[part]))
        nn.functional.cross_entropy(outputs, played.labels[part]).backward()
        optimizer.step()
        seen.append(played.labels[part])
    change = [p.detach() - b for p, b in zip(network.parameters(), before, strict=True)]
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), before, strict=True):
            parameter.copy_(value)
    recipe = {"lr": lr, "steps": steps, "data_per_step": per_step, "labels": seen}
    return replace(played, gradients=change, recipe=recipe, kind=Change.DIFFERENCE)


def by_breaching(name, played, *overrides, gradients=None, labels=None):
    """Return the images, in the spec's unit, and labels that breaching itself reconstructs."""
    spec = played.spec
    words = OmegaConf.create(
        {
            "modality": "vision",
            "task": "classification",
            "classes": 3,
            "shape": list(spec.shape),
            "mean": list(spec.mean),
            "std": list(spec.std),
        }
    )
    public = None if played.training else [b.clone() for b in played.network.buffers()]
    payload = {
        "parameters": [p.detach().clone() for p in played.network.parameters()],
        "buffers": public,
        "metadata": words,
    }
    shared = {
        "gradients": [g.clone() for g in gradients or played.gradients],
        "buffers": played.buffers,
        "metadata": {
            "num_data_points": len(played.labels),
            "labels": played.revealed if labels is None else labels,
            "local_hyperparams": played.recipe,
        },
    }
    settings = breachings_settings(name, *overrides)
    with _as_if_seeded(0), library.quiet():
        attacker = library.attacks.prepare_attack(
            Container(played.network), nn.CrossEntropyLoss(), settings, CPU
        )
        found, _ = attacker.reconstruct(
            [payload] * played.rounds,
            [{**shared, "gradients": [g.clone() for g in shared["gradients"]]}] * played.rounds,
            played.secrets or {},
        )
    images = spec.denormalise(found["data"].detach().float()).clamp(*spec.bounds)
    return images, found["labels"]


def breachings_settings(name, *overrides):
    """Return an attack's settings from breaching's own tree."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        breaching = importlib.import_module("breaching")
        return breaching.get_attack_config(name, list(overrides))


def by_medbreach(name, played, *overrides):
    """Return our reconstruction of the same round."""
    return our_attack(name, *overrides)(exchange(played), torch.Generator().manual_seed(0))


def our_attack(name, *overrides):
    """Return our attack of breaching's settings."""
    plan = assemble(config.load([f"attack={name}", *(f"attack.{o}" for o in overrides)]))
    return plan.attacks[name]


def exchange(played):
    """Return the round as our attacks see it."""
    names = [name for name, _ in played.network.named_parameters()]
    buffers = played.buffers
    if buffers is not None:
        buffer_names = [name for name, _ in played.network.named_buffers()]
        buffers = dict(zip(buffer_names, buffers, strict=True))
    recipe = played.recipe
    if recipe is not None:
        recipe = Recipe(
            recipe["steps"], recipe["data_per_step"], recipe["lr"], tuple(recipe["labels"])
        )
    update = Update(
        change=dict(zip(names, played.gradients, strict=True)),
        kind=played.kind,
        buffers=buffers,
        labels=played.revealed,
        count=len(played.labels),
        recipe=recipe,
    )
    one = Round(played.network, update, played.training, played.secret)
    public = played.images[:0]
    return Exchange(played.spec, 3, nn.CrossEntropyLoss(), (one,) * played.rounds, public)


@contextlib.contextmanager
def _as_if_seeded(seed):
    """Have torch's generator start where our attacks start it."""
    drawn = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(drawn))
        yield
