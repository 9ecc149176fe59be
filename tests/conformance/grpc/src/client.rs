//! The client: it runs each case through `https://localhost:PORT` and prints `ok CASE DETAIL` or `FAILED CASE REASON`.

use std::{
    cell::Cell,
    fmt::Debug,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::{
    Stream, StreamExt, iter,
    wrappers::{IntervalStream, ReceiverStream},
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{Outcome, codec::Plain};

const MANY: usize = 10_000;
/// Together 100 MiB.
const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 1600;
/// For a case.
const PATIENCE: Duration = Duration::from_secs(240);
/// Until the server must have seen a call end.
const SOON: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_millis(700);

type Case<'a> = Pin<Box<dyn Future<Output = Outcome<String>> + 'a>>;

/// Runs all cases.
pub async fn run(port: &str, ca: &[u8]) -> Outcome<()> {
    let client = Client::new(port, ca, "localhost")?;
    let unknown = Client::new(port, ca, "unknown.localhost")?;
    let absent = Client::new(port, ca, "absent.localhost")?;
    let refused = Client::new(port, ca, "refused.localhost")?;
    let cases: Vec<(&str, Case<'_>)> = vec![
        ("unary", Box::pin(unary(&client))),
        ("large_unary", Box::pin(large_unary(&client))),
        ("client_stream", Box::pin(client_stream(&client))),
        ("empty_client_stream", Box::pin(empty_client_stream(&client))),
        ("server_stream", Box::pin(server_stream(&client))),
        ("empty_server_stream", Box::pin(empty_server_stream(&client))),
        ("bidirectional", Box::pin(bidirectional(&client))),
        ("trailers_only_error", Box::pin(trailers_only_error(&client))),
        ("unicode_error", Box::pin(unicode_error(&client))),
        ("error_after_messages", Box::pin(error_after_messages(&client))),
        ("unknown_method", Box::pin(unknown_method(&client))),
        ("metadata", Box::pin(metadata(&client))),
        ("deadline", Box::pin(deadline(&client))),
        ("cancel_before_head", Box::pin(cancel_before_head(&client))),
        ("cancel_in_download", Box::pin(cancel_in_download(&client))),
        ("cancel_in_full_download", Box::pin(cancel_in_full_download(&client))),
        ("cancel_in_upload", Box::pin(cancel_in_upload(&client))),
        ("many_small_messages", Box::pin(many_small_messages(&client))),
        ("many_small_messages_down", Box::pin(many_small_messages_down(&client))),
        ("many_calls", Box::pin(many_calls(&client))),
        ("long_download", Box::pin(long_download(&client))),
        ("long_upload", Box::pin(long_upload(&client))),
        ("unknown_host", Box::pin(edge_error(&unknown, Code::Unimplemented))),
        ("no_agent", Box::pin(edge_error(&absent, Code::Unavailable))),
        ("backend_refuses", Box::pin(edge_error(&refused, Code::Unavailable))),
    ];
    for (name, case) in cases {
        let outcome = timeout(PATIENCE, case).await.unwrap_or_else(|_| Err("it did not end".into()));
        let (verdict, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(error) => ("FAILED", error.to_string()),
        };
        println!("{verdict} {name} {}", detail.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    Ok(())
}

struct Client {
    channel: Channel,
    calls: Cell<usize>,
}

// === impl Client ===

impl Client {
    fn new(port: &str, ca: &[u8], authority: &str) -> Outcome<Self> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(authority);
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))?.tls_config(tls)?;
        let channel = endpoint.origin(format!("https://{authority}").parse()?).connect_lazy();
        Ok(Self { channel, calls: Cell::new(0) })
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    async fn unary(&self, method: &'static str, request: impl Into<Request<Bytes>>) -> Result<Bytes, Status> {
        let answer = self.ready().await?.unary(request.into(), path(method), Plain).await?;
        Ok(answer.into_inner())
    }

    async fn collect<S>(&self, requests: Request<S>) -> Result<Bytes, Status>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let answer = self.ready().await?.client_streaming(requests, path("Collect"), Plain).await?;
        Ok(answer.into_inner())
    }

    async fn download(
        &self,
        method: &'static str,
        request: impl Into<Request<Bytes>>,
    ) -> Result<Streaming<Bytes>, Status> {
        let answer = self.ready().await?.server_streaming(request.into(), path(method), Plain).await?;
        Ok(answer.into_inner())
    }

    async fn echo<S>(&self, requests: Request<S>) -> Result<Response<Streaming<Bytes>>, Status>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        self.ready().await?.streaming(requests, path("Echo"), Plain).await
    }

    /// A request with an id, and that id.
    fn known<T>(&self, message: T) -> Outcome<(Request<T>, String)> {
        self.calls.set(self.calls.get() + 1);
        let id = format!("tonic-{}", self.calls.get());
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-id", MetadataValue::try_from(&id)?);
        Ok((request, id))
    }

    /// What the server knows of a call, once it does.
    async fn wait(&self, id: &str, what: &str) -> Outcome<String> {
        let answer = self.unary("Await", Request::new(Bytes::from(format!("{id} {what}")))).await?;
        Ok(String::from_utf8(answer.to_vec())?)
    }
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::try_from(format!("/interop/{method}")).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

fn message(text: impl Into<Bytes>) -> Request<Bytes> {
    Request::new(text.into())
}

fn equal<T: PartialEq + Debug>(seen: T, expected: T) -> Outcome<()> {
    if seen == expected { Ok(()) } else { Err(format!("{seen:?} instead of {expected:?}").into()) }
}

/// The status that a call ends with.
fn refused<T>(outcome: Result<T, Status>) -> Outcome<Status> {
    outcome.err().ok_or_else(|| "it succeeded".into())
}

fn within(limit: Duration, start: Instant) -> Outcome<String> {
    let took = start.elapsed();
    if took > limit { Err(format!("took {took:?}").into()) } else { Ok(format!("{} ms", took.as_millis())) }
}

async fn all(mut answers: Streaming<Bytes>) -> Result<Vec<Bytes>, Status> {
    let mut seen = Vec::new();
    while let Some(answer) = answers.message().await? {
        seen.push(answer);
    }
    Ok(seen)
}

fn nothing() -> Outcome<String> {
    Ok(String::new())
}

// The cases.

async fn unary(client: &Client) -> Outcome<String> {
    equal(client.unary("Unary", message("hello")).await?, Bytes::from("hello"))?;
    equal(client.unary("Unary", message("")).await?, Bytes::new())?;
    nothing()
}

async fn large_unary(client: &Client) -> Outcome<String> {
    let large = Bytes::from(vec![b'x'; 4_000_000]);
    equal(client.unary("Unary", message(large.clone())).await? == large, true)?;
    nothing()
}

async fn client_stream(client: &Client) -> Outcome<String> {
    let answer = client.collect(Request::new(iter(["a", "bc", ""].map(Bytes::from)))).await?;
    equal(answer, Bytes::from("3 3"))?;
    nothing()
}

async fn empty_client_stream(client: &Client) -> Outcome<String> {
    equal(client.collect(Request::new(tokio_stream::empty())).await?, Bytes::from("0 0"))?;
    nothing()
}

async fn server_stream(client: &Client) -> Outcome<String> {
    let seen = all(client.download("Emit", message("5 3")).await?).await?;
    equal(seen, vec![Bytes::from("xxx"); 5])?;
    nothing()
}

async fn empty_server_stream(client: &Client) -> Outcome<String> {
    equal(all(client.download("Emit", message("0 0")).await?).await?, vec![])?;
    nothing()
}

/// Each message is sent only once the one before it is back.
async fn bidirectional(client: &Client) -> Outcome<String> {
    let (sender, receiver) = mpsc::channel(1);
    let number = |number: usize| Bytes::from(number.to_string());
    sender.send(number(0)).await?;
    let mut answers = client.echo(Request::new(ReceiverStream::new(receiver))).await?.into_inner();
    for turn in 0..100 {
        equal(answers.message().await?, Some(number(turn)))?;
        sender.send(number(turn + 1)).await?;
    }
    drop(sender);
    equal(all(answers).await?, vec![number(100)])?;
    nothing()
}

fn is_asked_for(status: &Status, code: Code, message: &str) -> Outcome<String> {
    equal((status.code(), status.message()), (code, message))?;
    equal(status.metadata().get("x-why").map(MetadataValue::as_bytes), Some(b"asked-for".as_slice()))?;
    nothing()
}

async fn trailers_only_error(client: &Client) -> Outcome<String> {
    let status = refused(client.unary("Fail", message("9 no such thing")).await)?;
    is_asked_for(&status, Code::FailedPrecondition, "no such thing")
}

async fn unicode_error(client: &Client) -> Outcome<String> {
    let text = "50 % für Ähren, 数据 🚇";
    let status = refused(client.unary("Fail", message(format!("5 {text}"))).await)?;
    is_asked_for(&status, Code::NotFound, text)
}

async fn error_after_messages(client: &Client) -> Outcome<String> {
    let mut answers = client.download("FailLate", message("15 half way")).await?;
    for expected in ["0", "1", "2"] {
        equal(answers.message().await?, Some(Bytes::from(expected)))?;
    }
    is_asked_for(&refused(answers.message().await)?, Code::DataLoss, "half way")
}

async fn unknown_method(client: &Client) -> Outcome<String> {
    equal(refused(client.unary("Nothing", message("")).await)?.code(), Code::Unimplemented)?;
    nothing()
}

async fn metadata(client: &Client) -> Outcome<String> {
    let (text, data) = ("some text, with; marks", (0..=255).collect::<Vec<u8>>());
    let mut request = Request::new(iter([Bytes::from("a")]));
    request.metadata_mut().insert("x-text", MetadataValue::from_static(text));
    request.metadata_mut().insert_bin("x-data-bin", MetadataValue::from_bytes(&data));
    let answer = client.echo(request).await?;
    equal(answer.metadata().get("x-text").map(MetadataValue::as_bytes), Some(text.as_bytes()))?;
    let mut answers = answer.into_inner();
    equal(answers.message().await?, Some(Bytes::from("a")))?;
    equal(answers.message().await?, None)?;
    let trailers = answers.trailers().await?.ok_or("there were no trailers")?;
    equal(trailers.get_bin("x-data-bin").ok_or("no x-data-bin")?.to_bytes()?, Bytes::from(data))?;
    nothing()
}

async fn deadline(client: &Client) -> Outcome<String> {
    let (mut request, id) = client.known(Bytes::new())?;
    request.set_timeout(DEADLINE);
    let start = Instant::now();
    let code = refused(client.unary("Hang", request).await)?.code();
    // tonic calls it cancelled when its own clock was first.
    equal(matches!(code, Code::DeadlineExceeded | Code::Cancelled), true)?;
    equal(client.wait(&id, "ended").await?, "cancelled".to_owned())?;
    let took = within(DEADLINE + SOON, start)?;
    let given: f64 = client.wait(&id, "started").await?.parse()?;
    // It is rounded up.
    equal((given > 0.3 && given < 0.75, given), (true, given))?;
    Ok(format!("0.7 s given, {given} s arrived, over after {took}"))
}

/// The server has seen the end of a call that the client gave up at `start`.
async fn is_cancelled(client: &Client, id: &str, start: Instant) -> Outcome<String> {
    equal(client.wait(id, "ended").await?, "cancelled".to_owned())?;
    within(SOON, start)
}

async fn cancel_before_head(client: &Client) -> Outcome<String> {
    let (request, id) = client.known(Bytes::new())?;
    let mut grpc = client.ready().await?;
    let running = tokio::spawn(async move { grpc.unary(request, path("Hang"), Plain).await });
    equal(client.wait(&id, "started").await?, "-".to_owned())?;
    let start = Instant::now();
    running.abort();
    is_cancelled(client, &id, start).await
}

async fn cancel_in_download(client: &Client) -> Outcome<String> {
    let (request, id) = client.known(Bytes::new())?;
    let mut answers = client.download("HangLate", request).await?;
    equal(answers.message().await?, Some(Bytes::from("0")))?;
    let start = Instant::now();
    drop(answers);
    is_cancelled(client, &id, start).await
}

/// Of a server that waits for room to send.
async fn cancel_in_full_download(client: &Client) -> Outcome<String> {
    let (request, id) = client.known(Bytes::from("10000 65536"))?;
    let mut answers = client.download("Emit", request).await?;
    answers.message().await?;
    let start = Instant::now();
    drop(answers);
    is_cancelled(client, &id, start).await
}

async fn cancel_in_upload(client: &Client) -> Outcome<String> {
    let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(10)));
    let (request, id) = client.known(ticks.map(|_| Bytes::from("x")))?;
    let mut grpc = client.ready().await?;
    let running = tokio::spawn(async move { grpc.client_streaming(request, path("Collect"), Plain).await });
    client.wait(&id, "started").await?;
    let start = Instant::now();
    running.abort();
    is_cancelled(client, &id, start).await
}

