"""What the federation does with a defense: steps, networks, conflicts, guarantees, memory."""

import json
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from medbreach import (
    ConfigError,
    Defense,
    Guarantee,
    ModelError,
    Seeds,
)
from medbreach.audit import audit, check, guarantees
from medbreach.encoding import Line, line_from_json, line_to_json
from medbreach.errors import ContractError
from medbreach.plan import ADAPTIVE, Levels, Options, Plan, with_adaptive
from medbreach.plugins import attacks
from medbreach.protocol import User
from medbreach.round import agreed_network, mean_update, play
from medbreach.testing import tiny_case, tiny_collection, tiny_exchange, tiny_sample
from medbreach.types import Finding, Role, Verdict

CPU = torch.device("cpu")


class Named(Defense):
    """Does nothing."""

    name: ClassVar[str] = "named"
    source: ClassVar[str] = "test"


@dataclass(frozen=True)
class Affine(Named):
    """Turn a step's gradient g into factor * g + shift."""

    factor: float = 1.0
    shift: float = 0.0

    def step(self, gradient):
        def stepped(task, batch):
            return {n: self.factor * g + self.shift for n, g in gradient(task, batch).items()}

        return stepped


def entries(exchange):
    return torch.cat([g.flatten() for g in exchange.update.change.values()])


def test_steps_are_taken_in_the_order_of_the_stack():
    bare = entries(tiny_exchange())
    first_doubled = entries(tiny_exchange(defenses=[Affine(2.0), Affine(shift=1.0)]))
    first_shifted = entries(tiny_exchange(defenses=[Affine(shift=1.0), Affine(2.0)]))
    assert torch.allclose(first_doubled, 2 * bare + 1)
    assert torch.allclose(first_shifted, 2 * bare + 2)


def test_every_step_of_local_training_is_defended():
    user = User("local_update", num_data_points=2, num_local_updates=3, local_learning_rate=0.1)
    bare = entries(tiny_exchange(user=user))
    frozen = entries(tiny_exchange(user=user, defenses=[Affine(0.0)]))
    steady = entries(tiny_exchange(user=user, defenses=[Affine(0.0, shift=1.0)]))
    assert bare.abs().max() > 0
    assert not frozen.any()
    assert torch.allclose(steady, torch.full_like(steady, -0.3), atol=1e-6)


def test_a_step_that_does_not_fit_names_the_defense():
    @dataclass(frozen=True)
    class Short(Named):
        def step(self, gradient):
            return lambda task, batch: dict(list(gradient(task, batch).items())[1:])

    with pytest.raises(ContractError, match="named returned a gradient of other names"):
        tiny_exchange(defenses=[Short()])


@dataclass(frozen=True)
class Deeper(Named):
    """Put a linear layer at the end."""

    def remodel(self, model, spec, classes):
        return nn.Sequential(model, nn.Linear(classes, classes))


def test_everybody_has_the_network_that_a_defense_asks_for():
    exchange = tiny_exchange(defenses=[Deeper()])
    assert list(exchange.update.change)[-1] == "1.bias"
    assert dict(exchange.model.named_parameters()).keys() == exchange.update.change.keys()
    again = tiny_exchange(defenses=[Deeper()])
    assert torch.equal(exchange.model[1].weight, again.model[1].weight), "seeded"
    assert exchange.defenses == (Deeper(),)


def test_a_network_that_cannot_be_protected_is_refused_before_anything_is_run():
    @dataclass(frozen=True)
    class Picky(Named):
        def remodel(self, model, spec, classes):
            raise ModelError("named cannot protect a network without dropout")

    plan = Plan(tiny_case(), {}, {"picky": (Picky(),)}, ())
    with pytest.raises(ModelError, match="without dropout"):
        check(replace(plan, options=Options(alpha=0.9)), tiny_collection())


def test_a_network_that_is_none():
    @dataclass(frozen=True)
    class Wrong(Named):
        def remodel(self, model, spec, classes):
            return None

    with pytest.raises(ContractError, match="named returned a NoneType, no network"):
        agreed_network(tiny_case(), tiny_sample(), [Wrong()], Seeds(0))


def test_a_stack_that_contradicts_itself():
    @dataclass(frozen=True)
    class Lonely(Named):
        def conflict(self, stack):
            return "named stands alone" if len(stack) > 1 else ""

    Plan(tiny_case(), {}, {"a": (Lonely(),)}, ())
    with pytest.raises(ConfigError, match=r"defense=a\+b: named stands alone"):
        Plan(tiny_case(), {}, {"a+b": (Lonely(), Affine())}, ())


@dataclass(frozen=True)
class Private(Named):
    """Claims epsilon steps times rounds."""

    def guarantee(self, work):
        rounds = work.rounds or 7
        return Guarantee(
            float(work.steps * rounds), 1e-5, "record", "replace one", rounds, "by counting"
        )


def test_the_guarantee_counts_the_steps_of_the_case():
    def epsilons(**changes):
        return [g.epsilon for g in guarantees(tiny_case(**changes), [Private(), Affine()])]

    assert epsilons() == [7.0]
    steps = User("local_update", num_data_points=4, num_local_epochs=3, num_local_updates=1)
    assert epsilons(user=steps) == [21.0]
    curious = replace(tiny_case().server, num_queries=5)
    assert epsilons(server=curious) == [35.0], "five answers about the same records"


