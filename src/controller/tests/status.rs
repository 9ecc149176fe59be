//! Who writes which status, and when: against an API server in the hands of the test.

use std::{collections::BTreeSet, sync::Arc};

use http::{Method, StatusCode};
use kube::runtime::{
    reflector::{self, Store, store::Writer},
    watcher::Event,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Api, Call, agent, host};
use crate::{
    api::{AgentSession, Reason, TunnelAgent, TunnelHost, UnreachableBackend},
    compile::{Compiled, Objects, compile},
    controller::{
        BackendState, Backends, Member, Observed, Replicas, Sessions,
        membership::Members,
        metrics::Metrics,
        status::{BackendWriter, ConditionWriter, SessionWriter},
    },
    routing::ObjectName,
};

/// A replica with both writers, the objects that it knows, and all that makes it write.
struct Replica {
    api: Api,
    hosts: Writer<TunnelHost>,
    agents: Writer<TunnelAgent>,
    compiled: watch::Sender<Option<Arc<Compiled>>>,
    touched: watch::Sender<()>,
    sessions: watch::Sender<Arc<Sessions>>,
    backends: watch::Sender<Arc<Backends>>,
    members: watch::Sender<Members>,
    holder: watch::Sender<bool>,
    conditions: Option<ConditionWriter>,
    own_sessions: Option<SessionWriter>,
    own_backends: Option<BackendWriter>,
}

// === impl Replica ===

impl Replica {
    fn new() -> Self {
        let (client, api) = Api::new();
        let (hosts_view, hosts): (Store<TunnelHost>, _) = reflector::store();
        let (agents_view, agents): (Store<TunnelAgent>, _) = reflector::store();
        let (compiled, touched) = (watch::Sender::new(None), watch::Sender::new(()));
        let sessions = watch::Sender::new(Arc::new(Sessions::new()));
        let backends = watch::Sender::new(Arc::new(Backends::new()));
        let members = watch::Sender::new(Members::alone("edge-1"));
        let holder = watch::Sender::new(true);
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).expect("metrics"));
        let conditions = ConditionWriter {
            client: client.clone(),
            hosts: hosts_view.clone(),
            agents: agents_view.clone(),
            replica: "edge-1".to_owned(),
            compiled: compiled.subscribe(),
            touched: touched.subscribe(),
            observed: Observed { sessions: sessions.subscribe(), backends: backends.subscribe() },
            members: members.subscribe(),
            holder: holder.subscribe(),
            metrics: metrics.clone(),
        };
        let own_backends = BackendWriter {
            client: client.clone(),
            replica: "edge-1".to_owned(),
            objects: hosts_view,
            known: backends.subscribe(),
            touched: touched.subscribe(),
            metrics: metrics.clone(),
        };
        let own_sessions = SessionWriter {
            client,
            replica: "edge-1".to_owned(),
            objects: agents_view,
            known: sessions.subscribe(),
            touched: touched.subscribe(),
            metrics,
        };
        let mut replica = Self {
            api,
            hosts,
            agents,
            compiled,
            touched,
            sessions,
            backends,
            members,
            holder,
            conditions: Some(conditions),
            own_sessions: Some(own_sessions),
            own_backends: Some(own_backends),
        };
        for event in [Event::Init, Event::InitDone] {
            replica.hosts.apply_watcher_event(&event);
        }
        for event in [Event::Init, Event::InitDone] {
            replica.agents.apply_watcher_event(&event);
        }
        replica
    }

    /// Makes the objects known, as a watch does, and compiles them.
    fn knows(&mut self, host: Option<&Value>, agent: Option<&Value>) {
        let mut objects = Objects::default();
        if let Some(host) = host {
            let host: TunnelHost = serde_json::from_value(host.clone()).expect("a TunnelHost");
            self.hosts.apply_watcher_event(&Event::Apply(host));
        }
        if let Some(agent) = agent {
            let agent: TunnelAgent = serde_json::from_value(agent.clone()).expect("a TunnelAgent");
            self.agents.apply_watcher_event(&Event::Apply(agent));
        }
        objects.tunnel_hosts = self.hosts.as_reader().state();
        objects.tunnel_agents = self.agents.as_reader().state();
        self.compiled.send_replace(Some(Arc::new(compile(&objects, None))));
        self.touched.send_replace(());
    }

    fn run_conditions(&mut self) {
        tokio::spawn(self.conditions.take().expect("not running yet").run());
    }

    fn run_sessions(&mut self) {
        tokio::spawn(self.own_sessions.take().expect("not running yet").run());
    }

    fn run_backends(&mut self) {
        tokio::spawn(self.own_backends.take().expect("not running yet").run());
    }

    /// This is known of the backends of `shop` from now on.
    fn reaches(&self, reachable: bool, reason: Reason, message: &str) {
        let state = BackendState { reachable, reason, message: message.to_owned() };
        self.backends.send_replace(Arc::new(Backends::from([(ObjectName::new("web", "shop"), state)])));
    }

    /// The next write: a server-side apply of a status.
    #[track_caller]
    fn check(call: &Call, path: &str, manager: &str) {
        assert_eq!(call.method, Method::PATCH);
        assert_eq!(call.path, path);
        assert_eq!(call.query, format!("&force=true&fieldManager={manager}"));
    }
}

