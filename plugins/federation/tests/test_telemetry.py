"""Nothing is sent to anybody unless the user asks for it."""

import os
import subprocess
import sys

import pytest

TELL = (
    "import {first}; import {second}; from flwr.supercore import telemetry; "
    "from medbreach_federation.engine import quiet\n"
    "telemetry.urllib.request.urlopen = lambda *a, **k: print('sent') or exit()\n"
    "with quiet(): print(telemetry.create_event(telemetry.EventType.PING, None))"
)


@pytest.mark.parametrize(
    ("modules", "asked", "said"),
    [
        (("medbreach_federation", "flwr.simulation"), None, "disabled"),
        (("flwr.simulation", "medbreach_federation"), None, "disabled"),
        (("medbreach_federation", "flwr.simulation"), "1", "sent"),
    ],
)
def test_flower_sends_nothing_unless_it_is_asked_to(modules, asked, said, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "FLWR_TELEMETRY_ENABLED"}
    environment |= {"FLWR_HOME": str(tmp_path)}
    if asked is not None:
        environment["FLWR_TELEMETRY_ENABLED"] = asked
    code = TELL.format(first=modules[0], second=modules[1])
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == said
