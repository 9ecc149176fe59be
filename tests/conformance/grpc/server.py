"""The gRPC suite's server, by grpcio: src/server.rs is the same by tonic. It prints its port.

Messages are bytes, so that no schema is needed. Of a call with `x-id` it is kept how much time it was given and how it
ended, which Await tells.
"""

import threading
from concurrent import futures

import grpc


class Calls:
    """What is known of the calls with an id."""

    def __init__(self):
        self.known, self.changed = {}, threading.Condition()

    def enter(self, context):
        """Keeps that this call began and, once it is over, how; answers an event for the latter."""
        over = threading.Event()
        metadata = dict(context.invocation_metadata())
        context.add_callback(over.set)
        if call := metadata.get("x-id"):
            given = context.time_remaining()
            # grpcio has a time for calls that were given none, too.
            self.keep(call, "started", f"{given:.3f}" if given and given < 3600 else "-")
            context.add_callback(lambda: self.keep(call, "ended", "cancelled"))
        return over

    def finish(self, context):
        if call := dict(context.invocation_metadata()).get("x-id"):
            self.keep(call, "ended", "finished")

    def keep(self, call, what, value):
        with self.changed:
            # The first to tell is right: a call that has finished is over, too.
            self.known.setdefault((call, what), value)
            self.changed.notify_all()

    def wait(self, call, what):
        with self.changed:
            self.changed.wait_for(lambda: (call, what) in self.known, timeout=10)
            return self.known.get((call, what), "never")


CALLS = Calls()


def unary(request, context):
    return request


def collect(requests, context):
    over = CALLS.enter(context)
    count = size = 0
    for request in requests:
        count, size = count + 1, size + len(request)
    # In one of 20 uploads that are given up, grpcio ends them as if they were complete, a moment before it says otherwise; so it
    # does without anything in between. tonic's server makes the difference at once.
    if not over.wait(timeout=0.2):
        CALLS.finish(context)
    return f"{count} {size}".encode()


def emit(request, context):
    CALLS.enter(context)
    count, size = map(int, request.split())
    message = b"x" * size
    for _ in range(count):
        yield message
    CALLS.finish(context)


def echo(requests, context):
    CALLS.enter(context)
    metadata = dict(context.invocation_metadata())
    if "x-text" in metadata:
        context.send_initial_metadata([("x-text", metadata["x-text"])])
    if "x-data-bin" in metadata:
        context.set_trailing_metadata([("x-data-bin", metadata["x-data-bin"])])
    yield from requests
    CALLS.finish(context)


def fail(request, context):
    code, message = request.decode().split(" ", 1)
    context.set_trailing_metadata([("x-why", "asked-for")])
    context.abort(next(known for known in grpc.StatusCode if known.value[0] == int(code)), message)


def fail_late(request, context):
    yield from (b"0", b"1", b"2")
    fail(request, context)


def hang(request, context):
    CALLS.enter(context).wait(timeout=30)
    return b""


def hang_late(request, context):
    over = CALLS.enter(context)
    yield b"0"
    over.wait(timeout=30)


def wait(request, context):
    return CALLS.wait(*request.decode().split()).encode()


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Emit": grpc.unary_stream_rpc_method_handler(emit),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "HangLate": grpc.unary_stream_rpc_method_handler(hang_late),
    "Await": grpc.unary_unary_rpc_method_handler(wait),
}


if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop", HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()
