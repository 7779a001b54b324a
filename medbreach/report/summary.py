"""What every report says, whatever its format."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from medbreach.conclusion import Conclusion, conclude
from medbreach.record import Line, RunRecord


class Summary(NamedTuple):
    """A run, read once.

    Attributes:
        header: What was asked for and with what software.
        lines: The findings.
        conclusion: What they say together.
        missing: Number of attempts without a finding.
    """

    header: Mapping[str, Any]
    lines: list[Line]
    conclusion: Conclusion
    missing: int

    @property
    def resolved(self) -> Mapping[str, Any]:
        """Every setting, defaults included."""
        found: Mapping[str, Any] = self.header["resolved"]
        return found


def summarise(record: RunRecord) -> Summary:
    """Read a run.

    Raises:
        RecordError: It is damaged.
    """
    header, lines = record.header(), record.lines()
    missing = len(header["attempts"]) - len(lines)
    alpha = header["resolved"]["audit"]["alpha"]
    return Summary(header, lines, conclude([x.finding for x in lines], missing, alpha), missing)


def threat_model(resolved: Mapping[str, Any]) -> list[str]:
    """Return who can do what in a case, in plain words, a sentence each."""
    case = resolved["case"]
    user, server = case["user"], case["server"]
    return [
        _server_sentence(server),
        _clients_sentence(user),
        _update_sentence(user),
        _reveal_sentence(user, server),
        _protection_sentence(user, resolved["stacks"]),
    ]


def limits(summary: Summary) -> list[str]:
    """Return what the findings do not show, a sentence each."""
    images = summary.header["images"]
    found = [
        "An audit shows what these attacks found; a stronger or luckier attack may find more. "
        "No leak found is not a proof of privacy.",
        f"Look-alikes are {images['decoys']} records of other patients of the same data set. "
        "Identification among them is not identification in the world.",
    ]
    if images["note"]:
        found.append(images["note"])
    if not images["labelled"]:
        found.append("The data set has no labels; classes were made up at random.")
    if images["decoys"] < 19:
        found.append(
            f"With {images['decoys']} look-alikes, chance identifies one record in "
            f"{images['decoys'] + 1}: more images would make the audit sharper."
        )
    absent = set(summary.resolved["audit"]["metrics"]) - {
        name for line in summary.lines for name in line.finding.scores
    }
    if absent:
        found.append(f"Not computed here: {', '.join(sorted(absent))}.")
    return found


def _server_sentence(server: Mapping[str, Any]) -> str:
    change = server.get("model_modification")
    if change:
        return (
            f"The server is malicious: it changes the network before it sends it out "
            f"({change['type']}, {change['num_bins']} rows)."
        )
    if server["name"] == "honest_but_curious":
        return "The server is honest but curious: it sends the agreed network and looks at updates."
    return f"The server is {server['name']}."


def _clients_sentence(user: Mapping[str, Any]) -> str:
    records = user["num_data_points"]
    each = f"{records} record{'s' if records != 1 else ''}"
    if user["user_type"] != "multiuser_aggregate":
        return f"One client takes part, with {each}."
    first, last = user["user_range"]
    seen = (
        "only the mean of their updates, as secure aggregation gives it"
        if user["aggregation"] == "secure"
        else "each client's update"
    )
    return f"{last - first} clients take part, with {each} each; the server sees {seen}."


def _update_sentence(user: Mapping[str, Any]) -> str:
    steps, epochs = user["num_local_updates"], user["num_local_epochs"]
    single = user["user_type"] == "local_gradient" or (
        user["user_type"] == "multiuser_aggregate" and steps == 1 and epochs is None
    )
    if single:
        return "What is sent is the gradient of one batch."
    how = f"{epochs} local epochs" if epochs else f"{steps} local steps"
    per_step = user["num_data_per_local_update_step"] or user["num_data_points"]
    return (
        f"What is sent is the change of weights after {how} of {per_step} records at learning rate "
        f"{user['local_learning_rate']:g}."
    )


def _reveal_sentence(user: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    told = [
        words
        for key, words in (
            ("provide_num_data_points", "the number of records"),
            ("provide_labels", "their labels"),
            ("provide_buffers", "batch statistics"),
            ("provide_local_hyperparams", "how the client trained"),
        )
        if user[key]
    ]
    mode = (
        "Clients use the running statistics that the server sends."
        if server["provide_public_buffers"]
        else "Clients train with the statistics of their own batch."
    )
    besides = f"The server is also told {', '.join(told)}." if told else "Nothing else is told."
    holds = " The attacker holds public images of other people." * server["has_external_data"]
    return f"{besides} {mode}{holds}"


def _protection_sentence(user: Mapping[str, Any], stacks: Mapping[str, Any]) -> str:
    noise = user["local_diff_privacy"]
    own = [
        words
        for key, words in (
            ("per_example_clipping", "clips each example's gradient to"),
            ("gradient_noise", f"adds {noise['distribution']} gradient noise of scale"),
            ("input_noise", f"adds {noise['distribution']} input noise of scale"),
        )
        if noise[key] > 0
        for words in [f"{words} {noise[key]:g}"]
    ]
    named = sorted({d["name"] for stack in stacks.values() for d in stack})
    sentences = [f"The client {' and '.join(own)}."] if own else []
    if named:
        sentences.append(f"Defenses tried: {', '.join(named)}.")
    return " ".join(sentences) or "Nothing is done against leakage."
