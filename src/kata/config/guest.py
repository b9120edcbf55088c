"""What of the configuration goes on the guest kernel's command line: the agent's options, then the user's words."""

from __future__ import annotations

from kata.config.model import Config
from kata.config.values import kernel_words


def kernel_params(config: Config) -> tuple[str, ...]:
    """Words for the end of the command line. The user's come last: of an option given twice, the last one holds."""
    return (*agent_params(config), *kernel_words(config.hypervisor.kernel_params))


def agent_params(config: Config) -> tuple[str, ...]:
    """The agent's options (protocol facts, section 7). What is at its default is not said.

    The debug console's come from the machine's driver, which knows where it is.
    """
    agent = config.agent
    level = agent.log_level or ("debug" if agent.enable_debug else "")
    words = [
        f"agent.log={level}" if level else "",
        f"agent.container_pipe_size={agent.container_pipe_size}" if agent.container_pipe_size else "",
        "agent.visible_cdi_devices=true" if agent.visible_cdi_devices else "",
        "debug" if config.hypervisor.enable_debug else "",  # after the driver's `quiet`: the last of the two holds
    ]
    return tuple(word for word in words if word)
