use crate::stage::{HOST, Stage, mirror};

#[tokio::test]
async fn garbage_is_closed_and_counted_and_hurts_nobody() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise.to_be_bytes()[0]
    };
    let garbage: Vec<u8> = (0..10_000).map(|_| random()).collect();
    let mut visitor = stage.visit().await;
    // The edge may close before it has read everything.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut visitor.0, &garbage).await;
    let answer = visitor.rest().await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    stage.edge.metric_becomes("culvert_errors_total{reason=\"malformed_request\"}", 1).await;
    assert_eq!(stage.get("/").await.status, 200);
}

#[tokio::test]
async fn half_a_request_is_closed_with_its_visitor() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let mut visitor = stage.visit().await;
    visitor.send(b"GET / HTTP/1.1\r\nHost: sho").await;
    drop(visitor);
    stage.edge.metric_becomes("culvert_errors_total{reason=\"incomplete_request\"}", 1).await;
    assert_eq!(stage.get("/").await.status, 200);
}

#[tokio::test]
async fn a_request_without_exactly_one_good_host_is_400() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let hosts = ["", "Host: a\r\nHost: b\r\n", "Host: \r\n", "Host: a b\r\n", "Host: shop.example.com@evil\r\n"];
    for host in hosts {
        let answer = stage.send(&format!("GET / HTTP/1.1\r\n{host}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "{host:?}");
    }
}

#[tokio::test]
async fn the_target_of_an_absolute_form_names_the_host() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let request = format!("GET http://{HOST}/x?y HTTP/1.1\r\nHost: other.example.com\r\nConnection: close\r\n\r\n");
    let answer = stage.send(&request).await;
    assert_eq!(answer.status, 200);
    let seen = answer.body.to_ascii_lowercase();
    assert!(seen.starts_with("get /x?y http/1.1\r\n") && seen.contains("host: shop.example.com\r\n"), "{seen}");
}

#[tokio::test]
async fn case_port_and_dot_of_a_host_do_not_matter() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    for host in ["SHOP.example.COM", "shop.example.com:8080", "shop.example.com."] {
        let answer = stage.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_head_too_large_is_refused() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let field = format!("X-Large: {}\r\n", "x".repeat(70_000));
    let mut visitor = stage.visit().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{field}\r\n");
    let _ = tokio::io::AsyncWriteExt::write_all(&mut visitor.0, request.as_bytes()).await;
    let answer = visitor.rest().await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    stage.edge.metric_becomes("culvert_errors_total{reason=\"head_too_large\"}", 1).await;
    assert_eq!(stage.get("/").await.status, 200);
}

#[tokio::test]
async fn a_path_that_leads_elsewhere_is_400_and_others_arrive_as_they_are() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    for path in ["/x/../admin", "/x/%2e%2e/admin", "/x/..%2fadmin"] {
        assert_eq!(stage.get(path).await.status, 400, "{path}");
    }
    for path in ["//a//b", "/a%2Fb", "/%61", "/.well-known/x"] {
        let answer = stage.get(path).await;
        assert!(answer.body.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{}", answer.body);
    }
}
