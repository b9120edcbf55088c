"""rtnetlink with what only the host needs: making links, and traffic control.

Called by the network room. The guest's agent uses `Rtnetlink` and never imports this.
"""

from __future__ import annotations

from kata.linux.rtnetlink import Rtnetlink
from kata.linux.rtnetlink.newlinks import NewLinks
from kata.linux.rtnetlink.tc import TrafficControl


class HostNetlink(NewLinks, TrafficControl, Rtnetlink):
    """rtnetlink of the namespace that the calling thread is in when this is made. See `Rtnetlink`."""
