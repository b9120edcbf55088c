"""The agent's start: as the guest's first process, or (with --server-addr) as a service for tests on a host.

As PID 1 it must never end by itself: that panics the kernel. Whatever goes wrong is written to the console,
then the VM is powered off. Nothing but starting and ending belongs here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from kata.agent.config import Config, parse_cmdline, with_environment, without_effect
from kata.agent.errors import AgentError, ConfigError
from kata.agent.sandbox import Limits, Sandbox
from kata.agent.service import AgentService, Health, guard, to_status
from kata.errors import KataError
from kata.linux import syscalls
from kata.linux.fds import read_text
from kata.linux.reaper import Reaper
from kata.log import Logger
from kata.protocol.server import Server
from kata.protocol.transport import listen
from kata.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from kata.agent.policy import Policy

DEFAULT_POLICY = "/etc/kata-opa/default-policy.rego"
"""The image's own policy, if it has one."""
USAGE = """usage: kata-agent [--version] [[--server ADDRESS] [--config FILE] [--log-level LEVEL] [--no-cgroups]
[--no-device-rules]]

Without arguments the agent is the first process of a guest. With --server (or --server-addr) it serves on a host, for
tests: it mounts nothing at start. --no-cgroups is for hosts without a usable cgroup v2 (crun makes no cgroups
then), --no-device-rules for hosts without CAP_SYS_RESOURCE. --config (or -c) is a TOML file with the settings.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; the exit code. As PID 1 without --server-addr it does not return."""
    given = sys.argv[1:] if argv is None else argv
    arguments = [{"--server": "--server-addr", "-c": "--config"}.get(word, word) for word in given]
    if "--version" in arguments:
        print(f"kata-agent {__version__}")
        return 0
    if os.getpid() == 1 and not {"--server-addr", "--config"} & set(arguments):
        run_as_init()
    return run_as_service(arguments)


def run_as_init() -> None:
    """Boot, serve until told to end, power off."""
    try:
        from kata.agent import init, ports

        init.set_up()
        config = configure(parse_cmdline(read_text("/proc/cmdline")))
        init.mount_cgroups(unified=config.unified_cgroup_hierarchy)
        serve(config, config.server_addr or ports.channel(), Limits(), in_guest=True)
    except KataError as error:
        say(f"{error.what}. {error.hint}")
    except BaseException:  # noqa: BLE001 - the first process has nobody to hand an error to
        sys.__excepthook__(*sys.exc_info())
    finally:
        power_off()


def run_as_service(arguments: Sequence[str]) -> int:
    """Serve on a host until SIGTERM or DestroySandbox; 2 for arguments that make no sense."""
    values = option_values(arguments)
    if not values.keys() & {"--server-addr", "--config"} or any(word in ("-h", "--help") for word in arguments):
        say(USAGE)
        return 0 if "--help" in arguments or "-h" in arguments else 2
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    limits = Limits("--no-cgroups" not in arguments, "--no-device-rules" not in arguments)
    try:
        config = configure(Config(log=values.get("--log-level", "info"), config_file=values.get("--config", "")))
        address = values.get("--server-addr", config.server_addr)
        if not address:
            raise ConfigError("there is no address to serve on", hint="give --server, or server_addr in the file")
        serve(config, address, limits)
    except KataError as error:
        say(f"{error.what}. {error.hint}")
        return 1
    return 0


def option_values(arguments: Sequence[str]) -> dict[str, str]:
    """Every argument with the one behind it."""
    return {word: arguments[index + 1] for index, word in enumerate(arguments[:-1])}


def configure(config: Config) -> Config:
    """The settings of the file that `config` names, if it does, else `config`; then those of the environment.

    Raises ConfigError.
    """
    if config.config_file:
        from kata.agent import config_file

        config = config_file.load(config.config_file)
    return with_environment(config, os.environ)


