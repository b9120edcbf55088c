"""The project's version: one number for runtime, agent and tools, so that they can be told apart on the wire."""

__version__ = "0.1.0"
