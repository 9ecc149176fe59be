//! What a route does not let pass.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use culvert::routing::{Access, BasicAuth, ConcurrentRequests, Filter, Password, RateKey, RequestRate, Scope, User};

use super::Scene;
use crate::stage::{mirror, request, rule};

pub(super) async fn credentials_are_wrong(reason: &str) {
    let scene = Scene::new().await;
    let users = vec![User { name: "ada".into(), password: Password::Plain("lovelace".into()) }];
    let auth = Filter::BasicAuth(Arc::new(BasicAuth { realm: "Shop".into(), users }));
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(auth));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 401, None, reason).await;
}

pub(super) async fn the_address_is_denied(reason: &str) {
    let scene = Scene::new().await;
    let access = Access { deny: vec!["127.0.0.0/8".parse().expect("a network")], ..Access::default() };
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(Filter::Access(Arc::new(access))));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 403, Some("http_request_denied"), reason).await;
}

pub(super) async fn the_rate_is_used_up(reason: &str) {
    let scene = Scene::new().await;
    let one = std::num::NonZeroU32::MIN;
    let rate = RequestRate { scope: Scope::Host, per_second: one, burst: one, per: RateKey::ClientIp };
    scene.stage.proxy.set_replicas(1000);
    scene.serve(&[&mirror().await], |rule| rule.filters.push(Filter::RequestRate(Arc::new(rate))));
    assert_eq!(scene.stage.get("/").await.status, 200);
    let answer = scene.stage.get("/").await;
    scene.tells(1, &answer, 429, Some("http_request_denied"), reason).await;
}

pub(super) async fn too_many_requests_are_in_progress(reason: &str) {
    let scene = Scene::new().await;
    let none = ConcurrentRequests { scope: Scope::Host, most: 0 };
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(Filter::ConcurrentRequests(none)));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 429, Some("http_request_denied"), reason).await;
}

pub(super) async fn the_body_is_too_large(reason: &str) {
    let scene = Scene::new().await;
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(Filter::BodySize(8)));
    let answer = scene.stage.send(&request("POST", "/", "Content-Length: 9\r\n")).await;
    scene.tells(0, &answer, 413, Some("http_request_denied"), reason).await;
}

pub(super) async fn the_agents_limit_is_reached(reason: &str) {
    let scene = Scene::new().await;
    scene.stage.serve_rules(vec![rule(&["127.0.0.1:1"], Vec::new())], Some(0));
    let answer = scene.stage.get("/").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    scene.tells(0, &answer, 429, Some("http_request_denied"), reason).await;
}

pub(super) async fn the_passwords_of_others_take_too_long(reason: &str) {
    let scene = Scene::new().await;
    // As slow as it takes for 5 s here, more than twice what anybody waits.
    let (mut cost, begun) = (4, Instant::now());
    let hash = bcrypt::hash("lovelace", cost).expect("a hash");
    let mut once = begun.elapsed();
    while once < Duration::from_secs(5) {
        (cost, once) = (cost + 1, 2 * once);
    }
    let slow = hash.replacen("$04$", &format!("${cost:02}$"), 1);
    let users = vec![User { name: "ada".into(), password: Password::Bcrypt(slow.into()) }];
    let auth = Filter::BasicAuth(Arc::new(BasicAuth { realm: "Shop".into(), users }));
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(auth));

    // As many as a host may have hashed at a time.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let at_a_time = processors.div_ceil(2).div_ceil(2);
    let login = request("GET", "/", "Authorization: Basic YWRhOmJ5cm9u\r\n");
    let mut others = Vec::new();
    for _ in 0..at_a_time {
        let mut other = scene.stage.visit().await;
        other.send(login.as_bytes()).await;
        others.push(other);
    }
    let active = "culvert_active_requests{namespace=\"web\",tunnelhost=\"shop\"}";
    scene.stage.edge.metric_becomes(active, at_a_time as u64).await;
    let answer = scene.stage.send(&login).await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    scene.tells(0, &answer, 429, Some("http_request_denied"), reason).await;
}