def first_policy(config: Config) -> Policy | None:
    """The policy from the start; None when there is none. Raises ConfigError for one that cannot be had."""
    path = config.policy_file or DEFAULT_POLICY
    if config.allowed is None and not config.policy_file and not os.path.exists(path):
        return None
    from kata.agent import policy

    if config.allowed is not None and not config.policy_file:
        return policy.Policy(dict.fromkeys(config.allowed, True), otherwise=False)
    try:
        return policy.load(path)
    except (OSError, KataError) as error:
        raise ConfigError(f"the policy {path} cannot be used: {error}") from error


def serve(config: Config, address: str, limits: Limits, *, in_guest: bool = False) -> None:
    """Serve on `address` until a signal or DestroySandbox says to end."""
    policy = first_policy(config)
    stop = threading.Event()
    reaper = Reaper()
    reaper.on_signal = lambda signo: stop.set()
    for signo in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signo, _wake_reaper)
    log = Logger(2, level=config.log, name="kata-agent")
    if config.log_vport:
        stream_log(config, log)
    sandbox = Sandbox(config, reaper, log, shut_down=stop.set, limits=limits)
    sandbox.policy = policy
    for name in config.unknown:
        log.warn("an unknown setting is ignored", setting=name)
    for name in without_effect(config):
        log.info("a setting has no effect in this agent", setting=name)
    services = {"grpc.AgentService": AgentService(sandbox), "grpc.Health": Health()}
    server = Server(services, to_status, authorize=guard(sandbox))
    listener = listen(address)
    thread = threading.Thread(target=server.serve, args=(listener,), name="server", daemon=True)
    thread.start()
    log.info("serving", version=__version__, address=address, pid=os.getpid())
    if config.mem_agent_enable:
        start_memory_agent(sandbox)
    if config.debug_console:
        open_debug_console(config, reaper, log, serial=in_guest)
    stop.wait()
    log.info("ending")
    server.close()  # the request that ends us still gets its answer
    reaper.close()


def stream_log(config: Config, log: Logger) -> None:
    """Have the log's records, from the first one on, go to the host as well."""
    from kata.agent import logstream, ports

    stream = logstream.LogStream(
        lambda: ports.find(ports.LOG, config.log_vport, ports.STREAM_TIMEOUT), version=__version__
    )
    log.forward = stream.put
    stream.start()


def open_debug_console(config: Config, reaper: Reaper, log: Logger, *, serial: bool) -> None:
    """Serve shells to the host; `serial` allows one on the serial console where there is no port for it."""
    from kata.agent import debug, ports

    def find() -> str:
        return ports.find(ports.DEBUG, config.debug_console_vport, ports.STREAM_TIMEOUT)

    debug.DebugConsole(reaper, log, find, serial=serial).start()


def start_memory_agent(sandbox: Sandbox) -> None:
    """Have memory given back while the guest runs. A kernel that cannot do it is no reason not to serve."""
    from kata.agent import memagent

    try:
        made = memagent.for_guest(sandbox.config, sandbox.reaper, sandbox.cgroups, sandbox.log)
    except AgentError as error:
        sandbox.log.warn("no memory agent", error=error, hint=error.hint)
        sandbox.no_memory_agent = error
        return
    made.start()
    sandbox.memory_agent = made


def say(text: str) -> None:
    """Write to the console, or standard error."""
    os.write(2, f"kata-agent: {text.rstrip()}\n".encode("utf-8", "backslashreplace"))


def power_off() -> None:
    """End the VM: what is written reaches the disks, then the power goes."""
    os.sync()
    syscalls.reboot(syscalls.RB_POWER_OFF)
    signal.pause()  # an emergency net: PID 1 must not return even where no power can be switched off


def _wake_reaper(signo: int, frame: FrameType | None) -> None:
    """The reaper's thread hears of it through the wakeup descriptor and calls `on_signal`."""


if __name__ == "__main__":
    sys.exit(main())
