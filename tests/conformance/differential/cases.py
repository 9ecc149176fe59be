"""The odd requests: a name and the bytes, whether their sender would send more, and how many requests they are at most."""

from dataclasses import dataclass

HOST = b"odd.test"
BASE = b"Host: " + HOST + b"\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: " + HOST + b"\r\n\r\n"


@dataclass(frozen=True)
class Case:
    name: str
    raw: bytes
    # The request is not complete, so that waiting for the rest is no fault.
    incomplete: bool = False
    requests: int = 1


CASES = []


def case(group, what, raw, **options):
    name = f"{group}: {what.decode('latin-1') if isinstance(what, bytes) else what}"
    CASES.append(Case(name.encode("unicode_escape").decode(), raw, **options))


def post(fields, body=b"", method=b"POST", version=b"HTTP/1.1"):
    return method + b" / " + version + b"\r\n" + BASE + fields + b"\r\n" + body


def get(fields=b"", line=b"GET / HTTP/1.1"):
    return line + b"\r\n" + BASE + fields + b"\r\n"


# RFC 9112, 6.3: lengths.
for value in (
    [b"5", b"05", b"0000000005", b"+5", b"-5", b"-0", b"0x5", b"5.0", b"5e0", b"5,5", b"5, 5", b"5,6", b"5;", b"5 5", b"five"]
    + [b"", b" ", b"5\t", b"\t5", b"\x0b5", b"5\x00", b"5\r", b"\"5\"", b"'5'", b"\xb2", b"5_0", b"1_0", b",5", b"5,", b"5\x0c"]
    + [b"99999999999999999999", b"18446744073709551621", b"4294967301", b"NaN", b"5 ;a", b"chunked", b"#5", b"5\\n"]
):
    case("length", value, post(b"Content-Length: " + value + b"\r\n", b"hello"), incomplete=value in (b"4294967301", b"1_0"))
for first, second in [(b"5", b"5"), (b"5", b"6"), (b"0", b"5"), (b"5", b"0"), (b"5", b"05"), (b"5", b""), (b"", b"5"), (b"5", b"x")]:
    both = b"Content-Length: " + first + b"\r\nContent-Length: " + second + b"\r\n"
    case("lengths", first + b" and " + second, post(both, b"hello"), requests=2)
    case("lengths with a request behind", first + b" and " + second, post(both, SMUGGLED), requests=2)

# Codings: what is not exactly chunked.
CODINGS = (
    [b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"chunked ", b"\tchunked", b"chunked\t", b"\x0bchunked", b"chunked\x0b"]
    + [b"\x0cchunked", b"xchunked", b"chunkedx", b"x-chunked", b"chunke", b"chunked, chunked", b"chunked,chunked", b"chunked,"]
    + [b",chunked", b", chunked", b"chunked, identity", b"identity, chunked", b"identity", b"gzip, chunked", b"chunked, gzip"]
    + [b"gzip", b"deflate, chunked", b"chunked;q=1", b"chunked; q=0.5", b"\"chunked\"", b"'chunked'", b"chunked\x00", b"\x00chunked"]
    + [b"", b"cow", b"cow, chunked", b"trailers", b"chunked-", b"chu\tnked", b"chunked\r", b"\xffchunked", b"chunked\xff", b"(chunked)"]
    + [b"chunked#", b"[chunked]", b"chunked=1", b"CHUN\xc5\xbfED", b"chun\xe2\x84\xaaed", b"chunked\x85", b"\xa0chunked", b"*"]
)
for value in CODINGS:
    case("coding", value, post(b"Transfer-Encoding: " + value + b"\r\n", CHUNKS), requests=2)
for first, second in [
    (b"chunked", b"chunked"), (b"chunked", b"identity"), (b"identity", b"chunked"), (b"chunked", b"x"), (b"x", b"chunked"),
    (b"", b"chunked"), (b"chunked", b""), (b"gzip", b"chunked"),
]:
    both = b"Transfer-Encoding: " + first + b"\r\nTransfer-Encoding: " + second + b"\r\n"
    case("codings", first + b" and " + second, post(both, CHUNKS), requests=2)

