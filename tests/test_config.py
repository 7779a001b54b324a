"""breaching's config language: what is chosen, what is set, and what is refused."""

import re

import pytest
from running import made_up_plugins

from medbreach import choices, plugins
from medbreach.assembly import assemble
from medbreach.attacks.optimization import Optimization
from medbreach.captured import keep
from medbreach.choices import breaching_tree, shipped
from medbreach.config import load, load_tradeoff, read_choice
from medbreach.devices import pick_device
from medbreach.errors import ConfigError
from medbreach.plan import BLIND
from medbreach.session import prepare
from medbreach.settings import build
from medbreach.tradeoff.training import Training

TEXT_CASES = {"9_bert_training", "10_causal_lang_training"}
TEXT_ATTACKS = {"decepticon", "tag"}
BREACHING_CASES = sorted(f.stem for f in (breaching_tree() / "case").glob("*.yaml"))
BREACHING_ATTACKS = sorted(f.stem for f in (breaching_tree() / "attack").glob("[!_]*.yaml"))
OWN = sorted(f.relative_to(shipped()).with_suffix("") for f in shipped().rglob("*.yaml"))


def refusal(*overrides, folder=None):
    """Return what settings are refused with, while they are read or made into components."""
    with pytest.raises(ConfigError) as error:
        assemble(load(overrides, folder))
    return str(error.value)


# Everything that breaching and we ship.


def test_breaching_ships_what_these_tests_go_through():
    assert set(BREACHING_CASES) > TEXT_CASES
    assert set(BREACHING_ATTACKS) > TEXT_ATTACKS
    assert (len(BREACHING_CASES), len(BREACHING_ATTACKS)) == (9, 16)


@pytest.mark.parametrize("case", sorted(set(BREACHING_CASES) - TEXT_CASES))
def test_breachings_vision_cases_compose(case):
    settings = load([f"case={case}"])["case"]
    assert settings["name"] in case
    assert settings["data"]["name"]
    assert settings["user"]["user_type"]
    if settings["data"]["name"].startswith("CIFAR"):
        assert assemble(load([f"case={case}"])).case.name == settings["name"]
    else:
        assert refusal(f"case={case}") == (
            f"breaching's data set {settings['data']['name']} is not read here: choose another by "
            "case/data=NAME, or your own images by case/data=image_folder case.data.path=FOLDER"
        )


@pytest.mark.parametrize("case", sorted(set(BREACHING_CASES) - TEXT_CASES))
def test_breachings_vision_cases_build_with_images_that_are_here(case):
    ours = ("case/data=dermoscopy", "case.data.default_clients=2", "case.server.pretrained=false")
    settings = load([f"case={case}", *ours])
    if case == "6_large_batch_cifar":  # a forward pass of its network takes seconds
        assert assemble(settings).case.user.num_data_points == 100
        return
    session = prepare(settings, pick_device("cpu"))
    assert session.plan.case.name in case
    assert len(session.sample.truth.labels) == {
        "4_fedavg_small_scale": 4, "5_small_batch_imagenet": 36, "8_industry_scale_fl": 8,
    }.get(case, 1)  # fmt: skip


@pytest.mark.parametrize("name", sorted(TEXT_CASES))
def test_text_cases_are_refused(name):
    assert refusal(f"case={name}") == f"breaching's case {name} is for text, not images"


def test_text_data_are_refused():
    for name in ("wikitext", "cola", "shakespeare", "stackoverflow"):
        sentence = f"breaching's data set {name} is for text, not images"
        assert refusal(f"case/data={name}") == sentence


@pytest.mark.parametrize("name", BREACHING_ATTACKS)
def test_breachings_attacks_compose_and_build(name):
    if name in TEXT_ATTACKS:
        assert refusal(f"attack={name}") == f"breaching's attack {name} is for text, not images"
    else:
        plan = assemble(load([f"attack={name}"]))
        assert tuple(plan.attacks) == (*BLIND, name)
        assert plan.tested == (name,)


def _captured(folder):
    """Write a round of a federation of one client, as far as settings go."""
    facts = {
        "case": load(["case=dermoscopy_2d"])["case"], "stack": [], "seed": 0, "round": 1,
        "recipe": {"local_epochs": 1, "batch_size": 4, "learning_rate": 0.1, "optimizer": "sgd"},
        "images": "", "trained": [], "clients": {"0": {"entries": [], "labels": [], "patients": 3}},
    }  # fmt: skip
    keep(folder / "round", facts, {}, {})
    return folder / "round"


