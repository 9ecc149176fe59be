//! No backend for a request.

use culvert::routing::{Backend, Matches, Member, PathMatch, Places, Target};

use super::Scene;
use crate::{stage::mirror, support::lab};

pub(super) async fn nobody_has_the_host(reason: &str) {
    let scene = Scene::new().await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 404, Some("destination_not_found"), reason).await;
}

pub(super) async fn no_route_matches(reason: &str) {
    let scene = Scene::new().await;
    scene.serve(&["127.0.0.1:1"], |rule| rule.matches = Matches::path(PathMatch::exact("/a")));
    let answer = scene.stage.get("/b").await;
    scene.tells(0, &answer, 404, Some("destination_not_found"), reason).await;
}

pub(super) async fn the_route_is_misconfigured(reason: &str) {
    let scene = Scene::new().await;
    scene.serve(&["127.0.0.1:1"], |rule| rule.backend = Backend::Invalid("no Secret visitors".into()));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 500, Some("proxy_configuration_error"), reason).await;
}

pub(super) async fn no_agent_has_a_session(reason: &str) {
    let mut scene = Scene::of(&mirror().await).await;
    scene.stage.agent.take().expect("an agent").stop().await;
    scene.stage.edge.sessions(|sessions| sessions.is_empty()).await;
    let answer = scene.stage.get("/").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    scene.tells(0, &answer, 503, Some("destination_unavailable"), reason).await;
}

pub(super) async fn every_target_has_the_weight_0(reason: &str) {
    let scene = Scene::new().await;
    scene.serve(&["127.0.0.1:1"], |rule| {
        let Backend::Tunnel(tunnel) = &mut rule.backend else { panic!("{rule:?}") };
        let item: Target = "127.0.0.1:1".parse().expect("a target");
        tunnel.places = Places::new(&[lab().into()], &[Member { item, weight: 0, priority: 0 }]);
    });
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 503, Some("destination_unavailable"), reason).await;
}
