//! Events about agents, against an API server in the hands of the test.

use http::{Method, StatusCode};
use kube::runtime::{
    reflector::{self, store::Writer},
    watcher::Event,
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep},
};

use super::{Api, Call, agent};
use crate::{api::TunnelAgent, controller::events::EventWriter};

/// A replica that publishes Events, and the agent that it knows.
struct Replica {
    api: Api,
    agents: Writer<TunnelAgent>,
    touched: watch::Sender<()>,
    holder: watch::Sender<bool>,
}

// === impl Replica ===

impl Replica {
    /// One that has run long enough to take nobody for somebody who only comes back.
    async fn start(holder: bool, instances: &[&str]) -> Self {
        let (client, api) = Api::new();
        let (view, agents) = reflector::store();
        let (touched, holder) = (watch::Sender::new(()), watch::Sender::new(holder));
        let writer = EventWriter {
            client,
            replica: "edge-1".to_owned(),
            agents: view,
            touched: touched.subscribe(),
            holder: holder.subscribe(),
        };
        let mut replica = Self { api, agents, touched, holder };
        for event in [Event::Init, Event::InitDone] {
            replica.agents.apply_watcher_event(&event);
        }
        replica.knows(instances);
        tokio::spawn(writer.run());
        sleep(Duration::from_mins(1)).await;
        replica
    }

    /// The agent has these processes.
    fn knows(&mut self, instances: &[&str]) {
        let session = |instance: &&str| {
            json!({
                "replica": "edge-2", "instance": instance, "version": "0.1.0", "transport": "tls",
                "remoteAddress": "192.0.2.1:40000", "since": "2026-01-01T00:00:00Z",
            })
        };
        let mut home = agent("home", "1");
        home["status"] = json!({"sessions": instances.iter().map(session).collect::<Vec<Value>>()});
        let home = serde_json::from_value(home).expect("a TunnelAgent");
        self.agents.apply_watcher_event(&Event::Apply(home));
        self.touched.send_replace(());
    }

    async fn event(&mut self) -> Call {
        let call = self.api.next().await.expect("an Event");
        assert_eq!((&call.method, &*call.path), (&Method::POST, "/apis/events.k8s.io/v1/namespaces/web/events"));
        call
    }
}

#[tokio::test(start_paused = true)]
async fn the_holder_publishes_what_is_new_and_gathers_what_comes_soon_after() {
    let mut replica = Replica::start(true, &["aa"]).await;
    replica.knows(&["aa", "bb"]);
    let call = replica.event().await;
    let started = Instant::now();
    assert_eq!((&call.body["reason"], &call.body["type"]), (&json!("NewInstance"), &json!("Normal")));
    assert_eq!(
        (&call.body["regarding"]["kind"], &call.body["regarding"]["name"]),
        (&json!("TunnelAgent"), &json!("home"))
    );
    assert_eq!(call.body["note"], "a new process has registered: bb (0.1.0) from 192.0.2.1");
    let body = call.body.clone();
    call.answer(&body);

    for instances in [&["aa", "bb", "cc"][..], &["aa", "cc", "dd"], &["aa", "dd", "ee"]] {
        sleep(Duration::from_secs(3)).await;
        replica.knows(instances);
    }
    let call = replica.event().await;
    assert!(started.elapsed() >= Duration::from_secs(30), "{:?}", started.elapsed());
    let note = call.body["note"].as_str().expect("a note");
    assert!(["cc (", "dd (", "ee ("].iter().all(|id| note.contains(id)) && !note.contains("bb"), "{note}");
    // It is a hint, so it is not tried again.
    call.refuse(StatusCode::FORBIDDEN);
    assert!(replica.api.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn only_the_holder_publishes_and_it_takes_up_what_is_left_undone() {
    let mut replica = Replica::start(false, &["aa"]).await;
    replica.knows(&["aa", "bb"]);
    assert!(replica.api.next().await.is_none(), "published without the lease");
    replica.knows(&["aa", "bb", "cc"]);
    sleep(Duration::from_secs(5)).await;
    replica.holder.send_replace(true);
    let call = replica.event().await;
    let note = call.body["note"].as_str().expect("a note");
    assert!(note.contains("cc (") && !note.contains("bb"), "what is long over was the other's: {note}");
}
