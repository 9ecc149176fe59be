"""A backend that keeps every byte, reads requests as strictly as RFC 9112 allows, and answers each with 200."""

import re
import socket
import threading

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/1\.[01]")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")


class Malformed(Exception):
    """Bytes that are no request."""


def read_request(data):
    """The first request in `data` and its length, or None where it is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *fields = data[:end].split(b"\r\n")
    line = LINE.fullmatch(first)
    fields = [FIELD.fullmatch(field) for field in fields]
    if not line or not all(fields):
        raise Malformed(data[:end])
    values = {}
    for field in fields:
        values.setdefault(field[1].lower(), []).append(field[2])
    lengths, codings = values.get(b"content-length", []), values.get(b"transfer-encoding", [])
    if len(lengths) + len(codings) > 1 or len(values.get(b"host", [])) != 1:
        raise Malformed(data[:end])
    start = end + 4
    if codings:
        if codings[0].lower() != b"chunked":
            raise Malformed(data[:end])
        chunks = read_chunks(data, start)
        if chunks is None:
            return None
        body, start = chunks
    elif lengths:
        if not lengths[0].isdigit():
            raise Malformed(data[:end])
        length = int(lengths[0])
        if len(data) < start + length:
            return None
        body, start = data[start : start + length], start + length
    else:
        body = b""
    return (line[1].decode(), line[2].decode("latin-1"), body), start


def read_chunks(data, at):
    """The body in chunks from `at` and where it ends, or None where it is not complete."""
    body = b""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        if not re.fullmatch(rb"[0-9A-Fa-f]+(;[^\r\n]*)?", data[at:end]):
            raise Malformed(data[at:end])
        size, at = int(data[at:end].split(b";")[0], 16), end + 2
        if size == 0:
            while (end := data.find(b"\r\n", at)) > at:
                if not FIELD.fullmatch(data[at:end]):
                    raise Malformed(data[at:end])
                at = end + 2
            return None if end < 0 else (body, end + 2)
        if len(data) < at + size + 2:
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            raise Malformed(data[at : at + size + 2])
        body, at = body + data[at : at + size], at + size + 2


class Recorder:
    """Listens on a free port; `take` gives what came since it was last asked."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.requests, self.malformed, self.partial = [], [], {}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        data = b""
        with connection:
            while True:
                try:
                    more = connection.recv(65536)
                except OSError:
                    more = b""
                if not more:
                    break
                data += more
                with self.lock:
                    self.partial[connection] = data
                try:
                    while found := read_request(data):
                        request, length = found
                        data = data[length:]
                        with self.lock:
                            self.requests.append(request)
                            self.partial[connection] = data
                        body = b"" if request[0] == "HEAD" else b"ok"
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
                except Malformed as what:
                    with self.lock:
                        self.malformed.append(what.args[0])
                        self.partial[connection] = b""
                    break
                except OSError:
                    break

    def take(self):
        """Whole requests, what was no request, and the bytes of requests that are not whole."""
        with self.lock:
            taken = self.requests, self.malformed, b"".join(self.partial.values())
            self.requests, self.malformed, self.partial = [], [], {}
        return taken
