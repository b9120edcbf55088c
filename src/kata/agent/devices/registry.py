"""Which handler serves which type of Device message. A new type is one module and one line here.

Read by `batch`, and by the agent to tell the host what it can do.
"""

from __future__ import annotations

from kata.agent.devices import ap, blk, ccw, mmioblk, nvdimm, scsi, vfio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata.agent.devices.context import Handler

HANDLERS: Mapping[str, Handler] = {
    "blk": blk.handle,
    "blk-ccw": ccw.handle,
    "mmioblk": mmioblk.handle,
    "nvdimm": nvdimm.handle,
    "scsi": scsi.handle,
    "vfio-ap": ap.handle,
    "vfio-ap-cold": ap.handle,
    "vfio-pci": vfio.handle,
    "vfio-pci-gk": vfio.handle_guest_kernel,
    # the names that runtimes before 3.1 use
    "vfio": vfio.handle,
    "vfio-gk": vfio.handle_guest_kernel,
}
