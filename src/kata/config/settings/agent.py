"""`[agent.kata]`: the guest's agent and how it is reached."""

from kata.config.kinds import I64, Encoded, Flag, Integer, Milliseconds, Seconds, Text, Words
from kata.config.setting import Section, Setting

LEVELS = "trace, debug, info, warn, error or critical"
FIXED_PORT = "the ports between host and guest are fixed"
NO_MEM_AGENT = "our guest has no memory agent; free page reporting gives memory back"
NO_HELPERS = "our guest has no helpers for confidential containers"


class Agent(Section):
    """Debugging, time limits, kernel modules."""

    section = "agent"

    enable_debug = Setting(Flag(), False, "The agent logs more.")
    log_level = Setting(
        Text("|trace|debug|info|warn|warning|error|critical|fatal|panic", LEVELS), "", f"The agent's level: {LEVELS}."
    )
    enable_tracing = Setting(
        Flag(), False, "The agent sends spans.", annotation=True, ignored="the agent sends no spans"
    )
    debug_console_enabled = Setting(
        Flag(), False, "A root shell in the guest for whoever may open its socket; for debugging only."
    )
    kernel_modules = Setting(
        Words(separator=";"),
        (),
        "Kernel modules to load in the guest, each as `name parameter=value …`; `;` separates them in an annotation.",
        annotation=True,
    )
    container_pipe_size = Setting(
        Integer(0, 2**31 - 1),
        0,
        "Bytes of the pipes of a container's streams; 0 for the kernel's own.",
        annotation=True,
    )
    dial_timeout = Setting(
        Seconds(0.001),
        90.0,
        "Seconds until the agent must have answered. Under emulation a guest may need 30.",
        aliases={"agent.reconnect_timeout_ms": Milliseconds(0.001)},
    )
    dial_timeout_ms = Setting(Integer(1), 1000, "Milliseconds that one try to reach the agent may take.")
    health_check_request_timeout_ms = Setting(Integer(1), 90000, "Milliseconds that a check of health may take.")
    request_timeout_ms = Setting(
        Integer(1), 60000, "Milliseconds that any other request may take, but those that wait for a process."
    )
    cdh_api_timeout = Setting(
        Seconds(),
        50.0,
        "Seconds for requests to the confidential data hub.",
        annotation="agent.cdh_api_timeout",
        aliases={"agent.cdh_api_timeout_ms": Milliseconds()},
        ignored=NO_HELPERS,
    )
    launch_process_timeout = Setting(
        Integer(), 6, "Seconds to wait for helper processes of the guest.", quiet=(15,), ignored=NO_HELPERS
    )
    policy = Setting(
        Encoded(lines=True),
        "",
        "A policy (Rego) for the agent, in force before the first request; base64 in an annotation.",
        annotation=True,
    )
    visible_cdi_devices = Setting(Flag(), False, "Show CDI devices of the guest to all containers.")
    server_port = Setting(Integer(), 1024, "The agent's vsock port.", ignored=FIXED_PORT)
    log_port = Setting(Integer(), 1025, "The vsock port of its log.", ignored=FIXED_PORT)
    passfd_listener_port = Setting(Integer(), 1027, "The vsock port for passed streams.", ignored=FIXED_PORT)


class MemAgent(Section):
    """`[agent.kata.mem_agent]`: what the guest does about cold memory."""

    section = "agent.mem_agent"

    mem_agent_enable = Setting(
        Flag(),
        False,
        "Look for cold memory and compact the rest.",
        aliases=("agent.mem_agent.enable",),
        ignored=NO_MEM_AGENT,
    )
    memcg_disable = Setting(Flag(), False, "Leave cold memory alone.", ignored=NO_MEM_AGENT)
    memcg_swap = Setting(Flag(), False, "Swap anonymous pages as well.", ignored=NO_MEM_AGENT)
    memcg_swappiness_max = Setting(Integer(0, 200), 50, "The highest swappiness.", ignored=NO_MEM_AGENT)
    memcg_period_secs = Setting(Integer(0, I64), 600, "Seconds between two rounds.", ignored=NO_MEM_AGENT)
    memcg_period_psi_percent_limit = Setting(Integer(0, 100), 1, "No round above this pressure.", ignored=NO_MEM_AGENT)
    memcg_eviction_psi_percent_limit = Setting(
        Integer(0, 100), 1, "A round ends above this pressure.", ignored=NO_MEM_AGENT
    )
    memcg_eviction_run_aging_count_min = Setting(
        Integer(0, I64), 3, "Rounds before pages are evicted.", ignored=NO_MEM_AGENT
    )
    compact_disable = Setting(Flag(), False, "Do not compact.", ignored=NO_MEM_AGENT)
    compact_period_secs = Setting(Integer(0, I64), 600, "Seconds between two compactions.", ignored=NO_MEM_AGENT)
    compact_period_psi_percent_limit = Setting(
        Integer(0, 100), 1, "No compaction above this pressure.", ignored=NO_MEM_AGENT
    )
    compact_psi_percent_limit = Setting(
        Integer(0, 100), 5, "A compaction ends above this pressure.", ignored=NO_MEM_AGENT
    )
    compact_sec_max = Setting(Integer(0, I64), 300, "Seconds that a compaction may take.", ignored=NO_MEM_AGENT)
    compact_order = Setting(Integer(0, 255), 9, "The order of pages wanted.", ignored=NO_MEM_AGENT)
    compact_threshold = Setting(
        Integer(0, I64), 1024, "Free pages of that order that are enough.", ignored=NO_MEM_AGENT
    )
    compact_force_times = Setting(
        Integer(0, 2**64 - 1), I64, "Compact anyway after so many skipped.", ignored=NO_MEM_AGENT
    )
