"""Which handler serves which type of Device message. A new type is one module and one line here.

Read by `batch`, and by the agent to tell the host what it can do.
"""

from __future__ import annotations

from kata.agent.devices import blk, mmioblk, nvdimm, scsi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata.agent.devices.context import Handler

HANDLERS: Mapping[str, Handler] = {
    "blk": blk.handle,
    "mmioblk": mmioblk.handle,
    "nvdimm": nvdimm.handle,
    "scsi": scsi.handle,
}
