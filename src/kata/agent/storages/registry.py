"""Which handler serves which driver of a Storage message. A new driver is one module and one line here.

Read by `table`, and by the agent to tell the host what it can do.
"""

from __future__ import annotations

from kata.agent.storages import block, memory, overlay, shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata.agent.storages.context import Handler

HANDLERS: Mapping[str, Handler] = {
    "9p": shared.handle_share,
    "bind": shared.handle_bind,
    "blk": block.handle_blk,
    "ephemeral": memory.handle_ephemeral,
    "local": memory.handle_local,
    "mmioblk": block.handle_named,
    "nvdimm": block.handle_named,
    "overlayfs": overlay.handle_overlay,
    "scsi": block.handle_scsi,
    "virtio-fs": shared.handle_share,
    "watchable-bind": shared.handle_watchable,
}