def test_the_guarantee_counts_the_updates_of_a_round():
    @dataclass(frozen=True)
    class PerUpdate(Private):
        def guarantee(self, work):
            return replace(super().guarantee(work), epsilon=float(work.updates))

    curious = replace(tiny_case().server, num_queries=5)
    (given,) = guarantees(tiny_case(server=curious), [PerUpdate()])
    assert given.epsilon == 5


@pytest.mark.parametrize("method", ["guarantee", "conflict"])
def test_a_defense_that_cannot_be_asked_is_named(method):
    broken = type("Broken", (Named,), {method: lambda self, _: 1 / 0})()
    with pytest.raises(ConfigError, match=r"named cannot tell .*division by zero"):
        guarantees(tiny_case(), Plan(tiny_case(), {}, {"a": (broken,)}, ()).stacks["a"])


@pytest.mark.parametrize("epsilon", [2.5, math.inf])
def test_guarantees_are_kept_in_the_record(epsilon):
    given = Guarantee(epsilon, 1e-5, "client", "add or remove one", 3, "how: 1.5 of it")
    finding = Finding("c", "s", "a", ("d",), 0, Role.ATTACK, Verdict.NO_LEAK, guarantees=(given,))
    line = line_to_json(Line("attack--a", "sample", finding))
    assert line_from_json(line).finding == finding
    old = {k: v for k, v in json.loads(line).items() if k != "guarantees"}
    assert line_from_json(json.dumps(old)).finding.guarantees == ()


def test_a_client_keeps_its_memory_over_the_rounds_of_an_audit():
    @dataclass(frozen=True)
    class Counting(Named):
        def wrap(self, train):
            def trained(task):
                task.memory["named.rounds"] = task.memory.get("named.rounds", 0) + 1
                update = train(task)
                hints = {"named.rounds": torch.tensor(float(task.memory["named.rounds"]))}
                return replace(update, hints=hints)

            return trained

    server = replace(tiny_case().server, num_queries=3)
    exchange = tiny_exchange(server=server, defenses=[Counting()])
    assert [float(r.update.hints["named.rounds"]) for r in exchange.rounds] == [1.0, 2.0, 3.0]
    two = User("multiuser_aggregate", num_data_points=2, aggregation="plain")
    case, sample = tiny_case(user=two), tiny_sample(user=two)
    apart = play(case, sample, [Counting()], Seeds(0), CPU)
    assert [float(e.update.hints["named.rounds"]) for e in apart] == [1.0, 1.0]


def test_hints_are_averaged_where_all_clients_give_them():
    update = tiny_exchange().update
    a = replace(update, hints={"x": torch.tensor([1.0]), "y": torch.zeros(2)})
    b = replace(update, hints={"x": torch.tensor([3.0]), "y": torch.zeros(3)})
    assert mean_update([a, b]).hints == {"x": torch.tensor([2.0])}


def test_a_client_can_read_its_other_records():
    case, sample = tiny_case(), tiny_sample()
    seen = {}

    @dataclass(frozen=True)
    class Looking(Named):
        def wrap(self, train):
            def trained(task):
                seen["few"], seen["all"] = task.others(3), task.others(10**6)
                return train(task)

            return trained

    play(case, sample, [Looking()], Seeds(0), CPU)
    assert len(seen["few"].labels) == 3
    assert torch.equal(seen["few"].images, seen["all"].images[:3])
    everything = torch.cat([seen["all"].images, sample.decoys])
    for record in sample.truth.images:
        assert not (everything == record).flatten(1).all(1).any()
    assert len(seen["all"].labels) == len(set(map(bytes, seen["all"].images.numpy())))


# Attacks that know the defense.


@dataclass(frozen=True)
class Negative(Named):
    """Send minus the gradient, and tell who asks."""

    def step(self, gradient):
        return Affine(-1.0).step(gradient)

    def simulate_step(self, gradient, seen):
        return self.step(gradient)

    def simulate_update(self, change, seen):
        return {name: g * (seen.change[name] != 0) for name, g in change.items()}


def plan_of(**stacks):
    imprint = attacks()["optimization"]
    descent = type(imprint().optim)(max_iterations=150, step_size=0.1)
    objective = type(imprint().objective)(type="cosine-similarity")
    attack = imprint(optim=descent, objective=objective)
    blind = attacks()["blind_guess"]()
    named = with_adaptive({"blind_guess": blind, "match": attack})
    return Plan(tiny_case(), named, stacks, (), Options(alpha=0.2, null_draws=1))


def test_only_what_can_be_adapted_to_is_attacked_twice():
    plan = plan_of(none=(), plain=(Affine(),), known=(Negative(),), both=(Affine(), Negative()))
    assert plan.cells == (
        ("match", "none"), ("match", "plain"), ("match", "known"), (f"match{ADAPTIVE}", "known"),
        ("match", "both"), (f"match{ADAPTIVE}", "both"),
    )  # fmt: skip
    solvable = [a.attack for a in plan.attempts() if a.role is Role.SOLVABLE]
    assert solvable == ["match"]
    assert plan.levels == Levels.of(0.2, [a.id for a in plan.attempts()])


def test_who_knows_the_defense_sees_through_it():
    """Against minus the gradient an attacker who knows nothing descends on the opposite."""
    plan = plan_of(none=(), known=(Negative(),))
    found = {
        (f.attack, f.defenses): sum(f.identified)
        for f in (o.finding for o in audit(plan, tiny_collection(), CPU))
        if f.role is Role.ATTACK
    }
    undefended = found["match", ()]
    assert undefended >= 1
    assert found["match", ("known",)] == 0
    assert found[f"match{ADAPTIVE}", ("known",)] == undefended
