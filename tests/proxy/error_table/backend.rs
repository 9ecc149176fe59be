//! The way to the backend.

use std::{sync::Arc, time::Duration};

use culvert::{
    routing::{Backend, BackendTls, Protocol, Trust},
    tunnel,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::Scene;
use crate::{
    backends::tls::https_backend,
    secure::Made,
    stage::{self, Options, mirror, read_head, request},
    support::accept,
};

pub(super) async fn the_agent_may_not_go_there(reason: &str) {
    let scene = Scene::with(Options { allow: &["127.0.0.1:1"], ..Options::default() }).await;
    scene.stage.serve(&[&mirror().await]);
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("connection_refused"), reason).await;
}

pub(super) async fn the_backend_refuses(reason: &str) {
    let (listener, target) = crate::support::backend();
    drop(listener);
    let scene = Scene::of(&target).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("connection_refused"), reason).await;
}

pub(super) async fn the_backends_name_leads_nowhere(reason: &str) {
    let scene = Scene::with(Options { allow: &["nowhere.invalid:80"], ..Options::default() }).await;
    scene.stage.serve(&["nowhere.invalid:80"]);
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("destination_ip_unroutable"), reason).await;
}

pub(super) async fn the_backend_takes_no_connection(reason: &str) {
    // Nobody accepts, and its backlog is full.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut filling = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        filling.push(connected.expect("a connection"));
    }
    let scene = Scene::new().await;
    scene.serve(&[&address.to_string()], |rule| rule.timeouts.connect = Duration::from_millis(300));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 504, Some("connection_timeout"), reason).await;
}

pub(super) async fn the_session_is_lost_before_the_response(reason: &str) {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("POST", "/", "Content-Length: 0\r\n").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    // Removing its credential ends the agent's session at once.
    scene.stage.edge.agents.send_replace(Arc::default());
    let answer = visitor.answer().await;
    scene.tells(0, &answer, 502, Some("connection_terminated"), reason).await;
}

/// An agent whose session takes no link: the machine of the tunnel itself refuses.
pub(super) async fn the_agent_has_too_many_links(reason: &str) {
    let mut scene = Scene::of("127.0.0.1:1").await;
    let config = tunnel::Config { max_links: 0, ..tunnel::Config::default() };
    let (_session, mut incoming) = scene.stage.agent_by_hand(config).await;
    tokio::spawn(async move { while incoming.next().await.is_some() {} });
    let answer = scene.stage.get("/").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    scene.tells(0, &answer, 503, Some("destination_unavailable"), reason).await;
}

/// A scene that serves this target over TLS, verified by the browsers' authorities.
async fn over_tls(target: &str) -> Scene {
    let scene = Scene::new().await;
    let tls = BackendTls { server_name: Some("backend.test".into()), trust: Trust::WebRoots };
    scene.serve(&[target], |rule| {
        if let Backend::Tunnel(backend) = &mut rule.backend {
            backend.protocol = Protocol::Https(Arc::new(tls));
        }
    });
    scene
}

pub(super) async fn the_backends_certificate_is_not_accepted(reason: &str) {
    let scene = over_tls(&https_backend(&Made::new(&["backend.test"]), &[]).await).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("tls_certificate_error"), reason).await;
}

pub(super) async fn the_backend_speaks_no_tls(reason: &str) {
    let target = stage::backend(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    })
    .await;
    let scene = over_tls(&target).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("tls_protocol_error"), reason).await;
}
