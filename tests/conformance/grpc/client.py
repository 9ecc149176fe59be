"""The gRPC suite's client, by grpcio: src/client.rs is the same by tonic.

    client.py PORT CA-FILE

It runs each case through https://localhost:PORT and prints `ok CASE DETAIL` or `FAILED CASE REASON`.
"""

import itertools
import sys
import time
import traceback
from pathlib import Path

import grpc

MANY, SMALL = 10_000, b"small"
CHUNK, CHUNKS = 64 * 1024, 1600  # 100 MiB
PATIENCE = 240  # seconds for a case
SOON = 1.0  # seconds until the server must have seen a call end


class Client:
    def __init__(self, port, roots, authority="localhost"):
        credentials = grpc.ssl_channel_credentials(roots)
        options = [("grpc.default_authority", authority), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)
        self.ids = itertools.count()

    def __getattr__(self, method):
        kinds = {"Collect": "stream_unary", "Emit": "unary_stream", "Echo": "stream_stream"}
        kinds |= {"FailLate": "unary_stream", "HangLate": "unary_stream"}
        return getattr(self.channel, kinds.get(method, "unary_unary"))(f"/interop/{method}")

    def id(self):
        return f"grpcio-{next(self.ids)}"

    def wait(self, call, what):
        return self.Await(f"{call} {what}".encode(), timeout=20).decode()


def equal(seen, expected):
    if seen != expected:
        raise AssertionError(f"{seen!r} instead of {expected!r}")