const HOST: &str = "/apis/culvert.dev/v1alpha1/namespaces/web/tunnelhosts/shop/status";
const AGENT: &str = "/apis/culvert.dev/v1alpha1/namespaces/web/tunnelagents/home/status";

fn session(instance: &str, replica: &str) -> AgentSession {
    AgentSession {
        replica: replica.to_owned(),
        instance: instance.to_owned(),
        version: "0.1.0".to_owned(),
        transport: "tls".to_owned(),
        remote_address: "192.0.2.1:40000".to_owned(),
        since: "2026-01-01T00:00:00Z".to_owned(),
        connections: Some(1),
    }
}

fn sessions_of_home(sessions: Vec<AgentSession>) -> Arc<Sessions> {
    Arc::new(Sessions::from([(ObjectName::new("web", "home"), sessions)]))
}

/// The status and reason of each condition of a write.
fn words(body: &Value) -> Vec<String> {
    let conditions = body["status"]["conditions"].as_array().expect("conditions");
    let text = |c: &Value, key: &str| c[key].as_str().expect("text").to_owned();
    conditions.iter().map(|c| format!("{}={} {}", text(c, "type"), text(c, "status"), text(c, "reason"))).collect()
}

#[tokio::test(start_paused = true)]
async fn the_holder_writes_conditions_once() {
    let mut replica = Replica::new();
    let object = host("shop", "shop.example.com", "1");
    replica.knows(Some(&object), None);
    replica.run_conditions();

    let call = replica.api.next().await.expect("a write");
    Replica::check(&call, HOST, "culvert-controller");
    assert_eq!(call.body["status"]["observedGeneration"], 1);
    assert_eq!(call.body["status"]["conditions"][0]["observedGeneration"], 1);
    assert_eq!(
        words(&call.body),
        [
            "Accepted=True Accepted",
            "ResolvedRefs=False AgentNotFound",
            "Programmed=True Programmed",
            "AgentConnected=False NoSession",
            "Ready=False AgentNotFound",
        ]
    );
    let mut written = object.clone();
    written["status"] = call.body["status"].clone();
    written["metadata"]["resourceVersion"] = json!("2");
    call.answer(&written);

    // The watch has not brought it yet, and something else has changed.
    replica.touched.send_replace(());
    assert!(replica.api.next().await.is_none(), "written twice");
    // The watch brings it.
    replica.knows(Some(&written), None);
    assert!(replica.api.next().await.is_none(), "written although it is there");
    // Somebody takes it away.
    let mut object = object;
    object["metadata"]["resourceVersion"] = json!("3");
    replica.knows(Some(&object), None);
    assert!(replica.api.next().await.is_some(), "not repaired");
}

