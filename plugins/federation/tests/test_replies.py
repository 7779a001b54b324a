"""What of a client's reply counts."""

import math

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from medbreach.errors import ContractError
from medbreach_federation.client import ARRAYS, MEASURES, RECORDS
from medbreach_federation.strategy import usable

SENT = {"w": torch.zeros(3), "n": torch.tensor(3)}


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Let messages be made where no federation runs."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def question():
    return Message(RecordDict({}), dst_node_id=1, message_type="train")


def reply(weights=None, **content):
    usual = {
        ARRAYS: ArrayRecord(dict(SENT if weights is None else weights)),
        MEASURES: MetricRecord({RECORDS: 7.0, "loss": 0.5}),
    }
    kept = {name: record for name, record in {**usual, **content}.items() if record is not None}
    return Message(RecordDict(kept), reply_to=question())


def records(number):
    return {MEASURES: MetricRecord({RECORDS: number})}


def test_a_reply_is_a_result():
    result = usable(reply(), SENT)
    assert result.records == 7
    assert result.measures == {"loss": 0.5}
    assert torch.equal(result.weights["w"], SENT["w"])


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (records(math.nan), "records must be a positive number up to 1000000000, got nan"),
        (records(math.inf), "records must be a positive number"),
        (records(-3.0), "records must be a positive number"),
        (records(0.0), "records must be a positive number"),
        (records(1e300), "records must be a positive number"),
        (records([1.0, 2.0]), "no weights and measures"),
        ({MEASURES: MetricRecord({"loss": 1.0})}, "did not say how many records"),
        ({MEASURES: None}, "no weights and measures"),
        ({ARRAYS: None}, "no weights and measures"),
        ({ARRAYS: ConfigRecord({"a": 1})}, "no weights and measures"),
        ({"weights": {**SENT, "w": torch.zeros(3).double()}},
         "w as torch.float64 instead of torch.float32"),
        ({"weights": {**SENT, "n": torch.tensor(3.0)}},
         "n as torch.float32 instead of torch.int64"),
        ({"weights": {**SENT, "w": torch.full((3,), torch.inf)}}, "not finite"),
    ],
)  # fmt: skip
def test_replies_that_do_not_count_say_why(sent, words):
    with pytest.raises(ContractError, match=words):
        usable(reply(**sent), SENT)


def test_none_in_time_and_errors_say_why():
    with pytest.raises(ContractError, match=r"^it did not answer in time$"):
        usable(None, SENT)
    for code, words in (
        (ErrorCode.NODE_UNAVAILABLE, "^its process died, twice$"),
        (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "^it failed: its process died, twice$"),
    ):
        with pytest.raises(ContractError, match=words):
            usable(Message(Error(code, "its process died, twice"), reply_to=question()), SENT)