def refused(call):
    """The status that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it succeeded")


def within(seconds, start):
    took = time.monotonic() - start
    if took > seconds:
        raise AssertionError(f"took {took:.3f} s")
    return f"{took * 1000:.0f} ms"


def unary(client):
    equal(client.Unary(b"hello", timeout=PATIENCE), b"hello")
    equal(client.Unary(b"", timeout=PATIENCE), b"")


def large_unary(client):
    equal(client.Unary(b"x" * 4_000_000, timeout=PATIENCE), b"x" * 4_000_000)


def client_stream(client):
    equal(client.Collect(iter([b"a", b"bc", b""]), timeout=PATIENCE), b"3 3")


def empty_client_stream(client):
    equal(client.Collect(iter([]), timeout=PATIENCE), b"0 0")


def server_stream(client):
    equal(list(client.Emit(b"5 3", timeout=PATIENCE)), [b"xxx"] * 5)


def empty_server_stream(client):
    equal(list(client.Emit(b"0 0", timeout=PATIENCE)), [])


def bidirectional(client):
    """Each message is sent only once the one before it is back."""
    seen = []

    def requests():
        for number in range(100):
            while len(seen) < number:
                time.sleep(0.0005)
            yield b"%d" % number

    for answer in client.Echo(requests(), timeout=PATIENCE):
        seen.append(answer)
    equal(seen, [b"%d" % number for number in range(100)])


def trailers_only_error(client):
    error = refused(lambda: client.Fail(b"9 no such thing", timeout=PATIENCE))
    equal((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "no such thing"))
    equal(dict(error.trailing_metadata()).get("x-why"), "asked-for")


def unicode_error(client):
    message = "50 % für Ähren, 数据 🚇"
    error = refused(lambda: client.Fail(f"5 {message}".encode(), timeout=PATIENCE))
    equal((error.code(), error.details()), (grpc.StatusCode.NOT_FOUND, message))


def error_after_messages(client):
    seen = []
    error = refused(lambda: seen.extend(client.FailLate(b"15 half way", timeout=PATIENCE)))
    equal(seen, [b"0", b"1", b"2"])
    equal((error.code(), error.details()), (grpc.StatusCode.DATA_LOSS, "half way"))
    equal(dict(error.trailing_metadata()).get("x-why"), "asked-for")


def unknown_method(client):
    equal(refused(lambda: client.Nothing(b"", timeout=PATIENCE)).code(), grpc.StatusCode.UNIMPLEMENTED)


def metadata(client):
    data = bytes(range(256))
    sent = (("x-text", "some text, with; marks"), ("x-data-bin", data))
    call = client.Echo(iter([b"a"]), metadata=sent, timeout=PATIENCE)
    equal(list(call), [b"a"])
    equal(dict(call.initial_metadata()).get("x-text"), "some text, with; marks")
    equal(dict(call.trailing_metadata()).get("x-data-bin"), data)


def deadline(client):
    call, start = client.id(), time.monotonic()
    error = refused(lambda: client.Hang(b"", metadata=(("x-id", call),), timeout=0.7))
    # tonic's server calls it cancelled when its own clock was first.
    equal(error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED), True)
    equal(client.wait(call, "ended"), "cancelled")
    took = within(0.7 + SOON, start)
    given = float(client.wait(call, "started"))
    if not 0.3 < given < 0.75:  # it is rounded up
        raise AssertionError(f"the server was given {given} s")
    return f"0.7 s given, {given} s arrived, over after {took}"


def cancel_before_head(client):
    call = client.id()
    running = client.Hang.future(b"", metadata=(("x-id", call),))
    equal(client.wait(call, "started"), "-")
    start = time.monotonic()
    running.cancel()
    equal(client.wait(call, "ended"), "cancelled")
    return within(SOON, start)


def cancel_in_download(client):
    call = client.id()
    running = client.HangLate(b"", metadata=(("x-id", call),))
    equal(next(running), b"0")
    start = time.monotonic()
    running.cancel()
    equal(client.wait(call, "ended"), "cancelled")
    return within(SOON, start)


def cancel_in_full_download(client):
    """Of a server that waits for room to send."""
    call = client.id()
    running = client.Emit(b"10000 65536", metadata=(("x-id", call),))
    next(running)
    start = time.monotonic()
    running.cancel()
    equal(client.wait(call, "ended"), "cancelled")
    return within(SOON, start)


def cancel_in_upload(client):
    call = client.id()
    requests = iter(lambda: time.sleep(0.01) or b"x", None)
    running = client.Collect.future(requests, metadata=(("x-id", call),))
    client.wait(call, "started")
    start = time.monotonic()
    running.cancel()
    equal(client.wait(call, "ended"), "cancelled")
    return within(SOON, start)


def many_small_messages(client):
    start, count = time.monotonic(), 0
    for answer in client.Echo((SMALL for _ in range(MANY)), timeout=PATIENCE):
        equal(answer, SMALL)
        count += 1
    equal(count, MANY)
    return f"{count} both ways, {within(PATIENCE, start)}"


def many_small_messages_down(client):
    start, count = time.monotonic(), sum(1 for _ in client.Emit(b"%d 5" % MANY, timeout=PATIENCE))
    equal(count, MANY)
    return f"{count}, {within(PATIENCE, start)}"


def many_calls(client):
    start = time.monotonic()
    running = [client.Unary.future(b"%d" % number, timeout=PATIENCE) for number in range(1000)]
    equal([each.result() for each in running], [b"%d" % number for number in range(1000)])
    return f"1000 at once, {within(PATIENCE, start)}"


def long_download(client):
    start, size = time.monotonic(), 0
    for message in client.Emit(b"%d %d" % (CHUNKS, CHUNK), timeout=PATIENCE):
        size += len(message)
    equal(size, CHUNKS * CHUNK)
    return f"{size >> 20} MiB, {within(PATIENCE, start)}"


def long_upload(client):
    start, chunk = time.monotonic(), b"x" * CHUNK
    answer = client.Collect((chunk for _ in range(CHUNKS)), timeout=PATIENCE)
    equal(answer, b"%d %d" % (CHUNKS, CHUNKS * CHUNK))
    return f"{CHUNKS * CHUNK >> 20} MiB, {within(PATIENCE, start)}"


def edge_error(code):
    def case(client):
        error = refused(lambda: client.Unary(b"", timeout=PATIENCE))
        equal(error.code(), code)
        return error.details()

    return case


CASES = [unary, large_unary, client_stream, empty_client_stream, server_stream, empty_server_stream, bidirectional]
CASES += [trailers_only_error, unicode_error, error_after_messages, unknown_method, metadata, deadline]
CASES += [cancel_before_head, cancel_in_download, cancel_in_full_download, cancel_in_upload]
CASES += [many_small_messages, many_small_messages_down, many_calls, long_download, long_upload]
# The edge's own answers, by host.
OTHERS = {
    "unknown_host": ("unknown.localhost", grpc.StatusCode.UNIMPLEMENTED),
    "no_agent": ("absent.localhost", grpc.StatusCode.UNAVAILABLE),
    "backend_refuses": ("refused.localhost", grpc.StatusCode.UNAVAILABLE),
}


def main(port, ca):
    roots = Path(ca).read_bytes()
    client = Client(port, roots)
    cases = [(case.__name__, case, client) for case in CASES]
    cases += [(name, edge_error(code), Client(port, roots, host)) for name, (host, code) in OTHERS.items()]
    for name, case, client in cases:
        try:
            print("ok", name, case(client) or "", flush=True)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            what = f"{error.code()}: {error.details()}" if isinstance(error, grpc.RpcError) else error
            print("FAILED", name, " ".join(str(what).split()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