#[tokio::test(start_paused = true)]
async fn only_the_holder_writes_conditions() {
    let mut replica = Replica::new();
    replica.holder.send_replace(false);
    replica.knows(Some(&host("shop", "shop.example.com", "1")), None);
    replica.run_conditions();
    assert!(replica.api.next().await.is_none(), "written without the lease");

    replica.holder.send_replace(true);
    let call = replica.api.next().await.expect("the new holder reconciles everything");
    Replica::check(&call, HOST, "culvert-controller");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_tried_again() {
    let mut replica = Replica::new();
    replica.knows(Some(&host("shop", "shop.example.com", "1")), None);
    replica.run_conditions();
    for _ in 0..3 {
        let call = replica.api.next().await.expect("another attempt");
        Replica::check(&call, HOST, "culvert-controller");
        call.refuse(StatusCode::SERVICE_UNAVAILABLE);
    }
    let call = replica.api.next().await.expect("another attempt");
    call.refuse(StatusCode::NOT_FOUND);
    // It is gone: no object, no conditions.
    assert!(replica.api.next().await.is_none(), "written although the object is gone");
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_any_replica_counts_as_connected() {
    let mut replica = Replica::new();
    let mut home = agent("home", "1");
    home["status"] = json!({"sessions": [session("laptop", "edge-2")]});
    replica.knows(None, Some(&home));
    replica.run_conditions();
    let call = replica.api.next().await.expect("a write");
    Replica::check(&call, AGENT, "culvert-controller");
    assert_eq!(words(&call.body)[2], "AgentConnected=True Connected");
    assert_eq!(call.body["status"]["conditions"][2]["message"], "1 session is open");
    assert!(call.body["status"].get("sessions").is_none(), "these belong to the replicas");
    home["status"]["conditions"] = call.body["status"]["conditions"].clone();
    home["status"]["connectedReplicas"] = call.body["status"]["connectedReplicas"].clone();
    home["status"]["replicas"] = call.body["status"]["replicas"].clone();
    home["metadata"]["resourceVersion"] = json!("2");
    call.answer(&home);
    replica.knows(None, Some(&home));

    // Its own sessions count before the API server knows of them.
    replica.sessions.send_replace(sessions_of_home(vec![session("laptop", "")]));
    let call = replica.api.next().await.expect("a write");
    assert_eq!(call.body["status"]["conditions"][2]["message"], "2 sessions are open");
}

#[tokio::test(start_paused = true)]
async fn the_replicas_that_an_agent_is_connected_to_are_counted_and_written_when_they_change() {
    let member = |id: &str| Member { id: id.to_owned(), ip: None };
    let members = |ids: &[&str]| {
        let running: Vec<Member> = ids.iter().map(|id| member(id)).collect();
        let replicas = Replicas { ready: 1, running: running.into() };
        let existing = Some(Arc::new(ids.iter().map(|id| (*id).to_owned()).collect()));
        Members { replicas, existing }
    };
    let counted =
        |call: &Call| (call.body["status"]["connectedReplicas"].clone(), call.body["status"]["replicas"].clone());
    let mut replica = Replica::new();
    replica.members.send_replace(members(&["edge-1", "edge-2"]));
    let mut home = agent("home", "1");
    home["status"] = json!({"sessions": [session("laptop", "edge-2"), session("desktop", "edge-2")]});
    replica.knows(None, Some(&home));
    replica.run_conditions();
    let call = replica.api.next().await.expect("a write");
    assert_eq!(counted(&call), (json!(1), json!(2)));
    let mut written = home.clone();
    let sessions = written["status"]["sessions"].take();
    written["status"] = call.body["status"].clone();
    written["status"]["sessions"] = sessions;
    // A condition of somebody else's is not ours to apply.
    let ours = written["status"]["conditions"].clone();
    let audited = json!({"type": "Audited", "status": "True", "reason": "Seen", "message": "",
                         "lastTransitionTime": "2026-01-01T00:00:00Z"});
    written["status"]["conditions"].as_array_mut().expect("conditions").push(audited);
    written["metadata"]["resourceVersion"] = json!("2");
    call.answer(&written);
    replica.knows(None, Some(&written));
    assert!(replica.api.next().await.is_none(), "written although it is there");

    // Another replica comes: no condition changes, and all of them are applied with the number, or they would be given up.
    replica.members.send_replace(members(&["edge-1", "edge-2", "edge-3"]));
    let call = replica.api.next().await.expect("a write");
    Replica::check(&call, AGENT, "culvert-controller");
    assert_eq!(counted(&call), (json!(1), json!(3)));
    assert_eq!(call.body["status"]["conditions"], ours);
    written["status"]["replicas"] = json!(3);
    written["metadata"]["resourceVersion"] = json!("3");
    call.answer(&written);
    assert!(replica.api.next().await.is_none(), "written twice");
    replica.knows(None, Some(&written));
    assert!(replica.api.next().await.is_none(), "written although it is there");
}

#[tokio::test(start_paused = true)]
async fn the_counts_of_replicas_stay_until_it_is_known_which_there_are() {
    let mut replica = Replica::new();
    let mut home = agent("home", "1");
    home["status"] = json!({
        "sessions": [session("laptop", "edge-1"), session("laptop", "edge-2")], "connectedReplicas": 2, "replicas": 3,
    });
    replica.knows(None, Some(&home));
    replica.run_conditions();
    let call = replica.api.next().await.expect("the conditions");
    let status = &call.body["status"];
    assert_eq!((&status["connectedReplicas"], &status["replicas"]), (&json!(2), &json!(3)));
    home["status"]["conditions"] = status["conditions"].clone();
    home["metadata"]["resourceVersion"] = json!("2");
    call.answer(&home);
    replica.knows(None, Some(&home));
    assert!(replica.api.next().await.is_none(), "written although nothing is known");
    let running = ["edge-1", "edge-2"].map(|id| Member { id: id.to_owned(), ip: None });
    let replicas = Replicas { ready: 2, running: running.into() };
    let existing = BTreeSet::from(["edge-1", "edge-2"].map(str::to_owned));
    replica.members.send_replace(Members { replicas, existing: Some(Arc::new(existing)) });
    let call = replica.api.next().await.expect("the counts");
    // edge-1 is this replica, and holds none.
    assert_eq!((&call.body["status"]["connectedReplicas"], &call.body["status"]["replicas"]), (&json!(1), &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn sessions_of_gone_replicas_do_not_count_and_are_removed() {
    let mut replica = Replica::new();
    let mut home = agent("home", "1");
    home["status"] =
        json!({"sessions": [session("laptop", "edge-1"), session("laptop", "edge-2"), session("laptop", "gone")]});
    replica.knows(None, Some(&home));
    let existing = BTreeSet::from(["edge-1".to_owned(), "edge-2".to_owned()]);
    replica.members.send_replace(Members { existing: Some(Arc::new(existing)), ..Members::alone("edge-1") });
    replica.run_conditions();
    let call = replica.api.next().await.expect("the conditions");
    // edge-1 is this replica, and holds none.
    assert_eq!(call.body["status"]["conditions"][2]["message"], "1 session is open");
    call.answer(&home);
    let call = replica.api.next().await.expect("the removal");
    Replica::check(&call, AGENT, "gone");
    assert_eq!(call.body["status"], json!({"sessions": []}));
}

#[tokio::test(start_paused = true)]
async fn a_replica_writes_its_own_sessions_on_changes_only() {
    let mut replica = Replica::new();
    let mut home = agent("home", "1");
    home["status"] = json!({"sessions": [session("laptop", "edge-2")]});
    replica.knows(None, Some(&home));
    replica.run_sessions();
    assert!(replica.api.next().await.is_none(), "written although it holds none");

    replica.sessions.send_replace(sessions_of_home(vec![session("laptop", "")]));
    let call = replica.api.next().await.expect("a write");
    Replica::check(&call, AGENT, "edge-1");
    assert_eq!(call.body["status"], json!({"sessions": [session("laptop", "edge-1")]}));
    home["status"] = json!({"sessions": [session("laptop", "edge-1"), session("laptop", "edge-2")]});
    home["metadata"]["resourceVersion"] = json!("2");
    call.answer(&home);
    replica.knows(None, Some(&home));
    assert!(replica.api.next().await.is_none(), "written although it is there");

    replica.sessions.send_replace(Arc::new(Sessions::new()));
    let call = replica.api.next().await.expect("a write");
    assert_eq!(call.body["status"], json!({"sessions": []}));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_of_the_pod_left_is_removed() {
    let mut replica = Replica::new();
    let mut home = agent("home", "1");
    home["status"] = json!({"sessions": [session("laptop", "edge-1")]});
    replica.knows(None, Some(&home));
    replica.run_sessions();
    let call = replica.api.next().await.expect("a write");
    Replica::check(&call, AGENT, "edge-1");
    assert_eq!(call.body["status"], json!({"sessions": []}));
}

/// `shop` with an agent that is connected, as the holder has left it.
async fn connected_shop(replica: &mut Replica) -> Value {
    let (mut home, mut shop) = (agent("home", "1"), host("shop", "shop.example.com", "1"));
    home["status"] = json!({"sessions": [session("laptop", "edge-2")]});
    let existing = BTreeSet::from(["edge-1".to_owned(), "edge-2".to_owned()]);
    replica.members.send_replace(Members { existing: Some(Arc::new(existing)), ..Members::alone("edge-1") });
    replica.knows(Some(&shop), Some(&home));
    replica.run_conditions();
    for _ in 0..2 {
        let call = replica.api.next().await.expect("a write");
        let object = if call.path == HOST { &mut shop } else { &mut home };
        for (field, value) in call.body["status"].as_object().expect("a status") {
            object["status"][field] = value.clone();
        }
        object["metadata"]["resourceVersion"] = json!("2");
        call.answer(object);
    }
    replica.knows(Some(&shop), Some(&home));
    assert!(replica.api.next().await.is_none(), "all is written");
    shop
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_stops_changes_one_condition() {
    let mut replica = Replica::new();
    let mut shop = connected_shop(&mut replica).await;
    let before = words(&shop);
    assert_eq!(before[4], "BackendReachable=Unknown Pending");
    let steps = [
        (true, Reason::Reachable, "fine", "BackendReachable=True Reachable"),
        (false, Reason::Refused, "agent web/home does not reach target a:80", "BackendReachable=False Refused"),
        (true, Reason::Reachable, "fine", "BackendReachable=True Reachable"),
    ];
    for (version, (reachable, reason, message, expected)) in (3..).zip(steps) {
        replica.reaches(reachable, reason, message);
        let call = replica.api.next().await.expect("a write");
        Replica::check(&call, HOST, "culvert-controller");
        let mut now = words(&call.body);
        assert_eq!(now[4], expected);
        assert_eq!(call.body["status"]["conditions"][4]["message"], message);
        now[4].clone_from(&before[4]);
        assert_eq!(now, before, "another condition has changed");
        shop["status"]["conditions"] = call.body["status"]["conditions"].clone();
        shop["metadata"]["resourceVersion"] = json!(version.to_string());
        call.answer(&shop);
        replica.knows(Some(&shop), None);
        // The same once more is nothing to write.
        replica.reaches(reachable, reason, message);
        assert!(replica.api.next().await.is_none(), "written although it is there");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_does_not_reach_is_told_until_that_is_gone() {
    let mut replica = Replica::new();
    let mut shop = connected_shop(&mut replica).await;
    let entry = |replica: &str| UnreachableBackend {
        replica: replica.to_owned(),
        reason: "Timeout".to_owned(),
        message: "too slow".to_owned(),
    };
    shop["status"]["unreachable"] = json!([entry("edge-2"), entry("gone")]);
    shop["metadata"]["resourceVersion"] = json!("3");
    replica.knows(Some(&shop), None);
    let call = replica.api.next().await.expect("the conditions");
    assert_eq!(words(&call.body)[4], "BackendReachable=False Timeout");
    assert_eq!(call.body["status"]["conditions"][4]["message"], "too slow");
    shop["status"]["conditions"] = call.body["status"]["conditions"].clone();
    call.answer(&shop);
    let call = replica.api.next().await.expect("the removal");
    Replica::check(&call, HOST, "gone");
    assert_eq!(call.body["status"], json!({"unreachable": []}));
    shop["status"]["unreachable"] = json!([entry("edge-2")]);
    shop["metadata"]["resourceVersion"] = json!("4");
    call.answer(&shop);
    replica.knows(Some(&shop), None);
    assert!(replica.api.next().await.is_none(), "all is written");
    // It is well again there; whether it is, nobody has told this replica.
    shop["status"]["unreachable"] = json!([]);
    shop["metadata"]["resourceVersion"] = json!("5");
    replica.knows(Some(&shop), None);
    let call = replica.api.next().await.expect("the conditions");
    assert_eq!(words(&call.body)[4], "BackendReachable=Unknown Pending");
}

#[tokio::test(start_paused = true)]
async fn a_replica_writes_only_what_it_does_not_reach() {
    let mut replica = Replica::new();
    let mut shop = host("shop", "shop.example.com", "1");
    replica.knows(Some(&shop), None);
    replica.run_backends();
    replica.reaches(true, Reason::Reachable, "fine");
    assert!(replica.api.next().await.is_none(), "written although all is well");

    replica.reaches(false, Reason::Refused, "nobody listens");
    let call = replica.api.next().await.expect("a write");
    Replica::check(&call, HOST, "edge-1");
    let entry = json!({"replica": "edge-1", "reason": "Refused", "message": "nobody listens"});
    assert_eq!(call.body["status"], json!({"unreachable": [entry.clone()]}));
    shop["status"] = json!({"unreachable": [entry]});
    shop["metadata"]["resourceVersion"] = json!("2");
    call.answer(&shop);
    replica.knows(Some(&shop), None);
    assert!(replica.api.next().await.is_none(), "written although it is there");

    replica.reaches(true, Reason::Reachable, "fine");
    let call = replica.api.next().await.expect("a write");
    assert_eq!(call.body["status"], json!({"unreachable": []}));
}
