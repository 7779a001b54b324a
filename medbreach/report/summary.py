"""What every report says, whatever its format."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from medbreach.conclusion import Conclusion, conclude
from medbreach.errors import RecordError
from medbreach.plan import is_adaptive
from medbreach.protocol import User
from medbreach.record import HEADER, Line, RunRecord
from medbreach.report.phrasing import sentence
from medbreach.settings import build
from medbreach.types import Guarantee, Role

FEW_DECOYS: Final = 19  # with fewer, luck identifies more than one record in twenty
_NEEDED: Final = ("created", "overrides", "resolved", "attempts", "images", "device", "software")


class Summary(NamedTuple):
    """A run, read once.

    Attributes:
        header: What was asked for and with what software.
        lines: The findings.
        conclusion: What they say together.
        missing: Ids of the attempts that have no finding yet.
    """

    header: Mapping[str, Any]
    lines: list[Line]
    conclusion: Conclusion
    missing: tuple[str, ...]

    @property
    def resolved(self) -> Mapping[str, Any]:
        """Every setting, defaults included."""
        found: Mapping[str, Any] = self.header["resolved"]
        return found


def summarise(record: RunRecord, *, redact: bool = False) -> Summary:
    """Read a run.

    Args:
        record: The run.
        redact: Leave the paths of images and weights out: folders may be named after people.

    Raises:
        RecordError: It is damaged.
    """
    header, lines = record.header(), record.lines()
    absent = [key for key in _NEEDED if key not in header]
    if absent:
        raise RecordError(f"{record.folder / HEADER} is damaged: it has no {', '.join(absent)}")
    if redact:
        header = _without_paths(header)
    done = {line.id for line in lines}
    missing = tuple(attempt for attempt in header["attempts"] if attempt not in done)
    alpha = header["resolved"]["audit"]["alpha"]
    conclusion = conclude([x.finding for x in lines], header["attempts"], alpha)
    return Summary(header, lines, conclusion, missing)


def _without_paths(header: dict[str, Any]) -> dict[str, Any]:
    case = header["resolved"]["case"]
    paths = [path for path in (case["data"].get("path"), case["weights"]) if path]

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: masked(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [masked(inner) for inner in value]
        key, equals, _ = value.partition("=") if isinstance(value, str) else ("", "", "")
        if equals and key.endswith((".path", ".weights")):
            return f"{key}=(left out)"
        return "(left out)" if value in paths else value

    redacted: dict[str, Any] = masked(header)
    return redacted


def full_threat_model(summary: Summary) -> dict[str, str]:
    """Return the threat model, and what differential privacy the defenses give."""
    words = threat_model(summary.resolved)
    given = {
        (finding.defenses, guarantee): None
        for finding in (line.finding for line in summary.lines)
        for guarantee in finding.guarantees
    }
    if given:
        words["Differential privacy"] = " ".join(
            f"{' + '.join(defenses)}: {_guarantee_words(g)}" for defenses, g in given
        )
    adaptive = any(is_adaptive(line.finding.attack) for line in summary.lines)
    if adaptive:
        words["What attackers know of the defenses"] = (
            "Attacks marked (adaptive) know them and their settings; the others do not. The worse "
            "of the two decides."
        )
    return words


def _guarantee_words(given: Guarantee) -> str:
    rounds = _counted(given.rounds, "round", "rounds")
    return (
        f"epsilon {given.epsilon:.3g} at delta {given.delta:g} for one {given.unit} "
        f"({given.adjacency}) over {rounds}. {sentence(given.how)}"
    )


def threat_model(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Return who can do what in a case, in plain words: sentences by what they are about."""
    case = resolved["case"]
    user, server = case["user"], case["server"]
    return {
        "Server": _server_words(server),
        "Clients": _clients_words(user),
        "What is sent": _update_words(user),
        "What else the server knows": _knowledge_words(user, server),
        "Protection": _protection_words(user, resolved["stacks"]),
    }


def decoys(summary: Summary) -> tuple[int, int]:
    """Return how many decoys a record has in this run, at least and at most."""
    found = [
        count
        for line in summary.lines
        for _, count in line.finding.pools
        if line.finding.role is not Role.SOLVABLE
    ]
    found = found or [summary.header["images"]["decoys"]]
    return min(found), max(found)


