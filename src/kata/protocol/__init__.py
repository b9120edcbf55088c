"""The wire: protobuf messages and ttrpc, the small RPC protocol of containerd and Kata Containers.

This package can be used alone. It needs the `protobuf` wheel and Python's standard library; it uses threads and
blocking I/O, and it knows nothing of containers but the message definitions in `generated/`.

A client::

    from kata.protocol.client import Client
    from kata.protocol.generated import agent_pb2
    from kata.protocol.transport import dial

    with Client(dial("vsock://3:1024", timeout=5.0)) as client:
        client.call("grpc.AgentService/CreateSandbox", agent_pb2.CreateSandboxRequest(hostname="pod"), timeout=60.0)

A server, with one object a service whose methods are the RPCs in snake_case::

    class Health:
        def check(self, request, call):
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    with Server({"grpc.Health": Health()}, to_status) as server:
        server.serve(listen("unix:///run/agent.sock"))

To speak other services: add a .proto file to `protos/` and run `tools/protos.py`.

    messages   message classes and service descriptions by name
    frame      the ten-byte header: encode, decode, limits
    connection a byte stream over a socket or a character device
    transport  addresses: dial and listen;  serial: the guest's side of a virtio-serial port
    channel    frames over a connection, many threads writing
    status     codes and RpcError;  encoded: answers that are bytes already
    client, server, stream, workers   calls, both sides of them

This file imports nothing: each process pays only for the modules that it names.
"""
