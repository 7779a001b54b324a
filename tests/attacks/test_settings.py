"""breaching's attack files build; a wrong setting ends in one sentence that names it."""

import pytest

from medbreach import choices, config
from medbreach.assembly import assemble
from medbreach.errors import ConfigError

TEXT = ("tag", "decepticon")
SHIPPED = sorted(
    file.stem
    for file in (choices.breaching_tree() / "attack").glob("*.yaml")
    if not file.name.startswith("_")
)


def built(name, *settings):
    return assemble(config.load([f"attack={name}", *settings])).attacks[name]


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in TEXT])
def test_every_attack_file_of_breachings_builds(name):
    attack = built(name)
    assert attack.name == config.read_choice("attack", name)["attack_type"]


@pytest.mark.parametrize("name", TEXT)
def test_attacks_on_text_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}.* text"):
        built(name)


def test_nothing_shipped_is_forgotten():
    assert len(SHIPPED) == 16


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("modern", "init=patterned", "init 'patterned' is unknown"),
        ("modern", "init=noise", "init 'noise' is unknown"),
        ("modern", "optim.signed=true", "true does nothing"),
        ("modern", "optim.signed=strong", "attack.optim.signed must be"),
        ("modern", "optim.optimizer=adamax", "must be one of adam"),
        ("modern", "optim.step_size_decay=step", "attack.optim.step_size_decay must be"),
        ("modern", "optim.max_iterations=0", "must be at least 1, got 0"),
        ("modern", "optim.warmup=-1", "optim.warmup must not be negative"),
        ("modern", "objective.type=pearlmutter-loss", "attack.objective.type must be"),
        ("modern", "objective.sclae=3", "attack.objective has no key 'sclae'; did you mean scale"),
        ("modern", "label_strategy=exhaustive", "attack.label_strategy must be"),
        ("modern", "restarts.num_trials=0", "num_trials must be at least 1"),
        ("modern", "impl.JIT=script", "attack.impl.JIT must be null"),
        ("modern", "augmentations={flop: {p: 1}}", "has no 'flop'; did you mean flip"),
        ("modern", "augmentations={flip: {q: 1}}", "augmentations.flip has no key 'q'"),
        ("april_analytic", "solver=qr", "attack.solver must be"),
        ("multiscale_ghiasi", "resize=zoom", "attack.resize must be focus or upsampling"),
    ],
    ids=lambda value: value if "=" in value else "",
)
def test_a_wrong_setting(name, setting, message):
    with pytest.raises(ConfigError) as error:
        built(name, f"attack.{setting}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
