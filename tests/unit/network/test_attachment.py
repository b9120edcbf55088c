"""What is refused before anything is opened, and messages of traffic control read back by pyroute2."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from kata.linux.rtnetlink import tc
from kata.network import models
from kata.network.attachment import Settings, attach
from kata.network.direct import find
from kata.network.endpoint import Endpoint
from kata.network.errors import ModelError, NamespaceError

ENDPOINT = Endpoint(name="eth0", index=2, mac="02:00:00:00:00:02", mtu=1500, kind="veth", flags=0)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (Settings(model="bridged"), "no network model 'bridged'"),
        (Settings(model="../../etc/passwd"), "no network model"),
        (Settings(queues=0), "0 queues"),
        (Settings(queues=257), "257 queues"),
        (Settings(rx_rate=-1), "-1 bit/s is no rate limit"),
        (Settings(tx_rate=7), "7 bit/s is no rate limit"),
    ],
)
def test_settings_that_cannot_be(settings: Settings, what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        attach("/nonexistent", ENDPOINT, settings)
    assert caught.value.hint and caught.value.layer == "config"


@pytest.mark.parametrize("name", ["tcfilter", "macvtap", "none"])
def test_every_model_is_there(name: str) -> None:
    assert callable(models.find(name))
    with pytest.raises(NamespaceError, match="cannot be entered: No such file"):
        attach("/nonexistent/ns", ENDPOINT, Settings(model=name))


def test_every_other_kind_has_its_way() -> None:
    assert all(callable(find(kind)) for kind in ("tap", "macvtap", "physical"))


def test_random_addresses() -> None:
    made = {models.random_mac() for _ in range(50)}
    assert len(made) == 50
    assert all(int(mac[:2], 16) & 3 == 2 for mac in made)  # locally administered, for one station


class Recorder:
    """In place of the netlink socket."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def request(self, kind: int, body: bytes, _flags: int = 0, *, what: str) -> None:
        self.sent.append((kind, body))


def record(method: str, *arguments: Any) -> tcmsg:
    """What pyroute2 reads in the message that a method sends."""
    control = tc.TrafficControl.__new__(tc.TrafficControl)
    recorder = Recorder()
    control._socket = recorder  # type: ignore[assignment]  # the one method that is used
    getattr(control, method)(*arguments)
    ((kind, body),) = recorder.sent
    message = tcmsg(struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body)
    message.decode()
    return message


def test_a_redirect_as_pyroute2_reads_it() -> None:
    message = record("add_redirect", 2, 9, b"kata")
    assert (message["index"], message["parent"], message["info"]) == (2, 0xFFFFFFF2, 0x0300)
    assert message.get_attr("TCA_KIND") == "u32"
    options = message.get_attr("TCA_OPTIONS")
    selector = options.get_attr("TCA_U32_SEL")
    assert (selector["flags"], selector["nkeys"]) == (1, 1)
    assert [(key["key_mask"], key["key_val"]) for key in selector["keys"]] == [(0, 0)]
    action = options.get_attr("TCA_U32_ACT").get_attr("TCA_ACT_PRIO_1")
    assert action.get_attr("TCA_ACT_KIND") == "mirred"
    parameters = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
    assert (parameters["action"], parameters["eaction"], parameters["ifindex"]) == (4, 1, 9)


@pytest.mark.parametrize("rate", [8, 10**6, 10**9, 34 * 10**9, 100 * 10**9, 10**15])
def test_a_rate_as_pyroute2_reads_it(rate: int) -> None:
    message = record("limit_rate", 2, rate, 0x6B61_0000)
    assert (message["handle"], message["parent"]) == (0x6B61_0000, 0xFFFFFFFF)
    options = message.get_attr("TCA_OPTIONS")
    parameters = options.get_attr("TCA_TBF_PARMS")
    assert parameters["rate"] == min(rate // 8, 2**32 - 1)
    assert parameters["limit"] >= tc.LEAST_BURST


def test_a_rate_or_cookie_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="no rate"):
        record("limit_rate", 2, 7, 0)
    with pytest.raises(ValueError, match="too long"):
        record("add_redirect", 2, 9, bytes(17))