async fn many_small_messages(client: &Client) -> Outcome<String> {
    let start = Instant::now();
    let small = Bytes::from("small");
    let requests = iter(vec![small.clone(); MANY]);
    let seen = all(client.echo(Request::new(requests)).await?.into_inner()).await?;
    equal((seen.len(), seen.iter().all(|each| *each == small)), (MANY, true))?;
    Ok(format!("{MANY} both ways, {}", within(PATIENCE, start)?))
}

async fn many_small_messages_down(client: &Client) -> Outcome<String> {
    let start = Instant::now();
    let seen = all(client.download("Emit", message(format!("{MANY} 5"))).await?).await?;
    equal(seen.len(), MANY)?;
    Ok(format!("{MANY}, {}", within(PATIENCE, start)?))
}

async fn many_calls(client: &Client) -> Outcome<String> {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..1000 {
        let mut grpc = client.ready().await?;
        running.spawn(async move {
            let text = Bytes::from(number.to_string());
            let answer = grpc.unary(message(text.clone()), path("Unary"), Plain).await?;
            Ok::<_, Status>(answer.into_inner() == text)
        });
    }
    while let Some(done) = running.join_next().await {
        equal(done??, true)?;
    }
    Ok(format!("1000 at once, {}", within(PATIENCE, start)?))
}

async fn long_download(client: &Client) -> Outcome<String> {
    let (start, mut size) = (Instant::now(), 0);
    let mut answers = client.download("Emit", message(format!("{CHUNKS} {CHUNK}"))).await?;
    while let Some(answer) = answers.message().await? {
        size += answer.len();
    }
    equal(size, CHUNKS * CHUNK)?;
    Ok(format!("{} MiB, {}", size >> 20, within(PATIENCE, start)?))
}

async fn long_upload(client: &Client) -> Outcome<String> {
    let start = Instant::now();
    let answer = client.collect(Request::new(iter(vec![Bytes::from(vec![b'x'; CHUNK]); CHUNKS]))).await?;
    equal(answer, Bytes::from(format!("{CHUNKS} {}", CHUNKS * CHUNK)))?;
    Ok(format!("{} MiB, {}", (CHUNKS * CHUNK) >> 20, within(PATIENCE, start)?))
}

/// An answer of the edge's own.
async fn edge_error(client: &Client, code: Code) -> Outcome<String> {
    let status = refused(client.unary("Unary", message("")).await)?;
    equal(status.code(), code)?;
    Ok(status.message().to_owned())
}
