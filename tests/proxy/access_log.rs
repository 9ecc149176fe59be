//! What the access log says of requests.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use culvert::{
    proxy,
    telemetry::access_log::{AccessLog, AccessLogFormat, AccessLogWriter},
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    stage::{HOST, Options, Stage, backend, mirror, read_head, request},
    support::{PATIENCE, accept},
};

/// What an access log wrote.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("a writer that lives").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// Options with a log that is written here.
    pub(crate) fn log(format: AccessLogFormat, mut options: Options) -> (Options, Self, AccessLogWriter) {
        let written = Self::default();
        let (log, writer) =
            AccessLog::start(format, written.clone(), &prometheus::Registry::new()).expect("an access log");
        options.config = proxy::Config { access_log: Some(log), ..options.config };
        (options, written, writer)
    }

    /// The first line, once it is there.
    pub(crate) async fn line(&self, number: usize) -> String {
        let line = async {
            loop {
                let written = String::from_utf8(self.0.lock().expect("written").clone()).expect("text");
                if let Some(line) = written.lines().nth(number) {
                    return line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, line).await.expect("a line in time")
    }

    pub(crate) async fn json(&self, number: usize) -> Value {
        let line = self.line(number).await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

#[tokio::test]
async fn a_line_says_where_a_request_came_from_and_went_and_what_came_of_it() {
    let (options, written, _writer) = Written::log(AccessLogFormat::Json, Options::behind_proxy());
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        let mut body = [0; 8];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body).await.expect("the body");
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello").await.expect("answered");
    })
    .await;
    let stage = Stage::start_with(options).await;
    stage.serve(&[&target]);
    let fields = "Content-Length: 8\r\nX-Forwarded-For: 203.0.113.9\r\nX-Request-Id: theirs\r\nAuthorization: Bearer hush\r\n\
                  Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let head = request("POST", "/a?b=c&token=hush", fields);
    assert_eq!(stage.send(&format!("{head}12345678")).await.status, 201);

    let line = written.line(0).await;
    assert!(!line.contains("hush"), "{line}");
    let line = written.json(0).await;
    for (field, expected) in [
        ("visitor", Value::from("203.0.113.9")),
        ("method", "POST".into()),
        ("host", HOST.into()),
        ("path", "/a?b=c&token=REDACTED".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 201.into()),
        ("received", 8.into()),
        ("sent", 5.into()),
        ("tunnelhost", "web/shop".into()),
        ("agent", "lab".into()),
        ("target", target.into()),
        ("retries", 0.into()),
        ("backend_status", 201.into()),
        ("request_id", "theirs".into()),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c".into()),
        ("reason", Value::Null),
        ("tls", Value::Null),
    ] {
        assert_eq!(line[field], expected, "{field} in {line}");
    }
    let (duration, backend) =
        (line["duration"].as_f64().expect("seconds"), line["backend_time"].as_f64().expect("seconds"));
    assert!(duration >= backend && backend > 0.0 && duration < 30.0, "{line}");
    assert!(line["time"].as_str().expect("a time").ends_with('Z'));
}

#[tokio::test]
async fn a_retry_is_told_with_where_it_ended() {
    let (options, written, _writer) = Written::log(AccessLogFormat::Json, Options::default());
    let (closed, refusing) = crate::support::backend();
    drop(closed);
    let target = mirror().await;
    let stage = Stage::start_with(options).await;
    stage.serve(&[&refusing, &target]);
    // One of two in turn begins with the refusing one.
    for number in 0..2 {
        assert_eq!(stage.get("/").await.status, 200);
        assert_eq!(written.json(number).await["target"], Value::from(target.as_str()));
    }
    let retries = [written.json(0).await, written.json(1).await].map(|line| line["retries"].as_u64());
    assert!(retries == [Some(0), Some(1)] || retries == [Some(1), Some(0)], "{retries:?}");
}

#[tokio::test]
async fn a_join_is_one_line_at_its_end() {
    let (options, written, _writer) = Written::log(AccessLogFormat::Json, Options::default());
    let (listener, target) = crate::support::backend();
    let stage = Stage::start_with(options).await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    let upgrade = format!("GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    visitor.send(upgrade.as_bytes()).await;
    let mut join = accept(&listener).await;
    read_head(&mut join).await;
    join.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .await
        .expect("sent");
    assert_eq!(visitor.answer().await.status, 101);
    // One that is over meanwhile comes first.
    assert_eq!(stage.send("GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n").await.status, 404);
    assert_eq!(written.json(0).await["reason"], "unknown_host");

    visitor.send(b"hello").await;
    tokio::io::AsyncReadExt::read_exact(&mut join, &mut [0; 5]).await.expect("hello");
    join.write_all(b"hi").await.expect("sent");
    drop(join);
    assert_eq!(visitor.rest().await, b"hi");
    drop(visitor);
    let line = written.json(1).await;
    assert_eq!(
        [&line["status"], &line["received"], &line["sent"]],
        [&Value::from(101), &5.into(), &2.into()],
        "{line}"
    );
}

#[tokio::test]
async fn the_common_log_format_is_what_its_readers_expect() {
    let (options, written, _writer) = Written::log(AccessLogFormat::Clf, Options::default());
    let stage = Stage::start_with(options).await;
    let answer = stage.get("/a?password=hush").await;
    let line = written.line(0).await;
    let (before, after) = line.split_once(" - - [").expect("the visitor");
    assert_eq!(before, "127.0.0.1");
    let expected = format!("] \"GET /a?password=REDACTED HTTP/1.1\" 404 {}", answer.body.len());
    assert!(after.ends_with(&expected), "{line}");
}
