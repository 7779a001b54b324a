"""``medbreach plugin new``: distributions that work at once, and names that cannot be taken."""

import pytest
from running import in_environment, made_up_plugins, make_environment, run_program

from medbreach import scaffold
from medbreach.cli.plugin import KINDS


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_every_kind_installs_and_passes_its_own_tests(tmp_path, in_an_empty_folder):
    for kind in KINDS:
        ran = run_program("plugin", "new", f"my_{kind}", "--kind", kind)
        assert (ran.code, ran.err) == (0, "")
    programs = make_environment(tmp_path / "environment")
    folders = [f"-e medbreach-my_{kind}" for kind in KINDS]
    installed = in_environment(programs, f"pip install {' '.join(folders)}", in_an_empty_folder)
    assert installed.returncode == 0, installed.stdout
    tested = in_environment(programs, "python -m pytest -q -p no:cacheprovider", in_an_empty_folder)
    assert tested.returncode == 0, tested.stdout
    listed = in_environment(programs, "medbreach list plugins", in_an_empty_folder)
    for kind in KINDS:
        assert f"medbreach-my-{kind} 0.1.0: loaded" in listed.stdout


def test_the_last_line_says_what_to_do():
    ran = run_program("plugin", "new", "clip", "--out", "some where/clip")
    assert ran.out == (
        "some where/clip is ready: pip install -e 'some where/clip' && "
        "python -m pytest 'some where/clip'\n"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_says_its_kind_does_not_repeat_it(kind, in_an_empty_folder):
    folder = scaffold.write_plugin(f"quick_{kind}", kind)
    (module,) = folder.glob("medbreach_*/quick_*.py")
    assert f"class Quick{kind.capitalize()}(" in module.read_text()
    compile(module.read_text(), str(module), "exec")


def refused(*arguments):
    """What a wrong request is told, once it is sure that nothing was written."""
    ran = run_program("plugin", "new", *arguments)
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    return ran.err.removeprefix("medbreach: ").strip()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my-defense", "'my-defense' cannot name a plugin: use lower-case letters, digits and"),
        ("MyDefense", "'MyDefense' cannot name a plugin"),
        ("2fast", "'2fast' cannot name a plugin"),
        ("é", "'é' cannot name a plugin"),
        ("", "'' cannot name a plugin"),
        ("../up", "'../up' cannot name a plugin"),
        ("class", "'class' is a Python keyword: choose another name"),
        ("defense", "'defense' is what all of its kind are called: choose another name"),
    ],
)
def test_unfit_names(name, sentence, in_an_empty_folder):
    assert sentence in refused(name)
    assert list(in_an_empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind", "word"),
    [
        ("ssim", "metric", "a metric"),
        ("blind_guess", "attack", "an attack"),
        ("imprint", "attack", "an attack"),  # a choice, not a component
        ("brain_mr", "dataset", "a data set"),
        ("lenet_zhu", "model", "a model"),  # letter case does not matter
    ],
)
def test_taken_names(name, kind, word, in_an_empty_folder):
    told = refused(name, "--kind", kind)
    assert told == f"there is {word} named '{name}' already: choose another name"
    assert list(in_an_empty_folder.iterdir()) == []


def test_a_name_may_be_used_by_another_kind():
    assert run_program("plugin", "new", "ssim", "--kind", "defense").code == 0


def test_installed_plugins_keep_their_names(tmp_path, monkeypatch):
    with made_up_plugins(tmp_path, monkeypatch, taken=""):
        assert refused("taken") == (
            "a plugin named 'taken' is installed already: choose another name"
        )


@pytest.mark.parametrize("make", ["folder", "file", "dangling link"])
def test_what_is_there_stays(make, in_an_empty_folder):
    there = in_an_empty_folder / "medbreach-clip"
    if make == "folder":
        there.mkdir()
    elif make == "file":
        there.write_text("mine")
    else:
        there.symlink_to("nowhere")
    assert refused("clip") == ("medbreach-clip is there already: choose another folder with --out")
    assert list(in_an_empty_folder.iterdir()) == [there]


def test_a_file_where_a_folder_is_needed(in_an_empty_folder):
    (in_an_empty_folder / "file").write_text("mine")
    assert refused("clip", "--out", "file/clip").startswith("file/clip cannot be written: ")


def test_a_full_disk_leaves_nothing_behind(in_an_empty_folder, monkeypatch):
    written = []

    def fill(path, text, encoding):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(in_an_empty_folder), "write_text", fill)
    assert refused("clip") == "medbreach-clip cannot be written: No space left on device"
    assert list(in_an_empty_folder.iterdir()) == []


def test_an_unknown_kind():
    assert "'server' is not one of" in refused("clip", "--kind", "server")