@pytest.mark.parametrize("file", OWN, ids=str)
def test_our_files_compose_and_build(file, tmp_path):
    if str(file) == "medbreach":
        plan = assemble(load())
        assert (plan.case.name, plan.tested) == ("dermoscopy_2d", ("invertinggradients",))
        return
    group, name = str(file.parent), file.name
    needs_path = group == "case/data" and "path: ???" in (shipped() / f"{file}.yaml").read_text()
    path = (
        [f"case.data.path={tmp_path}"]
        if needs_path or name in ("my_folder", "brain_tumor_2d")
        else []
    )
    if name == "captured":
        path = [f"case.captured={_captured(tmp_path)}"]
    if group == "training":
        assert build(Training, load_tradeoff([f"training={name}"])[1], group) == Training()
        return
    plan = assemble(load([f"{group}={name}", *path]))
    if group == "case":
        assert plan.case.name == name


@pytest.mark.parametrize(
    ("server", "sentence"),
    [
        (
            "case/server=malicious-transformer",
            "breaching's server malicious-transformer is for text, not images",
        ),
        (
            "case.server.name=sly",
            "there is no server 'sly' in medbreach: choose another by case/server=NAME; "
            "'medbreach list servers' names them",
        ),
    ],
)
def test_servers_that_are_not_here(server, sentence):
    assert refusal(server) == sentence


def test_breachings_keys_of_a_fishing_server():
    from medbreach.servers.fishing import FishingServer

    settings = load(["case/server=malicious-fishing"])
    theirs = {"one_shot_ba": True, "query_once_for_labels": True, "grad_idx": 0}
    settings["case"]["server"] |= {**theirs, "feat_multiplier": 200, "num_queries": 1}
    assert assemble(settings).case.server == FishingServer(feat_multiplier=200.0)


# Letter case.


def test_no_two_choices_differ_by_letter_case_only():
    for group in ("attack", "case", "case/data", "case/server", "case/user", "defense"):
        names = choices.names(group)
        assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("name", ["cifar10", "CIFAR10", "Cifar10"])
def test_cifar10_is_one_choice(name):
    settings = load([f"case/data={name}"])["case"]["data"]
    assert settings == load(["case=1_single_image_small"])["case"]["data"]
    assert settings["path"] == "~/data"  # ours, not breaching's of the same name


def test_letter_case_does_not_matter():
    written = load(["case=brain_mr_3d", "attack=imprint", "case/user=local_updates"])
    typed = load(["case=Brain_MR_3D", "attack=[Imprint,IMPRINT]", "case/user=Local_Updates"])
    assert written == typed


def test_letter_case_does_not_matter_inside_a_case_file(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "mine.yaml").write_text(
        "name: mine\ndefaults:\n- data: DERMOSCOPY\n- impl: default\n"
        "- server: Honest-But-Curious\n- user: local_gradient\n- _self_\nmodel: SMALL_CNN\n"
    )
    plan = assemble(load(["case=Mine"], tmp_path))
    assert (plan.case.name, plan.case.dataset.name) == ("mine", "dermoscopy")
    assert plan.case.model.name == "small_cnn"


def test_a_wrong_name_inside_a_case_file(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "mine.yaml").write_text("name: mine\ndefaults:\n- data: dermoscpy\n")
    sentence = "there is no data set named 'dermoscpy'; did you mean dermoscopy?"
    assert refusal("case=mine", folder=tmp_path) == sentence


# A tree of the user's own.


