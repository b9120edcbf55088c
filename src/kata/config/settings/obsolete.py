"""Tables that upstream once had. They load, and nothing comes of them."""

from kata.config.kinds import Flag, Path, Text
from kata.config.setting import Section, Setting

NO_NETMON = "changes of a pod's network are seen without a helper"
NO_SERVICE = "images come from the host"


class Netmon(Section):
    """`[netmon]`, gone in 3.0."""

    section = "netmon"

    path = Setting(Path(), "", "A program that watched the network.", ignored=NO_NETMON)
    enable_netmon = Setting(Flag(), False, "Run it.", ignored=NO_NETMON)
    enable_debug = Setting(Flag(), False, "It logs more.", ignored=NO_NETMON)


class Image(Section):
    """`[image]`, for early confidential containers."""

    section = "image"

    service_offload = Setting(Flag(), False, "The guest pulls images.", ignored=NO_SERVICE)
    provision = Setting(Text(), "", "Where it keeps them.", ignored=NO_SERVICE)
