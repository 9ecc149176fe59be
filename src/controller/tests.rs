mod cluster;
mod events;
mod folder;
mod scope;
mod status;
mod tls_secrets;

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_test::mock::{Handle, SendResponse};

use super::{Backends, ClusterConfig, Controller, Observed, Outputs, Sessions};

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

/// A controller that runs, what it tells, and its metrics. Its calls are in the hands of `take`; those that it gives back
/// are answered with empty lists.
fn run_controller(take: impl FnMut(Call) -> Option<Call> + Send + 'static) -> (Outputs, prometheus::Registry) {
    run_controller_of(&[], take)
}

/// The same of a controller that watches these namespaces only.
fn run_controller_of(
    namespaces: &[&str],
    mut take: impl FnMut(Call) -> Option<Call> + Send + 'static,
) -> (Outputs, prometheus::Registry) {
    let (client, mut api) = Api::new();
    let registry = prometheus::Registry::new();
    let config = ClusterConfig {
        replica: "edge-1".to_owned(),
        namespace: "culvert".to_owned(),
        lease: "culvert".to_owned(),
        bridge_service: "culvert-bridge".to_owned(),
        watch_namespaces: namespaces.iter().map(|name| name.parse().expect("a name")).collect(),
    };
    let controller = Controller::cluster(client, config, nothing_observed(), &registry).expect("a controller");
    let outputs = controller.outputs();
    tokio::spawn(controller.run(CancellationToken::new()));
    tokio::spawn(async move {
        // Watches that bring nothing: they must not end, or they would be taken up again at once.
        let mut silent = Vec::new();
        while let Some(call) = api.next().await {
            let Some(call) = take(call) else { continue };
            if call.query.contains("watch=true") {
                silent.push(call);
            } else if call.path.contains("/leases") {
                call.refuse(StatusCode::FORBIDDEN);
            } else {
                call.answer(&list(&[], "1"));
            }
        }
    });
    (outputs, registry)
}

/// What a replica sees that nobody comes to.
fn nothing_observed() -> Observed {
    Observed {
        sessions: watch::Sender::new(Arc::new(Sessions::new())).subscribe(),
        backends: watch::Sender::new(Arc::new(Backends::new())).subscribe(),
    }
}

fn list(items: &[Value], version: &str) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items})
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