def test_a_users_tree_comes_first_and_needs_only_what_it_changes(tmp_path):
    folder = tmp_path / "müller's, (own) tree"
    (folder / "attack").mkdir(parents=True)
    (folder / "case" / "user").mkdir(parents=True)
    (folder / "attack" / "quick.yaml").write_text(
        "defaults: [invertinggradients]\noptim: {max_iterations: 7}\n"
    )
    (folder / "case" / "user" / "local_gradient.yaml").write_text(
        "user_type: local_gradient\nnum_data_points: 9\n"
    )
    plan = assemble(load(["attack=quick"], folder))
    assert plan.attacks["quick"].optim.max_iterations == 7
    assert plan.case.user.num_data_points == 4  # the case's own
    assert not plan.case.user.provide_buffers


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1\n", r"\S+mine.yaml is no valid YAML: while parsing a flow sequence .*"),
        ("- 1\n- 2\n", r"case must be settings by key, got \[1, 2\]"),
        ("", r"case.name is not set"),
        (b"\xff\xfe\x00", r"\S+mine.yaml is no .*"),
        ("name: mine\n_target_: os.system\n", r"case has no key '_target_'; there are .*"),
        (
            "name: mine\ndefaults: [{data: dermoscopy}, {server: honest-but-curious}, "
            "{user: local_gradient}, _self_]\ndata: {_target_: os.system}\n",
            r"case.data has no key '_target_'; there are .*",
        ),
        ("name: ${nowhere}\n", r"case: Interpolation key 'nowhere' not found"),
        ("name: ???\n", r"case.name is not set: add case.name=VALUE"),
        ("name: mine\ndata: 3\nserver: 4\nuser: 5\n", r"case.data must be settings by key, got 3"),
    ],
)
def test_damaged_files_of_a_users_tree(tmp_path, text, sentence):
    (tmp_path / "case").mkdir()
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "case" / "mine.yaml").write_bytes(content)
    assert re.fullmatch(sentence, refusal("case=mine", folder=tmp_path))


# Setting keys.


def attacks_of(*overrides):
    return assemble(load(overrides)).attacks


def test_a_key_of_every_chosen_attack_that_has_it():
    found = attacks_of("attack=[invertinggradients,modern,analytic]", "attack.optim.step_size=0.5")
    assert found["invertinggradients"].optim.step_size == 0.5
    assert found["modern"].optim.step_size == 0.5


def test_a_key_of_one_attack():
    found = attacks_of("attack=[invertinggradients,modern]", "attack.modern.optim.step_size=0.5")
    assert found["invertinggradients"].optim.step_size == 0.1
    assert found["modern"].optim.step_size == 0.5


def test_the_last_of_two_values_counts():
    assert load(["audit.seeds=2", "audit.seeds=3"])["audit"]["seeds"] == 3


def test_controls_come_first_however_they_are_asked_for():
    for asked in ("modern", "[random_public_image,modern]", "[modern,blind_guess,modern]"):
        assert tuple(load([f"attack={asked}"])["attacks"]) == (*BLIND, "modern")


def test_whole_numbers_for_floats():
    federation = assemble(
        load(["case.data.mean=[1,0.5,0]", "case.data.std=[1,2,3]"])
    ).case.federation
    assert [type(value) for value in (*federation.mean, *federation.std)] == [float] * 6
    assert federation.mean == (1.0, 0.5, 0.0)


def test_a_key_of_a_model_that_is_a_name():
    assert assemble(load(["case.model.width=8"])).case.model.width == 8
    model = assemble(load(["case.model=mlp", "case.model.hidden=5"])).case.model
    assert (model.name, model.hidden) == ("mlp", 5)


@pytest.mark.parametrize(
    "path",
    ["/data/scans (1), a=b/müller", "2024", "a,b", "[a]", "~/scans", "a b", "C:\\scans", "1e3"],
)
def test_paths_are_taken_as_they_are_written(path):
    settings = load(["case/data=image_folder", f"case.data.path={path}"])
    assert settings["case"]["data"]["path"] == path
    found = assemble(settings).case.dataset.path
    assert str(found) == path.replace("~", str(found.home()))


def test_patterns_are_taken_as_they_are_written():
    pattern = r"(sub-\d{1,3})_"
    settings = load(["case=my_folder", "case.data.path=x", f"case.data.patients={pattern}"])
    assert assemble(settings).case.dataset.patients == pattern


def test_stacks_of_defenses(tmp_path, monkeypatch):
    code = """
        from dataclasses import dataclass
        from medbreach import Defense, hookimpl

        @dataclass(frozen=True)
        class One(Defense):
            name = "one"
            source = "made up"
            level: float = 1.0

        @dataclass(frozen=True)
        class Two(Defense):
            name = "two"
            source = "made up"

        @hookimpl
        def medbreach_defenses():
            return [One, Two]
    """
    with made_up_plugins(tmp_path, monkeypatch, stacks=code):
        plan = assemble(load(["defense=[none,one,ONE+two]", "defense.level=3"]))
        assert list(plan.stacks) == ["none", "one", "one+two"]
        assert [d.name for d in plan.stacks["one+two"]] == ["one", "two"]
        assert plan.stacks["one"][0].level == 3
        assert refusal("defense=three") == (
            "there is no defense named 'three'; there are dp_noise, one, two"
            if "dp_noise" in plugins.defenses()
            else "there is no defense named 'three'; "
            + choices.nearest("three", choices.names("defense"))
        )
        assert refusal("defense=two", "defense.level=3").startswith(
            "no chosen defense has the key 'level'; there are none"
        )


