"""Keeps a running guest's interfaces as its pod's are: what comes is plugged in, what goes is taken away.

Made by `podnetwork` once the guest has what was there at its start. One thread does all of it and waits for the kernel
in between. What fails is a line in the log and no more: containers run by now. An interface that was refused is looked
at again when it has gone and come back.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kata.errors import KataError
from kata.network import to_guest
from kata.network.watch import Watch, changes, key
from kata.protocol.generated import agent_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kata.hypervisor.machine import Machine, TapNic
    from kata.log import Logger
    from kata.network.attachment import Attachment
    from kata.network.endpoint import Endpoint
    from kata.sandbox.agent_client import AgentClient

CATCH_UP_TIMEOUT = 10.0
"""Seconds that a container's start waits for a network that is just coming; a NIC takes a second under emulation."""
STOP_TIMEOUT = 2.0
"""Seconds that a stop waits for the thread, which may be in a call to a guest that answers no more."""
CLOSE_TIMEOUT = 10.0


class Joined:
    """An endpoint as it was found, as its guest has it (None: not at all), and what undoes that."""

    def __init__(self, found: Endpoint, told: Endpoint | None = None) -> None:
        self.found = found
        self.told = told
        self.undo = ExitStack()


class LateNetwork:
    """The interfaces of one pod from the guest's boot on.

    `joined` are those that the machine was started with, as they were found and joined; whoever joined them undoes it
    in the end. `attach` joins another one, and says which NIC it needs.
    """

    def __init__(
        self,
        netns: str,
        joined: Iterable[tuple[Endpoint, Attachment]],
        attach: Callable[[Endpoint], tuple[Attachment, TapNic | None]],
        machine: Machine,
        agent: AgentClient,
        log: Logger,
    ) -> None:
        self._known: dict[tuple[int, str], Joined] = {}
        self._attach = attach
        self._machine = machine
        self._agent = agent
        self._log = log
        self._turn = threading.Condition()
        self._asked = self._answered = 0
        self._stopping = False
        self._said = ""
        for found, attachment in joined:
            self._known[key(found)] = self._first(found, attachment)
        self._watch = Watch(netns)
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def catch_up(self, timeout: float = CATCH_UP_TIMEOUT) -> bool:
        """Return once the guest has what the namespace has now: 2 ms where nothing is new. Whether it has in time."""
        with self._turn:
            self._asked += 1
            mine = self._asked
        self._watch.wake()
        with self._turn:
            return self._turn.wait_for(lambda: self._answered >= mine or self._stopping, timeout)

    def stop(self) -> None:
        """Follow no more. What was plugged in stays until `close`. Idempotent."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        self._watch.wake()
        self._thread.join(STOP_TIMEOUT)

    def close(self) -> None:
        """Undo what came late, once the machine is gone: a call that held the thread has failed by then."""
        self.stop()
        self._thread.join(CLOSE_TIMEOUT)
        for entry in list(self._known.values()):
            self._undo(entry)

    def _run(self) -> None:
        try:
            with self._watch:
                while not self._stopping:
                    self._turn_over()
        except KataError as error:
            self._complain("the pod's network is followed no more", error)
        with self._turn:
            self._stopping = True
            self._turn.notify_all()

    def _turn_over(self) -> None:
        """One look at the namespace with all that follows, and the wait for a reason for another one."""
        with self._turn:
            mine = self._asked
        try:
            self._follow()
        except KataError as error:
            self._complain("the pod's network cannot be followed", error)
        with self._turn:
            self._answered = mine
            self._turn.notify_all()
            again = self._asked > mine  # its wake may have been taken for a change
        if not again:
            self._watch.wait()

    def _follow(self) -> None:
        if not changes(self._endpoints(), self._watch.look()):
            self._said = ""
            return
        self._watch.settle()
        found = changes(self._endpoints(), self._watch.look())
        for endpoint in found.removed:
            self._log.info("an interface of the pod has gone", interface=endpoint.name)
            self._undo(self._known.pop(key(endpoint)))
        for endpoint in (*found.added, *found.changed):
            if not self._stopping:
                self._bring(endpoint)

    def _bring(self, endpoint: Endpoint) -> None:
        """Have the guest have it. One that was refused is known from then on, so nobody tries at every change."""
        entry = self._known.setdefault(key(endpoint), Joined(endpoint))
        is_new, entry.found = entry.found is endpoint, endpoint
        try:
            if is_new:
                self._join(entry)
            elif entry.told is not None:
                entry.told = replace(entry.told, addresses=endpoint.addresses, routes=endpoint.routes)
                self._tell(entry.told)
        except KataError as error:
            self._complain(f"the interface {endpoint.name!r} does not reach the guest as it is", error)

    def _join(self, entry: Joined) -> None:
        with ExitStack() as undo:
            attachment, nic = self._attach(entry.found)
            undo.callback(attachment.close)
            if nic is not None:
                path = self._machine.add_nic(nic)
                undo.callback(self._remove_nic, nic.mac)
                attachment.hand_over()
                entry.told = attachment.endpoint
                undo.callback(setattr, entry, "told", None)
                self._tell(entry.told, path)
                self._log.info("an interface came to the guest", interface=entry.found.name)
            entry.undo = undo.pop_all()

    def _first(self, found: Endpoint, attachment: Attachment) -> Joined:
        """One from the start. Its NIC stays in the machine when it goes, so the guest is told that it has no use."""
        entry = Joined(found, attachment.endpoint)
        entry.undo.callback(attachment.close)
        entry.undo.callback(self._idle, attachment.endpoint)
        entry.undo.callback(self._remove_nic, attachment.endpoint.mac)
        return entry

    def _tell(self, endpoint: Endpoint, path: str = "") -> None:
        """Routes of all interfaces: of several to one destination the best is told, whosever it is."""
        if self._stopping:
            return
        interface = to_guest.interface(endpoint)
        interface.devicePath = path
        self._agent.update_interface(agent_pb2.UpdateInterfaceRequest(interface=interface))
        told = [entry.told for entry in self._known.values() if entry.told is not None]
        if routes := to_guest.routes(told):
            self._agent.update_routes(agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=routes)))
        if neighbours := to_guest.neighbours([endpoint]):
            self._agent.add_neighbours(agent_pb2.ARPNeighbors(ARPNeighbors=neighbours))

    def _idle(self, endpoint: Endpoint) -> None:
        """Take addresses, and so routes, from an interface of the guest."""
        if not self._stopping:
            interface = to_guest.interface(replace(endpoint, addresses=()))
            self._agent.update_interface(agent_pb2.UpdateInterfaceRequest(interface=interface))

    def _undo(self, entry: Joined) -> None:
        try:
            entry.undo.close()
        except KataError as error:
            self._complain(f"the interface {entry.found.name!r} could not be freed", error)

    def _remove_nic(self, mac: str) -> None:
        if self._stopping:
            return
        with suppress(KataError):  # a guest may hold on: the tap is freed all the same
            self._machine.remove_nic(mac)

    def _endpoints(self) -> list[Endpoint]:
        return [entry.found for entry in self._known.values()]

    def _complain(self, what: str, error: KataError) -> None:
        """Once, however often the same goes wrong."""
        if self._said != error.what and not self._stopping:
            self._log.error(what, error=error, hint=error.hint)
        self._said = error.what
