"""The servers that come with medbreach."""

from medbreach.components import Server
from medbreach.hookspecs import hookimpl
from medbreach.servers.fishing import FishingServer
from medbreach.servers.honest_but_curious import HonestServer
from medbreach.servers.imprint import MaliciousModelServer


@hookimpl
def medbreach_servers() -> list[type[Server]]:
    """Return the servers in this package."""
    return [FishingServer, HonestServer, MaliciousModelServer]
