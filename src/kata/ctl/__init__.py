"""The `kata` command: argument parsing, output, and nothing that another front end would need too."""
