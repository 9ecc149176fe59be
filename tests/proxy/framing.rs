//! Where messages begin and end: what is ambiguous is refused, and what is forwarded is written anew.

use tokio::io::AsyncWriteExt;

use crate::{
    recorder::Recorder,
    stage::{HOST, Stage},
};

/// The start of a request for [`HOST`]; `{}` in the table stands for it.
const HOST_FIELD: &str = "Host: shop.example.com\r\n";

async fn answer(stage: &Stage, request: &[u8]) -> String {
    let mut visitor = stage.visit().await;
    // The edge may close before it has read everything.
    let _ = visitor.0.write_all(request).await;
    String::from_utf8_lossy(&visitor.rest().await).into_owned()
}

/// Heads that no byte of reaches a backend: a name, the request, the status. None asks for its connection to be closed,
/// so that an answer that ends shows that it is.
const REFUSED: &[(&str, &str, u16)] = &[
    ("no host", "GET / HTTP/1.1\r\n\r\n", 400),
    ("no host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", 400),
    ("two hosts", "GET / HTTP/1.1\r\n{}Host: evil.example.com\r\n\r\n", 400),
    ("the same host twice", "GET / HTTP/1.1\r\n{}{}\r\n", 400),
    ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("a host with a space", "GET / HTTP/1.1\r\nHost: shop.example.com evil\r\n\r\n", 400),
    ("a host with a comma", "GET / HTTP/1.1\r\nHost: shop.example.com, evil\r\n\r\n", 400),
    ("a host with a user", "GET / HTTP/1.1\r\nHost: user@shop.example.com\r\n\r\n", 400),
    ("a host with a path", "GET / HTTP/1.1\r\nHost: shop.example.com/x\r\n\r\n", 400),
    ("a port that is no number", "GET / HTTP/1.1\r\nHost: shop.example.com:8a\r\n\r\n", 400),
    ("two ports", "GET / HTTP/1.1\r\nHost: shop.example.com:80:80\r\n\r\n", 400),
    ("an unclosed bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    ("a name in brackets", "GET / HTTP/1.1\r\nHost: [shop.example.com]\r\n\r\n", 400),
    ("a host beyond ASCII", "GET / HTTP/1.1\r\nHost: sh\u{f6}p.example.com\r\n\r\n", 400),
    ("absolute form without host", "GET http://shop.example.com/ HTTP/1.1\r\n\r\n", 400),
    ("absolute form with a bad host", "GET http://shop.example.com/ HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("absolute form with two hosts", "GET http://shop.example.com/ HTTP/1.1\r\n{}{}\r\n", 400),
    ("absolute form with a user", "GET http://u@shop.example.com/ HTTP/1.1\r\n{}\r\n", 400),
    ("absolute form with a port that is no number", "GET http://shop.example.com:x/ HTTP/1.1\r\n{}\r\n", 400),
    ("absolute form with a fragment for a path", "GET http://shop.example.com#@evil/ HTTP/1.1\r\n{}\r\n", 400),
    ("another scheme", "GET ftp://shop.example.com/ HTTP/1.1\r\n{}\r\n", 400),
    ("a target without a slash", "GET shop.example.com HTTP/1.1\r\n{}\r\n", 400),
    ("an authority for GET", "GET shop.example.com:80 HTTP/1.1\r\n{}\r\n", 400),
    ("a star for GET", "GET * HTTP/1.1\r\n{}\r\n", 400),
    ("no target", "GET HTTP/1.1\r\n{}\r\n", 400),
    ("an empty target", "GET  HTTP/1.1\r\n{}\r\n", 400),
    ("a space in the target", "GET /a b HTTP/1.1\r\n{}\r\n", 400),
    ("a tab in the target", "GET /a\tb HTTP/1.1\r\n{}\r\n", 400),
    ("NUL in the target", "GET /a\0b HTTP/1.1\r\n{}\r\n", 400),
    ("a bare CR in the target", "GET /a\rb HTTP/1.1\r\n{}\r\n", 400),
    ("two spaces before the version", "GET /  HTTP/1.1\r\n{}\r\n", 400),
    ("a tab before the version", "GET /\tHTTP/1.1\r\n{}\r\n", 400),
    ("a space before the method", " GET / HTTP/1.1\r\n{}\r\n", 400),
    ("a space after the version", "GET / HTTP/1.1 \r\n{}\r\n", 400),
    ("no version", "GET /\r\n{}\r\n", 400),
    ("version 2.0", "GET / HTTP/2.0\r\n{}\r\n", 400),
    ("version 1.2", "GET / HTTP/1.2\r\n{}\r\n", 400),
    ("version 0.9", "GET / HTTP/0.9\r\n{}\r\n", 400),
    ("version 1.10", "GET / HTTP/1.10\r\n{}\r\n", 400),
    ("version 01.1", "GET / HTTP/01.1\r\n{}\r\n", 400),
    ("a version in small letters", "GET / http/1.1\r\n{}\r\n", 400),
    ("another protocol", "GET / SIP/2.0\r\n{}\r\n", 400),
    ("a method with a bracket", "G(T / HTTP/1.1\r\n{}\r\n", 400),
    ("a method with NUL", "G\0T / HTTP/1.1\r\n{}\r\n", 400),
    ("a folded field", "GET / HTTP/1.1\r\n{}X-A: 1\r\n 2\r\n\r\n", 400),
    ("a field folded by a tab", "GET / HTTP/1.1\r\n{}X-A: 1\r\n\t2\r\n\r\n", 400),
    ("a folded length", "POST / HTTP/1.1\r\n{}Content-Length:\r\n 5\r\n\r\nhello", 400),
    ("a folded coding", "POST / HTTP/1.1\r\n{}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    ("a first field with a space before", "GET / HTTP/1.1\r\n Host: shop.example.com\r\n\r\n", 400),
    ("a bare CR in a value", "GET / HTTP/1.1\r\n{}X-A: 1\r2\r\n\r\n", 400),
    ("a bare CR in a name", "GET / HTTP/1.1\r\n{}X\r-A: 1\r\n\r\n", 400),
    ("a bare CR that would end the head", "GET / HTTP/1.1\r\n{}X-A: 1\r\rGET /evil HTTP/1.1\r\n\r\n", 400),
    ("NUL in a value", "GET / HTTP/1.1\r\n{}X-A: 1\0\r\n\r\n", 400),
    ("NUL in a name", "GET / HTTP/1.1\r\n{}X\0A: 1\r\n\r\n", 400),
    ("a control character in a value", "GET / HTTP/1.1\r\n{}X-A: \x01\r\n\r\n", 400),
    ("DEL in a value", "GET / HTTP/1.1\r\n{}X-A: \x7f\r\n\r\n", 400),
    ("a space before the colon", "GET / HTTP/1.1\r\n{}X-A : 1\r\n\r\n", 400),
    ("a space in the host's name", "GET / HTTP/1.1\r\nHost : shop.example.com\r\n\r\n", 400),
    ("a space in the length's name", "POST / HTTP/1.1\r\n{}Content-Length : 5\r\n\r\nhello", 400),
    ("a space in the coding's name", "POST / HTTP/1.1\r\n{}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    ("a tab in the coding's name", "POST / HTTP/1.1\r\n{}Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    (
        "a vertical tab in the coding's name",
        "POST / HTTP/1.1\r\n{}\x0bTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("no colon", "GET / HTTP/1.1\r\n{}X-A\r\n\r\n", 400),
    ("no name", "GET / HTTP/1.1\r\n{}: 1\r\n\r\n", 400),
    ("a name beyond ASCII", "GET / HTTP/1.1\r\n{}X-\u{e4}: 1\r\n\r\n", 400),
    ("a name with a bracket", "GET / HTTP/1.1\r\n{}X(A): 1\r\n\r\n", 400),
    ("a name in quotes", "GET / HTTP/1.1\r\n{}\"X-A\": 1\r\n\r\n", 400),
    ("a negative length", "POST / HTTP/1.1\r\n{}Content-Length: -1\r\n\r\nhello", 400),
    ("a length with a plus", "POST / HTTP/1.1\r\n{}Content-Length: +5\r\n\r\nhello", 400),
    ("a hexadecimal length", "POST / HTTP/1.1\r\n{}Content-Length: 0x5\r\n\r\nhello", 400),
    ("a length in letters", "POST / HTTP/1.1\r\n{}Content-Length: five\r\n\r\nhello", 400),
    ("an empty length", "POST / HTTP/1.1\r\n{}Content-Length:\r\n\r\nhello", 400),
    ("a length with a fraction", "POST / HTTP/1.1\r\n{}Content-Length: 5.0\r\n\r\nhello", 400),
    ("a length with an exponent", "POST / HTTP/1.1\r\n{}Content-Length: 5e0\r\n\r\nhello", 400),
    ("a length with a space inside", "POST / HTTP/1.1\r\n{}Content-Length: 5 5\r\n\r\nhello", 400),
    ("a length of more than 64 bits", "POST / HTTP/1.1\r\n{}Content-Length: 99999999999999999999\r\n\r\nhello", 400),
    ("two lengths", "POST / HTTP/1.1\r\n{}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    ("two lengths in one field", "POST / HTTP/1.1\r\n{}Content-Length: 5, 6\r\n\r\nhello", 400),
    ("one length twice in one field", "POST / HTTP/1.1\r\n{}Content-Length: 5, 5\r\n\r\nhello", 400),
    ("an unknown coding", "POST / HTTP/1.1\r\n{}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("identity", "POST / HTTP/1.1\r\n{}Transfer-Encoding: identity\r\n\r\nhello", 400),
    ("gzip alone", "POST / HTTP/1.1\r\n{}Transfer-Encoding: gzip\r\n\r\nhello", 400),
    ("no coding", "POST / HTTP/1.1\r\n{}Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400),
    ("chunked twice", "POST / HTTP/1.1\r\n{}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    (
        "chunked in two fields",
        "POST / HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("chunked before another", "POST / HTTP/1.1\r\n{}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    (
        "chunked before another field",
        "POST / HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("chunked with a parameter", "POST / HTTP/1.1\r\n{}Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400),
    ("chunked in quotes", "POST / HTTP/1.1\r\n{}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400),
    ("chunked with a comma", "POST / HTTP/1.1\r\n{}Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 400),
    ("a vertical tab before chunked", "POST / HTTP/1.1\r\n{}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("another coding before chunked", "POST / HTTP/1.1\r\n{}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (
        "another coding in a field before",
        "POST / HTTP/1.1\r\n{}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    ("a coding in HTTP/1.0", "POST / HTTP/1.0\r\n{}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
];

#[tokio::test]
async fn a_head_that_is_ambiguous_is_refused_and_ends_its_connection() {
    let stage = Stage::start().await;
    let (recorder, target) = Recorder::start().await;
    stage.serve(&[&target]);
    let mut wrong = Vec::new();
    for (name, request, status) in REFUSED {
        let request = request.replace("{}", HOST_FIELD);
        let answer = answer(&stage, request.as_bytes()).await;
        let answers = answer.matches("HTTP/1.").count();
        if !answer.starts_with("HTTP/1.") || answer.get(9..12) != Some(&status.to_string()) || answers != 1 {
            wrong.push(format!("{name}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(stage.get("/last").await.status, 200);
    let seen = recorder.text();
    assert!(seen.starts_with("GET /last HTTP/1.1\r\n") && seen.matches(" HTTP/1.1\r\n").count() == 1, "{seen}");
}

#[tokio::test]
async fn a_head_too_large_has_a_status_of_its_own() {
    let stage = Stage::start().await;
    let (recorder, target) = Recorder::start().await;
    stage.serve(&[&target]);
    let field = format!("X-A: {}\r\n", "a".repeat(1000));
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\n{HOST_FIELD}{}\r\n", "X-A: 1\r\n".repeat(100)), 431),
        (format!("GET / HTTP/1.1\r\n{HOST_FIELD}{}\r\n", field.repeat(70)), 431),
        (format!("GET /{} HTTP/1.1\r\n{HOST_FIELD}\r\n", "a".repeat(70_000)), 431),
    ] {
        let answer = answer(&stage, request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    // As many as may be.
    let request = format!("GET / HTTP/1.1\r\n{HOST_FIELD}Connection: close\r\n{}\r\n", "X-A: 1\r\n".repeat(98));
    assert!(answer(&stage, request.as_bytes()).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(recorder.text().matches(" HTTP/1.1\r\n").count(), 1);
}

/// Bodies in chunks that break: what the backend gets of them is never a whole request.
const BROKEN_CHUNKS: &[(&str, &str)] = &[
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("a size that is no number", "xyz\r\nhello\r\n0\r\n\r\n"),
    ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
    ("a size with a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a size with a plus", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
    ("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("a size of more than 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a bare LF after the size", "5\nhello\r\n0\r\n\r\n"),
    ("a bare CR after the size", "5\rhello\r\n0\r\n\r\n"),
    ("a bare LF in an extension", "5;a\nhello\r\n0\r\n\r\n"),
    ("more than the size", "5\r\nhello!\r\n0\r\n\r\n"),
    ("less than the size", "5\r\nhell\r\n0\r\n\r\n"),
    ("no line end behind the data", "5\r\nhello0\r\n\r\n"),
    ("a bare LF behind the data", "5\r\nhello\n0\r\n\r\n"),
    ("a bare LF behind the last size", "5\r\nhello\r\n0\n\r\n"),
    ("a trailer without a colon", "5\r\nhello\r\n0\r\nX-A\r\n\r\n"),
    ("a trailer with NUL", "5\r\nhello\r\n0\r\nX-A: \0\r\n\r\n"),
    ("a trailer with a space before the colon", "5\r\nhello\r\n0\r\nX-A : 1\r\n\r\n"),
    ("a folded trailer", "5\r\nhello\r\n0\r\nX-A: 1\r\n 2\r\n\r\n"),
];

#[tokio::test]
async fn a_body_in_broken_chunks_is_400_and_never_whole() {
    let stage = Stage::start().await;
    let (recorder, target) = Recorder::start().await;
    stage.serve(&[&target]);
    let mut wrong = Vec::new();
    for (name, chunks) in BROKEN_CHUNKS {
        let request = format!("POST / HTTP/1.1\r\n{HOST_FIELD}Transfer-Encoding: chunked\r\n\r\n{chunks}");
        let answer = answer(&stage, request.as_bytes()).await;
        if !answer.starts_with("HTTP/1.1 400 ") || answer.matches("HTTP/1.1 ").count() != 1 {
            wrong.push(format!("{name}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A last chunk is a line of its own; a head whose request ID ends in 0 ends the same way without the first line end.
    assert!(!recorder.text().contains("\r\n0\r\n\r\n"), "{}", recorder.text());
}

#[tokio::test]
async fn a_long_chunk_extension_or_trailer_is_refused() {
    let stage = Stage::start().await;
    let (recorder, target) = Recorder::start().await;
    stage.serve(&[&target]);
    for chunks in [
        format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000)),
        format!("5\r\nhello\r\n0\r\nX-A: {}\r\n\r\n", "a".repeat(70_000)),
        format!("5\r\nhello\r\n0\r\n{}\r\n", "X-A: 1\r\n".repeat(101)),
    ] {
        let request = format!("POST / HTTP/1.1\r\n{HOST_FIELD}Transfer-Encoding: chunked\r\n\r\n{chunks}");
        let answer = answer(&stage, request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    // A last chunk is a line of its own; a head whose request ID ends in 0 ends the same way without the first line end.
    assert!(!recorder.text().contains("\r\n0\r\n\r\n"), "{}", recorder.text());
}

/// What RFC 9112 lets pass, and how the backend gets it: a name, the request, what the backend's bytes must contain,
/// and what they must not.
const REWRITTEN: &[(&str, &str, &[&str], &[&str])] = &[
    ("bare LFs", "GET /a HTTP/1.1\nHost: shop.example.com\nConnection: close\n\n", &["GET /a HTTP/1.1\r\n"], &["1\nh"]),
    ("empty lines before", "\r\n\r\nGET /a HTTP/1.1\r\n{}Connection: close\r\n\r\n", &["GET /a HTTP/1.1\r\n"], &[]),
    (
        "one length twice",
        "POST / HTTP/1.1\r\n{}Content-Length: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        &["content-length: 5\r\n", "\r\n\r\nhello"],
        &["content-length: 5\r\ncontent-length", "transfer-encoding"],
    ),
    (
        "a length with zeros before",
        "POST / HTTP/1.1\r\n{}Content-Length: 0005\r\nConnection: close\r\n\r\nhello",
        &["\r\n\r\nhello"],
        &["transfer-encoding"],
    ),
    (
        "both length and coding",
        "POST / HTTP/1.1\r\n{}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &["transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"],
        &["content-length"],
    ),
    (
        "both coding and length",
        "POST / HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &["transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"],
        &["content-length"],
    ),
    (
        "a coding in mixed case and with spaces",
        "POST / HTTP/1.1\r\n{}TRANSFER-encoding:  \tChunked \r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &["transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"],
        &["Chunked"],
    ),
    (
        "chunk extensions, sizes with zeros and capitals",
        "POST / HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         005;a=b\r\nhello\r\nA ;x=\"y\"\r\n0123456789\r\n00\r\n\r\n",
        &["5\r\nhello\r\n", "A\r\n0123456789\r\n", "0\r\n\r\n"],
        &[";", "005", "00\r\n"],
    ),
    (
        "lengths that Connection names",
        "POST / HTTP/1.1\r\n{}Connection: close, Content-Length, Host\r\nContent-Length: 5\r\n\r\nhello",
        &["content-length: 5\r\n", "host: shop.example.com\r\n"],
        &["connection"],
    ),
    (
        "a coding that Connection names",
        "POST / HTTP/1.1\r\n{}Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &["transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"],
        &["content-length"],
    ),
    (
        "an empty body in chunks",
        "POST / HTTP/1.1\r\n{}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &["transfer-encoding: chunked\r\n", "\r\n\r\n0\r\n\r\n"],
        &["content-length"],
    ),
    (
        "a body of a GET",
        "GET / HTTP/1.1\r\n{}Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        &["content-length: 5\r\n", "\r\n\r\nhello"],
        &["transfer-encoding"],
    ),
    (
        "a body that looks like a request",
        "POST / HTTP/1.1\r\n{}Connection: close\r\nContent-Length: 25\r\n\r\nGET /evil HTTP/1.1\r\nA: b\r\n",
        &["content-length: 25\r\n", "\r\n\r\nGET /evil HTTP/1.1\r\nA: b"],
        &["transfer-encoding"],
    ),
    ("an unknown method", "PURGE / HTTP/1.1\r\n{}Connection: close\r\n\r\n", &["PURGE / HTTP/1.1\r\n"], &[]),
    ("values beyond ASCII", "GET / HTTP/1.1\r\n{}Connection: close\r\nX-A: \u{e4}\r\n\r\n", &["x-a: \u{e4}\r\n"], &[]),
    ("an empty value", "GET / HTTP/1.1\r\n{}Connection: close\r\nX-A:\r\n\r\n", &["x-a: \r\n"], &[]),
    (
        "values in their order",
        "GET / HTTP/1.1\r\n{}Connection: close\r\nX-A: 1\r\nX-B: 2\r\nX-A: 3\r\n\r\n",
        &["x-a: 1\r\nx-a: 3\r\n"],
        &[],
    ),
    (
        "absolute form",
        "GET http://SHOP.example.com:80/a?b HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\n\r\n",
        &["GET /a?b HTTP/1.1\r\n", "host: SHOP.example.com:80\r\n"],
        &["evil"],
    ),
    (
        "absolute form without a path",
        "GET http://shop.example.com?a HTTP/1.1\r\n{}Connection: close\r\n\r\n",
        &["GET /?a HTTP/1.1\r\n"],
        &[],
    ),
];

#[tokio::test]
async fn what_is_forwarded_is_written_anew() {
    let stage = Stage::start().await;
    let mut wrong = Vec::new();
    for (name, request, present, absent) in REWRITTEN {
        let (recorder, target) = Recorder::start().await;
        stage.serve(&[&target]);
        let answer = answer(&stage, request.replace("{}", HOST_FIELD).as_bytes()).await;
        let seen = recorder.text();
        let whole = answer.starts_with("HTTP/1.1 200 ") && answer.matches("HTTP/1.1 ").count() == 1;
        if !whole || present.iter().any(|part| !seen.contains(part)) || absent.iter().any(|part| seen.contains(part)) {
            wrong.push(format!("{name}: {answer:?} for {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_follows_a_request_of_two_lengths_is_never_read() {
    let stage = Stage::start().await;
    let (recorder, target) = Recorder::start().await;
    stage.serve(&[&target]);
    let smuggled = format!(
        "POST / HTTP/1.1\r\n{HOST_FIELD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /evil HTTP/1.1\r\n{HOST_FIELD}\r\n"
    );
    let answer = answer(&stage, smuggled.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(!recorder.text().contains("evil"), "{}", recorder.text());
}

#[tokio::test]
async fn what_follows_trailers_with_a_bare_line_feed_is_no_request() {
    let stage = Stage::start().await;
    let (recorder, target) = Recorder::start().await;
    stage.serve(&[&target]);
    for end in ["0\r\nX-A: 1\n\r\n", "0\r\n\n", "0\r\nX-A: 1\r\n\n"] {
        let smuggled = format!(
            "POST / HTTP/1.1\r\n{HOST_FIELD}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{end}\
             GET /evil HTTP/1.1\r\n{HOST_FIELD}\r\n"
        );
        let answer = answer(&stage, smuggled.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    assert!(!recorder.text().contains("evil"), "{}", recorder.text());
}

#[tokio::test]
async fn a_body_that_ends_early_is_never_whole() {
    let stage = Stage::start().await;
    let (recorder, target) = Recorder::start().await;
    stage.serve(&[&target]);
    for body in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut visitor = stage.visit().await;
        visitor.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{body}").as_bytes()).await;
        visitor.0.shutdown().await.expect("ended");
        let answer = visitor.rest().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(stage.get("/last").await.status, 200);
    // A last chunk is a line of its own; a head whose request ID ends in 0 ends the same way without the first line end.
    assert!(!recorder.text().contains("\r\n0\r\n\r\n"), "{}", recorder.text());
}