def test_everything_is_plain_data():
    """Settings go into the run record as JSON, and come back for a resumed run."""
    import json

    settings = load(["case=brain_mr_3d", "attack=[imprint,modern]", "audit.seeds=[3,1]"])
    assert json.loads(json.dumps(settings)) == settings


def test_reading_one_choice():
    assert read_choice("case/data", "npz")["path"] == "???"
    assert read_choice("attack", "modern")["attack_type"] == Optimization.name


# What is refused.


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("atack=imprint", "there is no setting atack; did you mean attack?"),
        ("attack=imprnt", "there is no attack named 'imprnt'; did you mean imprint?"),
        (
            "case.user.num_data_point=3",
            "case.user has no key 'num_data_point'; did you mean num_data_points or "
            "provide_num_data_points?",
        ),
        (
            "case/server=malicious",
            "there is no server named 'malicious'; did you mean malicious-fishing or "
            "malicious-model-rtf or malicious-model-qbi?",
        ),
        ("audit.seed=3", "audit has no key 'seed'; did you mean seeds?"),
        (
            "attack.optim.max_iteration=5",
            "attack.optim has no key 'max_iteration'; did you mean max_iterations?",
        ),
        ("attack.otpim.max_iterations=5", "no chosen attack has the key 'otpim.max_iterations'; "
         "did you mean optim?"),
        (
            "case.model=resnet19",
            "there is no model named 'resnet19'; did you mean ResNet18 or ResNet152 or ResNet101?",
        ),
        ("case/sever=x", "there is no config group case/sever; did you mean case/server or "
         "case/user?"),
        ("audit=quick", "there is no audit named 'quick'; there are default"),
        ("case.data.name=npy", "there is no data set named 'npy'; did you mean npz?"),
        ("audit.metrics=[psn]", "there is no metric named 'psn'; did you mean psnr?"),
        # no setting at all
        ("imprint", "'imprint' is no setting: write key=value"),
        ("", "'' is no setting: write key=value"),
        ("=3", "'=3' is no setting: write key=value"),
        ("+case.new=1", "'+case.new=1' is no setting: write key=value"),
        ("~case.user", "'~case.user' is no setting: write key=value"),
        ("case .user=1", "'case .user=1' is no setting: write key=value"),
        ("hydra.run.dir=/", "there is no setting hydra.run.dir; there are attack, audit, case, "
         "defense, training"),
        # no value, several, or a wrong one
        ("attack=[]", "attack=[] names no attack: write attack=NAME or attack=[A,B]"),
        ("attack=[[imprint]]", "attack=[['imprint']] names no attack: write attack=NAME or "
         "attack=[A,B]"),
        ("case=[a,b]", "case takes one name, not ['a', 'b']: write case=NAME"),
        ("attack=imprint,modern", "'attack=imprint,modern' has several values: write a list as "
         "attack=[a,b]"),
        ("attack=[imprint", "the value in 'attack=[imprint' has brackets or quotes left open"),
        ("case.model=", "case.model is not set: name a network, or give --model FILE.py:FUNCTION"),
        ("case.model=[a]", "case.model must be the name of a network, got ['a']"),
        ("case.name=", "case.name is not set"),
        ("case.name=[3]", "case.name must be text, got [3]"),
        ("case.user.num_data_points=two", "case.user.num_data_points must be a whole number, got "
         "'two'"),
        ("case.user.num_data_points=1.5", "case.user.num_data_points must be a whole number, got "
         "1.5"),
        ("case.user.num_data_points=true", "case.user.num_data_points must be a whole number, got "
         "true"),
        ("case.user.num_data_points=null", "case.user.num_data_points must be a whole number, got "
         "null"),
        ("case.user.num_data_points=[1]", "case.user.num_data_points must be a whole number, got "
         "[1]"),
        ("case.user.num_data_points=0", "case.user: num_data_points must be at least 1, got 0"),
        ("case.user.provide_labels=1", "case.user.provide_labels must be true or false, got 1"),
        ("audit.seeds=many", "audit.seeds must be a whole number or a list of whole numbers, got "
         "'many'"),
        ("audit.seeds=0", "audit: seeds must be 1 to 1000 seeds, got 0"),
        ("audit.seeds=100000000", "audit: seeds must be 1 to 1000 seeds, got 100000000"),
        ("attack.optim.step_size=nan", "attack.optim.step_size must be finite, got nan"),
        ("case.data.std=[inf,1,1]", "case.data.std must be finite, got [inf, 1, 1]"),
        ("audit.seeds=[1,x]", "audit.seeds must be a whole number or a list of whole numbers, got "
         "[1, 'x']"),
        ("audit.alpha=nan", "audit.alpha must be finite, got nan"),
        ("audit.metrics=psnr", "audit.metrics must be a list of text, got 'psnr'"),
        ("case.data.partition=even", "case.data.partition must be balanced, unique-class, random "
         "or dirichlet, got 'even'"),
        ("case.impl.dtype=half", "case.impl.dtype must be float or double, got 'half'"),
        ("case.name=${nowhere}", "case: Interpolation key 'nowhere' not found"),
        # a group where a key belongs, and the other way round
        ("case.data=cifar10", "case.data is a group of settings: choose one by case/data=NAME, or "
         "set a key by case.data.KEY=value"),
        ("case.user=3", "case.user is a group of settings: choose one by case/user=NAME, or set a "
         "key by case.user.KEY=value"),
        ("attack.attack_type=analytic", "attack.attack_type cannot be set: choose another attack "
         "by attack=NAME"),
        ("attack.imprint.sort_by_bias=true", "attack.imprint.sort_by_bias has no effect, since "
         "imprint is not chosen: add it to attack="),
        ("defense.level=3", "defense.level has no effect, since no defense is chosen: add "
         "defense=NAME"),
        # Python objects
        ("case._target_=os.system", "case has no key '_target_'; there are captured, data, impl, "
         "model, name, server, user, weights"),
        ("case.model._target_=os.system", "case.model has no key '_target_'; there are pool, "
         "width"),
    ],
)  # fmt: skip
def test_what_is_refused(override, sentence):
    assert refusal(override) == sentence


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("case=", "case= names no case; there are 0_sanity_check, "),
        ("attack=", "attack= names no attack; there are analytic, "),
        ("case/data=", "case/data= names no data set; there are abdomen_mr, "),
        ("case=ä ö", "there is no case named 'ä ö'; there are 0_sanity_check, "),
        ("case=../../etc/passwd", "there is no case named '../../etc/passwd'; there are "),
        ("case=${oc.env:HOME}", "there is no case named '${oc.env:HOME}'; there are "),
        ("case={a:1}", "case takes one name, not {'a': 1}: write case=NAME"),
        ("attack.optim=3", "attack.optim must be settings with the keys optimizer, "),
        ("attack._target_=os.system", "no chosen attack has the key '_target_'; there are "),
        ("case.data._target_=os.system", "case.data has no key '_target_'; there are "),
        ("attack.objective.type=foo", "attack.objective.type must be euclidean, "),
    ],
)
def test_what_is_refused_with_a_long_list(override, start):
    assert refusal(override).startswith(start)


def test_local_steps_that_leave_records_out():
    """Or records that nothing was ever sent of would count as not identified."""
    user = ("case=dermoscopy_2d", "case/user=local_updates", "case.user.num_data_points=8")
    assert refusal(*user) == (
        "case.user: 4 local steps of batch size 1 leave 4 of 8 records unused: raise "
        "num_local_updates or num_data_per_local_update_step, or set num_local_epochs"
    )
    assert assemble(load([*user, "case.user.num_local_epochs=1"])).case.user.recipe.steps == 8


def test_a_choice_given_twice():
    assert refusal("case=brain_mr_2d", "case=brain_mr_3d") == ("case is given twice: leave one out")


def test_a_value_that_must_be_given():
    for data in ("image_folder", "nifti_folder", "dicom_series", "npz"):
        assert refusal(f"case/data={data}") == "case.data.path is not set: add case.data.path=VALUE"


def test_an_empty_path():
    """The working directory is not meant."""
    sentence = "case.data.path must be a path, got ''"
    assert refusal("case=my_folder", "case.data.path=") == sentence


def test_defaults_that_lead_back_to_the_file(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "round.yaml").write_text("defaults: [round]\n")
    assert "defaults lead back to the file itself" in refusal("case=round", folder=tmp_path)
