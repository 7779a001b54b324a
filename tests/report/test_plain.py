"""The report for a terminal, and the words that every report shares."""

import copy
import doctest
import unicodedata

import pytest

from medbreach.errors import ConfigError, RecordError
from medbreach.report import drawing, phrasing, render, summary, write
from medbreach.report.summary import limits, summarise, threat_model


@pytest.fixture
def resolved(photographs):
    return copy.deepcopy(photographs.header()["resolved"])


def words(resolved, topic, user=None, server=None):
    resolved["case"]["user"] |= user or {}
    resolved["case"]["server"] |= server or {}
    return threat_model(resolved)[topic]


def test_text_has_a_line_for_every_finding(photographs):
    text = render(photographs, "text")
    assert text.startswith("Leak: imprint identified")
    assert len([line for line in text.splitlines() if line.startswith("imprint")]) == 3
    assert "Limits\n- " in text


def test_text_sends_no_commands_to_a_terminal(changed, photographs):
    note = "one\n\x1b]0;two\x07three\udcff"
    record = changed(photographs, "attack", verdict="failed", p_value=None, note=note)
    text = render(record, "text")
    assert "failed: one \ufffd]0;two\ufffdthree\ufffd" in text
    kinds = {unicodedata.category(letter) for letter in text if letter != "\n"}
    assert not kinds & {"Cc", "Cs", "Cf"}


@pytest.mark.parametrize("module", [phrasing, drawing, summary], ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_a_malicious_server_is_called_so(resolved):
    assert words(resolved, "Server").startswith("Malicious.")
    assert "ImprintBlock with 64 rows" in threat_model(resolved)["Server"]


def test_an_honest_server_is_not_called_malicious(resolved):
    resolved["case"]["server"] = {
        "name": "honest_but_curious",
        "provide_public_buffers": True,
        "has_external_data": False,
        "num_queries": 3,
    }
    server = words(resolved, "Server")
    assert server.startswith("Honest but curious.")
    assert "asks 3 times" in server
    assert "public images" not in threat_model(resolved)["What else the server knows"]


def test_a_plugin_server_is_named(resolved):
    resolved["case"]["server"] = {
        "name": "theirs",
        "provide_public_buffers": False,
        "has_external_data": True,
    }
    assert "theirs" in words(resolved, "Server")
    assert "client's own batch" in threat_model(resolved)["What else the server knows"]


def test_secure_aggregation_is_told_from_plain(resolved):
    several = {"user_type": "multiuser_aggregate", "user_range": [0, 3], "num_data_points": 1}
    secure = words(resolved, "Clients", several | {"aggregation": "secure"})
    assert secure.startswith("3 clients train on 1 private record each.")
    assert "only the exact mean" in secure
    assert "each client's update" in words(resolved, "Clients", {"aggregation": "plain"})


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"user_type": "local_gradient", "num_local_updates": 5}, "The gradient of one batch"),
        (
            {"user_type": "local_update", "num_local_updates": 1},
            "1 step of local training, each on a batch of 4",
        ),
        (
            {
                "user_type": "local_update",
                "num_local_epochs": 2,
                "num_data_per_local_update_step": 2,
            },
            "2 passes over the client's records, in batches of 2",
        ),
        (
            {
                "user_type": "local_update",
                "num_local_updates": 3,
                "num_data_per_local_update_step": 16,
            },
            "3 steps of local training, each on a batch of 4",
        ),
        ({"user_type": "multiuser_aggregate"}, "The gradient of one batch"),
    ],
)
def test_what_is_sent(resolved, user, expected):
    assert expected in words(resolved, "What is sent", user)


def test_what_is_told(resolved):
    switches = ("num_data_points", "labels", "buffers", "local_hyperparams")
    silent = {f"provide_{name}": False for name in switches}
    told = words(resolved, "What else the server knows", silent)
    assert told.startswith("Clients tell it nothing else.")
    open_ = {f"provide_{name}": True for name in switches}
    told = words(resolved, "What else the server knows", open_)
    assert "the number of records, their labels" in told
    assert "and how the client trained." in told


def test_protection(resolved):
    assert words(resolved, "Protection") == "None: updates are sent as they are."
    noise = {"gradient_noise": 0.1, "per_example_clipping": 1.0, "distribution": "gaussian"}
    resolved["case"]["user"]["local_diff_privacy"] |= noise
    resolved["stacks"] = {"none": [], "clip+prune": [{"name": "clip"}, {"name": "prune"}]}
    protection = words(resolved, "Protection")
    assert "clips each record's gradient to the norm 1 and adds gaussian noise" in protection
    assert "Defenses tried: clip+prune." in protection


def test_limits_name_few_decoys_and_what_was_not_computed(edit, photographs):
    def change(header):
        header["images"] |= {"labelled": False, "note": "one subject"}
        header["resolved"]["audit"]["metrics"].append("another")

    def of_two_classes(lines):
        return [line | {"pools": [[2, 9], [2, 30]]} for line in lines]

    found = " ".join(limits(summarise(edit(photographs, change, of_two_classes))))
    assert "With 9 decoys, chance identifies one record in 10" in found
    assert "classes were made up" in found
    assert "One subject." in found
    assert "another" in found.rpartition("Not computed here:")[2]


def test_a_header_without_what_is_needed_is_damaged(edit, photographs):
    record = edit(photographs, lambda header: header.pop("images"))
    with pytest.raises(RecordError, match=r"run\.json is damaged: it has no images"):
        render(record, "text")


def test_an_unknown_format_names_the_known_ones(photographs):
    with pytest.raises(ConfigError, match="did you mean html"):
        render(photographs, "htlm")


def test_a_report_that_cannot_be_written_leaves_no_half(photographs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot be written"):
        write("text", "text", tmp_path / "file" / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("form", ["html", "json", "text", "junit"])
def test_redacted_it_holds_no_path(edit, photographs, form):
    """Folders may be named after people."""

    def change(header):
        header["resolved"]["case"]["data"]["path"] = "./scans of Jane Doe"
        header["resolved"]["case"]["weights"] = "doe.pt"
        header["overrides"] = ["case.data.path=./scans of Jane Doe", "case.weights=doe.pt"]

    record = edit(photographs, change)
    assert "Jane" not in render(record, form, redact=True)
    assert "doe.pt" not in render(record, form, redact=True)