# Both, as CL.TE, TE.CL and TE.TE: the payload is two requests to one of the two readings.
NAMES = (
    [b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked"]
    + [b"\tTransfer-Encoding: chunked", b"Transfer-Encoding:chunked", b"Transfer-Encoding:\tchunked", b"Transfer_Encoding: chunked"]
    + [b"Transfer-Encoding\x00: chunked", b"\x00Transfer-Encoding: chunked", b"Transfer-Encoding\x0b: chunked", b"Transfer Encoding: chunked"]
    + [b"X: x\nTransfer-Encoding: chunked", b"X: x\rTransfer-Encoding: chunked", b"Transfer-Encoding:\r\n chunked"]
    + [b"Transfer-Encoding\r\n: chunked", b"Transfer-\r\nEncoding: chunked", b"TrAnSfEr-eNcOdInG: chunked", b"Transfer-Encoding:: chunked"]
    + [b"Transfer-Encoding = chunked", b"Transfer\xadEncoding: chunked", b"X-Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked"]
    + [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity, chunked", b"Content-Encoding: chunked"]
    + [b"\xef\xbb\xbfTransfer-Encoding: chunked", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding;: chunked", b"(Transfer-Encoding): chunked"]
)
for field in NAMES:
    early = b"0\r\n\r\n" + SMUGGLED
    length = b"Content-Length: " + str(len(early)).encode()
    case("length before", field, post(length + b"\r\n" + field + b"\r\n", early))
    case("length behind", field, post(field + b"\r\n" + length + b"\r\n", early))
    late = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    case("short length", field, post(b"Content-Length: 4\r\n" + field + b"\r\n", late), requests=2)

# Names of the length.
for field in (
    [b"Content-Length : 5", b"Content-Length\t: 5", b" Content-Length: 5", b"Content_Length: 5", b"Content-Length\x00: 5", b"Content-Length:5"]
    + [b"Content-Length:\r\n 5", b"Content-Length\r\n: 5", b"X: x\nContent-Length: 5", b"X: x\rContent-Length: 5", b"Content Length: 5"]
    + [b"Content-Length:: 5", b"content-LENGTH: 5", b"Content-Length= 5", b"\x0bContent-Length: 5", b"Content-Length;: 5"]
):
    # To who takes it for another field, the body is the beginning of a request.
    case("name of the length", field, post(field + b"\r\n", b"hello"), requests=2, incomplete=b"_" in field)
    case("name of the length with a request behind", field, post(field[:-1] + str(len(SMUGGLED)).encode() + b"\r\n", SMUGGLED), requests=2)

# Chunks.
for body in (
    [b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n0\n\n", b"5\rhello\r\n0\r\n\r\n"]
    + [b"0x5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b" 5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n"]
    + [b"5\t\r\nhello\r\n0\r\n\r\n", b"\t5\r\nhello\r\n0\r\n\r\n", b"005\r\nhello\r\n0\r\n\r\n", b"0" * 40 + b"5\r\nhello\r\n0\r\n\r\n"]
    + [b"5;a\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n", b"5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", b"5 ;a\r\nhello\r\n0\r\n\r\n", b"5;\r\nhello\r\n0\r\n\r\n"]
    + [b"5;a\nhello\r\n0\r\n\r\n", b"5;\nxx\r\nhello\r\n0\r\n\r\n", b"5;a\rb\r\nhello\r\n0\r\n\r\n", b"5;\x00\r\nhello\r\n0\r\n\r\n", b"5,\r\nhello\r\n0\r\n\r\n"]
    + [b"5\r\nhello!\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"6\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"5\r\nhello\r\r\n0\r\n\r\n"]
    + [b"\r\n5\r\nhello\r\n0\r\n\r\n", b"5\r\n\r\nhello\r\n0\r\n\r\n", b"G\r\nhello\r\n0\r\n\r\n", b"5h\r\nhello\r\n0\r\n\r\n", b"0_5\r\nhello\r\n0\r\n\r\n"]
    + [b"10000000000000005\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", b"fffffffffffffff0\r\nhello\r\n0\r\n\r\n", b"80000000\r\nhello"]
    + [b"5\r\nhello\r\n0\r\nX-A: 1\r\n\r\n", b"5\r\nhello\r\n0\r\nX-A : 1\r\n\r\n", b"5\r\nhello\r\n0\r\nX-A\r\n\r\n", b"5\r\nhello\r\n0\r\nX-A: 1\n\r\n"]
    + [b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n", b"5\r\nhello\r\n0\r\nHost: evil\r\n\r\n", b"5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n"]
    + [b"5\r\nhello\r\n0\r\nX-A: \x00\r\n\r\n", b"5\r\nhello\r\n0\r\nX-A: 1\r\n 2\r\n\r\n", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n0\r\n\r", b"5\r\nhello\r\n00\r\n\r\n"]
    + [b"5\r\nhello\r\n0;a\r\n\r\n", b"5\r\nhello\r\n0 \r\n\r\n", b"5\r\nhello\r\n-0\r\n\r\n", b"5\r\nhello\r\n\r\n", b"0\r\n\r\n", b"5\r\nhello", b"\x005\r\nhello\r\n0\r\n\r\n"]
):
    case("chunks", body, post(b"Transfer-Encoding: chunked\r\n", body), incomplete=True, requests=2)

# Line ends.
for raw in [
    b"GET / HTTP/1.1\nHost: odd.test\n\n", b"GET / HTTP/1.1\nHost: odd.test\r\n\r\n", b"GET / HTTP/1.1\r\nHost: odd.test\n\r\n",
    b"GET / HTTP/1.1\r\nHost: odd.test\r\n\n", b"\r\nGET / HTTP/1.1\r\nHost: odd.test\r\n\r\n", b"\nGET / HTTP/1.1\r\nHost: odd.test\r\n\r\n",
    b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: odd.test\r\n\r\n", b"\rGET / HTTP/1.1\r\nHost: odd.test\r\n\r\n", b" \r\nGET / HTTP/1.1\r\nHost: odd.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\r\rb\r\nHost: odd.test\r\n\r\n", b"GET / HTTP/1.1\r\nX: a\rHost: evil\r\nHost: odd.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: odd.test\r\nX: a\r\r\n\r\n", b"GET / HTTP/1.1\r\r\nHost: odd.test\r\n\r\n", b"GET / HTTP/1.1\r\nHost: odd.test\r\n\rX: y\r\n\r\n",
    b"GET / HTTP/1.1\n\rHost: odd.test\n\r\n\r", b"GET / HTTP/1.1\r\nHost: odd.test\r\nX: a\n\nGET /smuggled HTTP/1.1\r\nHost: odd.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: odd.test\r\nX: \xc4\x8d\xc4\x8aY: z\r\n\r\n", b"GET / HTTP/1.1\x85\nHost: odd.test\r\n\r\n", b"GET / HTTP/1.1\r\nHost: odd.test\r\nX:\x0b\r\n\r\n",
]:
    case("line ends", raw, raw, incomplete=not raw.endswith((b"\r\n\r\n", b"\n\n")), requests=2)

# Request lines.
for line in (
    [b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET / HTTP/1.1\t"]
    + [b"GET / HTTP/1.1 x", b"GET /a b HTTP/1.1", b"GET HTTP/1.1", b"GET /", b"GET", b"", b"GET / HTTP/1.2", b"GET / HTTP/1.9", b"GET / HTTP/2.0", b"GET / HTTP/2"]
    + [b"GET / HTTP/0.9", b"GET / HTTP/1.10", b"GET / HTTP/01.1", b"GET / HTTP/1.", b"GET / HTTP/.1", b"GET / HTTP/1", b"GET / HTTP/1.1.1", b"GET / http/1.1"]
    + [b"GET / Http/1.1", b"GET / HTTPS/1.1", b"GET / SIP/2.0", b"GET / HTTP 1.1", b"GET / HTTP/1,1", b"GET / HTTP/-1.1", b"GET / HTTP/\xb9.\xb9", b"get / HTTP/1.1"]
    + [b"Get / HTTP/1.1", b"G(T / HTTP/1.1", b"G\x00T / HTTP/1.1", b"G\xc3\x84T / HTTP/1.1", b"GET,POST / HTTP/1.1", b"A" * 100 + b" / HTTP/1.1", b"! / HTTP/1.1"]
    + [b"GET * HTTP/1.1", b"POST * HTTP/1.1", b"GET x HTTP/1.1", b"GET ? HTTP/1.1", b"GET odd.test HTTP/1.1", b"GET odd.test:80 HTTP/1.1", b"GET /\x00 HTTP/1.1"]
    + [b"GET /\x7f HTTP/1.1", b"GET /\x01 HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET /\xc3\xa4 HTTP/1.1", b"GET /#x HTTP/1.1", b"GET /a#b?c HTTP/1.1", b"GET /\\x HTTP/1.1"]
    + [b"GET /\"x\" HTTP/1.1", b"GET /<x> HTTP/1.1", b"GET /{x} HTTP/1.1", b"GET /|^` HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /%zz HTTP/1.1", b"GET /% HTTP/1.1", b"GET /%2f%2f HTTP/1.1"]
    + [b"GET //x HTTP/1.1", b"GET //evil.test/x HTTP/1.1", b"GET /./x HTTP/1.1", b"GET /../x HTTP/1.1", b"GET /a/../../x HTTP/1.1", b"GET /%2e%2e/x HTTP/1.1", b"GET /..;/x HTTP/1.1"]
    + [b"GET /?a?b HTTP/1.1", b"GET /;a=b HTTP/1.1", b"GET /:80 HTTP/1.1", b"GET /@evil HTTP/1.1", b"CONNECT odd.test:80 HTTP/1.1", b"CONNECT / HTTP/1.1", b"TRACE / HTTP/1.1"]
    + [b"OPTIONS * HTTP/1.1", b"PRI * HTTP/2.0", b"HEAD / HTTP/1.1", b"QUERY / HTTP/1.1", b"GET / HTTP/1.1\x00", b"\x16\x03\x01 / HTTP/1.1"]
):
    case("request line", line, get(line=line))

# Hosts.
for value in (
    [b"odd.test", b"ODD.test", b"odd.test:80", b"odd.test:", b"odd.test.", b"odd.test.:80", b"odd.test:0", b"odd.test:65536", b"odd.test:99999999999", b"odd.test:-1"]
    + [b"odd.test:80x", b"odd.test:80:80", b"odd.test:80@evil", b"evil@odd.test", b"odd.test/x", b"odd.test?x", b"odd.test#x", b"odd.test,evil", b"odd.test evil", b"odd.test\tevil"]
    + [b"odd.test\\evil", b"", b" ", b":80", b".", b"..", b"-", b"[::1]", b"[::1]:80", b"[::1", b"::1", b"[odd.test]", b"[]", b"[::1]x", b"[::ffff:127.0.0.1]", b"127.0.0.1"]
    + [b"http://odd.test", b"\xc3\xb6dd.test", b"odd.test\x00", b"\x00odd.test", b"odd.test\x0b", b"odd\x00.test", b"%6fdd.test", b"odd.test%00", b"odd_test", b"\"odd.test\"", b"odd.test;x", b"a" * 300]
):
    case("host", value, b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n")
for fields in [
    b"", b"Host: odd.test\r\nHost: odd.test\r\n", b"Host: odd.test\r\nHost: evil.test\r\n", b"Host: evil.test\r\nHost: odd.test\r\n", b"Host: odd.test\r\nhost: odd.test\r\n",
    b"Host : odd.test\r\n", b" Host: odd.test\r\n", b"Host:odd.test\r\n", b"HOST: odd.test\r\n", b"Host: odd.test\r\n evil.test\r\n", b"Host:\r\n odd.test\r\n",
    b"Host: odd.test\r\nHost : evil.test\r\n", b"Host: odd.test\r\n Host: evil.test\r\n", b"X: y\r\n\tHost: evil.test\r\nHost: odd.test\r\n", b"Host\x00: odd.test\r\n", b"H\xc3\xb6st: odd.test\r\n",
]:
    case("host fields", fields, b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
    case("host fields in 1.0", fields, b"GET / HTTP/1.0\r\n" + fields + b"\r\n")

# Absolute form, and who it names.
for target in (
    [b"http://odd.test/", b"http://odd.test", b"http://odd.test?x", b"HTTP://odd.test/", b"https://odd.test/", b"ftp://odd.test/", b"http:/odd.test/", b"http:odd.test/", b"http:///x"]
    + [b"http://evil.test/", b"http://evil.test@odd.test/", b"http://odd.test@evil.test/", b"http://odd.test:80/", b"http://odd.test:/", b"http://odd.test:x/", b"http://[::1]/", b"http://[::1/"]
    + [b"http://", b"http://?", b"://odd.test/", b"javascript:x", b"http://odd.test\\@evil.test/", b"http://odd.test#@evil.test/", b"http://odd.test/../x", b"ws://odd.test/", b"file:///etc"]
):
    case("absolute form", target, get(line=b"GET " + target + b" HTTP/1.1"))
for fields in [b"Host: evil.test\r\n", b"", b"Host:\r\n", b"Host: odd.test\r\nHost: odd.test\r\n", b"Host: a b\r\n", b"Host: odd.test:81\r\n"]:
    case("absolute form with", fields, b"GET http://odd.test/ HTTP/1.1\r\n" + fields + b"\r\n")

# Folds, and what names and values may hold.
for fields in [
    b"X: a\r\n b\r\n", b"X: a\r\n\tb\r\n", b"X: a\r\n \r\n", b"X:\r\n a\r\n", b"X: a\r\n b\r\n c\r\n", b"X: a\n b\r\n", b" X: a\r\n", b"\tX: a\r\n", b"X: a\r\n: b\r\n", b"X\r\n", b"X a\r\n", b": a\r\n",
    b"X: a\r\n\x0bb\r\n", b":\r\n", b"=\r\n", b"X: a\r\n Content-Length: 5\r\n",
]:
    case("fold", fields, get(fields))
for code in [*range(0x20), 0x7F, 0x80, 0xA0, 0xFF]:
    if code not in (0x0A, 0x0D, 0x09):
        case("value with", bytes([code]), get(b"X-A: a" + bytes([code]) + b"b\r\n"))
for code in [*range(0x21), 0x7F, 0x80, 0xFF, *b"\"(),/:;<=>?@[\\]{}"]:
    if code not in (0x0A, 0x0D):
        case("name with", bytes([code]), get(b"X" + bytes([code]) + b"A: a\r\n"))

# A body where none is thought of (CL.0), and none where one is (0.CL).
for method in [b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE", b"PROPFIND", b"CONNECT"]:
    length = b"Content-Length: " + str(len(SMUGGLED)).encode() + b"\r\n"
    case("body of", method, post(length, SMUGGLED, method))
    case("chunked body of", method, post(b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), method))
for fields in (
    [b"Expect: 100-continue\r\n", b"Expect: 100-Continue\r\n", b"Expect: 100-continue, x\r\n", b"Expect: x 100-continue\r\n", b"Expect: y\r\n", b"Expect:\r\n", b"Expect:\r\n 100-continue\r\n"]
    + [b"Expect: 100-continue\r\nExpect: 100-continue\r\n", b"Expect : 100-continue\r\n", b"Expect: 200-ok\r\n", b"Connection: Expect\r\nExpect: 100-continue\r\n"]
    + [b"Connection: Content-Length\r\n", b"Connection: close, Content-Length\r\n", b"Connection: Host\r\n", b"Connection: Transfer-Encoding\r\n", b"Connection: \x00\r\n", b"Connection: ,\r\n"]
    + [b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n"]
    + [b"TE: trailers\r\n", b"TE: chunked\r\n", b"Trailer: Content-Length\r\n", b"X-HTTP-Method-Override: DELETE\r\n", b"Proxy-Connection: keep-alive\r\n", b"Keep-Alive: 300\r\n"]
):
    length = b"Content-Length: " + str(len(SMUGGLED)).encode() + b"\r\n"
    case("a body and", fields, post(length + fields, SMUGGLED))
    case("no body and", fields, get(fields))
for fields, body in [
    (b"Content-Length: 5\r\n", b"hello"), (b"Transfer-Encoding: chunked\r\n", CHUNKS), (b"Connection: keep-alive\r\nContent-Length: 5\r\n", b"hello"),
    (b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", CHUNKS), (b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", CHUNKS), (b"", b"hello"),
]:
    case("in 1.0", fields, post(fields, body, version=b"HTTP/1.0"), requests=2)

# Too much.
case("too much", "fields", get(b"X-A: a\r\n" * 200))
case("too much", "fields by far", get(b"X-A: a\r\n" * 20000))
case("too much", "a field", get(b"X-A: " + b"a" * 100_000 + b"\r\n"))
case("too much", "a name", get(b"X" * 100_000 + b": a\r\n"))
case("too much", "a target", get(line=b"GET /" + b"a" * 100_000 + b" HTTP/1.1"))
case("too much", "a method", get(line=b"A" * 100_000 + b" / HTTP/1.1"))
case("too much", "lengths", post(b"Content-Length: 5\r\n" * 90, b"hello"))
case("too much", "empty lines", b"\r\n" * 50_000 + get(), incomplete=True)
case("too much", "a chunk extension", post(b"Transfer-Encoding: chunked\r\n", b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"))
case("too much", "trailers", post(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"))
for count in (2, 20):
    case("pipelined", f"{count} requests", get() * count, requests=count)
