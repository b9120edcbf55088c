"""One module a subcommand: `HELP`, `configure(parser)`, `execute(args) -> exit code`. Heavy imports go inside."""