def limits(summary: Summary) -> list[str]:
    """Return what the findings do not show, a sentence each."""
    images = summary.header["images"]
    found = [
        "An audit shows what these attacks found; a stronger or luckier attack may find more. "
        "No leak found is not a proof of privacy.",
        f"Decoys are images of other {images['patients_are']}, from the same data set"
        f"{' and of the same class' if images['labelled'] else ''}. Identification among them is "
        "not identification in the world.",
    ]
    if images["note"]:
        found.append(sentence(images["note"]))
    if not images["labelled"]:
        found.append("The data set has no labels; classes were made up at random.")
    fewest, _ = decoys(summary)
    if fewest < FEW_DECOYS:
        found.append(
            f"With {fewest} decoys, chance identifies one record in {fewest + 1}: more images "
            "would make the audit sharper."
        )
    absent = set(summary.resolved["audit"]["metrics"]) - {
        name for line in summary.lines for name in line.finding.scores
    }
    if absent:
        found.append(f"Not computed here: {', '.join(sorted(absent))}.")
    return found


def _server_words(server: Mapping[str, Any]) -> str:
    planted = server.get("model_modification")
    if isinstance(planted, Mapping):
        rows = f" with {planted['num_bins']} rows" if "num_bins" in planted else ""
        words = (
            "Malicious. Before it sends the network out, it plants a layer in it "
            f"({planted.get('type', 'of an unknown type')}{rows}), so that updates give away "
            "single records."
        )
    elif server["name"] == "honest_but_curious":
        words = (
            "Honest but curious. It sends the agreed network and follows the protocol, but tries "
            "to see patients' images in what it receives."
        )
    else:
        words = f"Of the kind {server['name']}, with the settings below."
    queries = int(server.get("num_queries", 1))
    return f"{words} It asks {queries} times about the same records." if queries > 1 else words


def _clients_words(user: Mapping[str, Any]) -> str:
    records = user["num_data_points"]
    each = f"{records} private record{'s' * (records != 1)}"
    if user["user_type"] != "multiuser_aggregate":
        return f"One client trains on {each}."
    first, last = user["user_range"]
    seen = (
        "sees only the exact mean of their updates, as secure aggregation gives it"
        if user["aggregation"] == "secure"
        else "sees each client's update"
    )
    return f"{last - first} clients train on {each} each. The server {seen}."


def _update_words(user: Mapping[str, Any]) -> str:
    recipe = build(User, user, "case.user").recipe
    if recipe is None:
        return (
            "The gradient of one batch: for each weight of the network, how it would have to "
            "change to fit the client's records."
        )
    epochs = user["num_local_epochs"]
    if epochs:
        how = f"{_counted(epochs, 'pass', 'passes')} over the client's records, in batches"
    else:
        how = f"{_counted(recipe.steps, 'step', 'steps')} of local training, each on a batch"
    return (
        f"How the client's weights changed: {how} of {recipe.records_per_step} at learning rate "
        f"{recipe.lr:g}."
    )


def _knowledge_words(user: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    told = [
        words
        for key, words in (
            ("provide_num_data_points", "the number of records"),
            ("provide_labels", "their labels"),
            ("provide_buffers", "the statistics of the client's normalisation layers"),
            ("provide_local_hyperparams", "how the client trained"),
        )
        if user[key]
    ]
    besides = f"Clients also tell it {_listed(told)}." if told else "Clients tell it nothing else."
    mode = (
        "Normalisation layers, if there are any, use statistics that the server sends."
        if server["provide_public_buffers"]
        else "Normalisation layers, if there are any, use the statistics of the client's own batch."
    )
    holds = " It holds public images of others." * server["has_external_data"]
    return f"{besides} {mode}{holds}"


def _protection_words(user: Mapping[str, Any], stacks: Mapping[str, Any]) -> str:
    noise = user["local_diff_privacy"]
    own = [
        f"{words} {noise[key]:g}"
        for key, words in (
            ("per_example_clipping", "clips each record's gradient to the norm"),
            ("gradient_noise", f"adds {noise['distribution']} noise to the gradient, of scale"),
            ("input_noise", f"adds {noise['distribution']} noise to the images, of scale"),
        )
        if noise[key] > 0
    ]
    named = [name for name, stack in stacks.items() if stack]
    sentences = [f"The client {_listed(own)}."] if own else []
    if named:
        sentences.append(f"Defenses tried: {', '.join(named)}.")
    return " ".join(sentences) or "None: updates are sent as they are."


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _listed(words: list[str]) -> str:
    """Return words as a list in a sentence.

    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
