"""Network interfaces."""

from kata.config.kinds import I64, Flag, Integer
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable

CLH_LIMITS = "rx_rate_limiter_max_rate and tx_rate_limiter_max_rate are the limits"


class Network(HypervisorTable):
    """How a NIC is made, and how fast it may be."""

    disable_vhost_net = Setting(
        Flag(), False, "Leave packets to the VMM, even where the host has vhost-net.", annotation=True
    )
    network_queues = Setting(Integer(0, 256), 0, "Queue pairs of a NIC; 0 for one for each CPU.", annotation=True)
    rx_rate_limiter_max_rate = Setting(
        Integer(0, I64), 0, "Bits a second into the VM; 0 for no limit.", annotation=True
    )
    tx_rate_limiter_max_rate = Setting(
        Integer(0, I64), 0, "Bits a second out of the VM; 0 for no limit.", annotation=True
    )
    net_rate_limiter_bw_max_rate = Setting(Integer(0, I64), 0, "Bits a second.", ignored=CLH_LIMITS)
    net_rate_limiter_bw_one_time_burst = Setting(Integer(0, I64), 0, "Bits beyond that, once.", ignored=CLH_LIMITS)
    net_rate_limiter_ops_max_rate = Setting(Integer(0, I64), 0, "Packets a second.", ignored=CLH_LIMITS)
    net_rate_limiter_ops_one_time_burst = Setting(Integer(0, I64), 0, "Packets beyond that, once.", ignored=CLH_LIMITS)
