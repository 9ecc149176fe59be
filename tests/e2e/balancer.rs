//! A balancer in front of the edge, which tells of visitors by the PROXY protocol.

use std::time::Duration;

use crate::harness::{Certificate, Culvert, Http, OtherValues, Replica, SecureVisitor, Site, apply, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn visitors_have_the_address_that_the_balancer_tells() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "balancer", "members only\n").await;
    let name = "balancer.example.com";
    let certificate = Certificate::new(&[name], 2031);
    apply(&certificate.secret(&site.namespace, "shop-tls")).unwrap();
    let more = "tls: {secretRef: {name: shop-tls}}\n  access: {allow: [203.0.113.7/32]}";
    apply(&site.host("shop", name, more)).unwrap();
    // All that comes from this node, by whichever of its addresses.
    let values = OtherValues::set(
        &culvert,
        "proxyProtocol.enabled=true,proxyProtocol.from={10.0.0.0/8,172.16.0.0/12,192.168.0.0/16}",
    )
    .await;
    site.agent.meets(&culvert).await;
    site.wait_ready("shop");

    let entries = culvert.replicas().iter().map(Replica::https).chain([culvert.https]).collect::<Vec<_>>();
    for at in entries {
        for http in Http::ALL {
            let visitor = SecureVisitor::new(at, name, http, &[&certificate]);
            let member = visitor.coming_from("203.0.113.7");
            let (seen, _) = eventually("the member gets in", Duration::from_secs(5), async || {
                member.get("/").await.map_err(|error| error.to_string())
            })
            .await;
            assert_eq!((seen.answer.status, seen.answer.body.as_str()), (200, "members only\n"));
            assert_eq!(visitor.coming_from("203.0.113.8").get("/").await.unwrap().answer.status, 403);
            visitor.get("/").await.expect_err("a connection that the balancer says nothing of");
        }
    }
    drop(values);
}
