"""The OCI runtime specification: its JSON as types, and its form on the agent's wire."""
