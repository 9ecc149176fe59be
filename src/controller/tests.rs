mod cluster;
mod folder;
mod status;
mod tls_secrets;

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tower_test::mock::{Handle, SendResponse};

/// An API server in the hands of a test.
struct Api {
    handle: Handle<Request<Body>, Response<Body>>,
}

/// One request to it, and the way to answer.
struct Call {
    method: Method,
    path: String,
    query: String,
    body: Value,
    /// What form of an object it asks for.
    accept: String,
    answer: SendResponse<Response<Body>>,
}

// === impl Api ===

impl Api {
    fn new() -> (Client, Self) {
        let (service, handle) = tower_test::mock::pair();
        (Client::new(service, "default"), Self { handle })
    }

    /// The next request. Time is paused in these tests: the bound is reached only once nothing else can happen.
    async fn next(&mut self) -> Option<Call> {
        let (request, answer) =
            tokio::time::timeout(Duration::from_mins(1), self.handle.next_request()).await.ok().flatten()?;
        let (head, body) = request.into_parts();
        let accept = head.headers.get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let body = body.collect().await.expect("a body").to_bytes();
        Some(Call {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            accept: accept.to_owned(),
            answer,
        })
    }
}

// === impl Call ===

impl Call {
    fn answer(self, body: &Value) {
        self.answer.send_response(Response::new(Body::from(body.to_string().into_bytes())));
    }

    fn refuse(self, code: StatusCode) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
            "message": "of a test", "reason": "Test", "metadata": {},
        });
        let response = Response::builder().status(code).body(Body::from(status.to_string().into_bytes()));
        self.answer.send_response(response.expect("a response"));
    }
}

fn host(name: &str, hostname: &str, version: &str) -> Value {
    json!({
        "apiVersion": "culvert.dev/v1alpha1",
        "kind": "TunnelHost",
        "metadata": {
            "namespace": "web", "name": name, "generation": 1, "resourceVersion": version,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "hostnames": [hostname],
            "routes": [{"backend": {"agents": [{"name": "home"}], "targets": [{"address": "127.0.0.1:80"}]}}],
        },
    })
}

fn agent(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "culvert.dev/v1alpha1",
        "kind": "TunnelAgent",
        "metadata": {"namespace": "web", "name": name, "generation": 1, "resourceVersion": version},
        "spec": {"credentials": [{"secretRef": {"name": "token"}}]},
    })
}
