//! Agents with several sessions, of which one is lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use culvert::routing::Rule;
use tokio::{io::AsyncWriteExt, sync::watch, time::timeout};

use crate::{
    balancer::Balancer,
    stage::{self, Options, Stage, backend, becomes, read_head, rule},
    support::{Edge, PATIENCE, RunningAgent},
};

/// A backend that keeps its connections, counts the requests for `/held`, and holds the first of them until it is told.
pub(crate) struct Holding {
    pub(crate) target: String,
    held: Arc<AtomicUsize>,
    go: watch::Sender<bool>,
}

impl Holding {
    pub(crate) async fn start() -> Self {
        let (held, go) = (Arc::<AtomicUsize>::default(), watch::Sender::new(false));
        let (count, told) = (held.clone(), go.subscribe());
        let target = backend(move |mut stream| {
            let (count, mut told) = (count.clone(), told.clone());
            async move {
                loop {
                    let request = read_head(&mut stream).await;
                    if request.is_empty() {
                        return;
                    }
                    if request.contains("/held") && count.fetch_add(1, Ordering::SeqCst) == 0 {
                        let _ = told.wait_for(|go| *go).await;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { target, held, go }
    }

    /// How many requests have come to be held, the one that was held among them.
    fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// A visitor is held, and that one of the agent's connections through the balancer is cut: it gets its answer all the same.
    /// Returns how often the request came here.
    pub(crate) async fn held_while_cut(
        &self,
        visitors: SocketAddr,
        edge: &Edge,
        balancer: &Balancer,
        cut: usize,
        what: &str,
    ) -> usize {
        let waiting = async {
            let answer = stage::get(visitors, "/held").await;
            assert_eq!((answer.status, &*answer.body), (200, "ok"), "{what}, {cut} was cut: {answer:?}");
        };
        let cutting = async {
            becomes("it is held", || self.held() == 1).await;
            let gone = balancer.local(cut);
            balancer.cut(cut);
            edge.sessions(|sessions| sessions.iter().all(|session| session.remote_address != gone)).await;
            // Time for what is repeated, where something is.
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.go.send_replace(true);
        };
        timeout(PATIENCE, async { tokio::join!(waiting, cutting) }).await.expect("in time");
        self.held()
    }
}

/// A stage whose agent holds two sessions, both of them through the balancer.
async fn staged(rules: Vec<Rule>) -> (Stage, Balancer) {
    let mut stage = Stage::start().await;
    stage.agent.take().expect("an agent").stop().await;
    stage.edge.sessions(|sessions| sessions.is_empty()).await;
    let balancer = Balancer::start().await;
    balancer.lead_to(vec![stage.edge.address]);
    let Options { allow, .. } = Options::default();
    let address = format!("https://{}", balancer.address);
    stage.agent = Some(RunningAgent::start_in_slots(&address, &stage.edge.certificate, allow, 2));
    stage.edge.sessions(|sessions| sessions.len() == 2).await;
    stage.serve_rules(rules, None);
    (stage, balancer)
}

/// A GET is on its way over a connection of the pool, and one of the two sessions dies. Returns how often the backend got it.
async fn cut_while_held(earlier: usize, cut: usize) -> usize {
    let backend = Holding::start().await;
    let (stage, balancer) = staged(vec![rule(&[&backend.target], Vec::new())]).await;
    // So the turn of the sessions is another one's, and the connection is always that of the first request.
    for _ in 0..earlier {
        assert_eq!(stage.get("/").await.body, "ok");
    }
    backend.held_while_cut(stage.http, &stage.edge, &balancer, cut, &format!("{earlier} before")).await
}

#[tokio::test]
async fn a_get_over_a_pooled_connection_outlives_either_session() {
    for earlier in [1, 2] {
        let sent = [cut_while_held(earlier, 0).await, cut_while_held(earlier, 1).await];
        // Repeated by the other session where its own was cut, and let be where the other one was.
        assert!(matches!(sent, [1, 2] | [2, 1]), "{sent:?} after {earlier}");
    }
}
