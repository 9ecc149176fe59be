//! The server. Of a call with `x-id` it is kept how much time it was given and how it ended, which Await tells.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::TcpListener, sync::Notify, time::timeout};
use tokio_stream::{Stream, StreamExt, iter, once, pending};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    metadata::{MetadataMap, MetadataValue},
    server::{Grpc, NamedService},
    transport::{Server, server::TcpIncoming},
};
use tower::{Service, service_fn};

use super::{Outcome, codec::Plain};

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Serves until it is ended.
pub async fn run() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    Server::builder().add_service(Interop::default()).serve_with_incoming(TcpIncoming::from(listener)).await?;
    Ok(())
}

#[derive(Clone, Default)]
struct Interop(Arc<Calls>);

/// What is known of the calls with an id.
#[derive(Default)]
struct Calls {
    known: Mutex<HashMap<(String, &'static str), String>>,
    changed: Notify,
}

/// A call in progress; if it is dropped before it has finished, the client has given it up.
struct Call(Option<(Arc<Calls>, String)>);

/// Answers whose end is that of the call.
struct Guarded(Answers, Call);

// === impl Interop ===

impl NamedService for Interop {
    const NAME: &'static str = "interop";
}

impl Service<http::Request<Body>> for Interop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// All kinds of calls are the same on the wire.
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (calls, path) = (self.0.clone(), request.uri().path().to_owned());
        let service = service_fn(move |request| answer(calls.clone(), path.clone(), request));
        Box::pin(async move { Ok(Grpc::new(Plain).streaming(service, request).await) })
    }
}

async fn answer(
    calls: Arc<Calls>,
    path: String,
    request: Request<Streaming<Bytes>>,
) -> Result<Response<Answers>, Status> {
    let (metadata, _, mut requests) = request.into_parts();
    let mut call = calls.enter(&metadata);
    let method = path.rsplit('/').next().unwrap_or_default();
    let mut words = String::new();
    if matches!(method, "Emit" | "Fail" | "FailLate" | "Await") {
        let message = requests.message().await?.unwrap_or_default();
        words = String::from_utf8_lossy(&message).into_owned();
    }
    let (first, rest) = words.split_once(' ').unwrap_or_default();
    let answers: Answers = match method {
        "Unary" => Box::pin(requests.take(1)),
        "Collect" => {
            let (mut count, mut size) = (0, 0);
            while let Some(message) = requests.message().await? {
                (count, size) = (count + 1, size + message.len());
            }
            Box::pin(once(Ok(Bytes::from(format!("{count} {size}")))))
        }
        "Emit" => {
            let (count, size) = (first.parse().unwrap_or(0), rest.parse().unwrap_or(0));
            let message = Bytes::from(vec![b'x'; size]);
            Box::pin(iter((0..count).map(move |_: usize| Ok(message.clone()))))
        }
        "Echo" => {
            let mut end = MetadataMap::new();
            if let Some(data) = metadata.get_bin("x-data-bin") {
                end.insert_bin("x-data-bin", data.clone());
            }
            // That is how tonic is made to send trailers of the service's own.
            let end = Status::with_metadata(Code::Ok, "", end);
            let mut response = Response::new(Box::pin(requests.chain(once(Err(end)))) as Answers);
            if let Some(text) = metadata.get("x-text") {
                response.metadata_mut().insert("x-text", text.clone());
            }
            return Ok(response.map(|answers| Box::pin(Guarded(answers, call)) as Answers));
        }
        "Fail" => return Err(failure(first, rest)),
        "FailLate" => {
            let messages = ["0", "1", "2"].map(|message| Ok(Bytes::from(message)));
            Box::pin(iter(messages).chain(once(Err(failure(first, rest)))))
        }
        "Hang" => std::future::pending().await,
        "HangLate" => Box::pin(once(Ok(Bytes::from("0"))).chain(pending())),
        "Await" => {
            let found = timeout(Duration::from_secs(10), calls.wait(first, rest)).await;
            Box::pin(once(Ok(Bytes::from(found.unwrap_or_else(|_| "never".to_owned())))))
        }
        _ => {
            call.finish();
            return Err(Status::unimplemented(path));
        }
    };
    Ok(Response::new(Box::pin(Guarded(answers, call))))
}

fn failure(code: &str, message: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-why", MetadataValue::from_static("asked-for"));
    Status::with_metadata(Code::from_bytes(code.as_bytes()), message, metadata)
}

/// The seconds of `grpc-timeout`.
fn given(metadata: &MetadataMap) -> Option<f64> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = value.split_at(value.len().checked_sub(1)?);
    let seconds = match unit {
        "H" => 3600.0,
        "M" => 60.0,
        "S" => 1.0,
        "m" => 1e-3,
        "u" => 1e-6,
        "n" => 1e-9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * seconds)
}

// === impl Calls ===

impl Calls {
    fn enter(self: &Arc<Self>, metadata: &MetadataMap) -> Call {
        let Some(id) = metadata.get("x-id").and_then(|id| id.to_str().ok()) else { return Call(None) };
        self.keep(id, "started", given(metadata).map_or("-".to_owned(), |given| format!("{given:.3}")));
        Call(Some((self.clone(), id.to_owned())))
    }

    fn keep(&self, id: &str, what: &'static str, value: String) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert((id.to_owned(), what), value);
        self.changed.notify_waiters();
    }

    fn find(&self, id: &str, what: &str) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|((known, state), _)| known == id && *state == what).map(|(_, value)| value.clone())
    }

    async fn wait(&self, id: &str, what: &str) -> String {
        loop {
            let changed = self.changed.notified();
            if let Some(value) = self.find(id, what) {
                return value;
            }
            changed.await;
        }
    }
}

// === impl Call ===

impl Call {
    fn finish(&mut self) {
        if let Some((calls, id)) = self.0.take() {
            calls.keep(&id, "ended", "finished".to_owned());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some((calls, id)) = self.0.take() {
            calls.keep(&id, "ended", "cancelled".to_owned());
        }
    }
}

// === impl Guarded ===

impl Stream for Guarded {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.as_mut().poll_next(context);
        if matches!(next, Poll::Ready(None)) {
            self.1.finish();
        }
        next
    }
}
