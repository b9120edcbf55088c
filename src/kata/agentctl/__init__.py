"""`kata-agent-ctl`: every request of the agent's API from a command line, a script or a prompt.

A front end beside `kata.ctl`, for people who develop or debug an agent. It knows no request by name beyond the
short names of `rpcs`: messages are built and shown by their descriptors, so a request that is added to
`protos/agent.proto` can be made at once. Never import the agent here; it is at the other end of a connection.

    rpcs        the requests there are, by name
    arguments   words of a command line into a request
    targets     where requests go: an address, or the process that holds a sandbox
    session     one command: a request or a built-in; variables and defaults
    script      lines of commands, from a file or a prompt
    output      replies and errors as text; helptext  what can be asked for
"""
