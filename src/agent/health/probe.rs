//! One run of a check.

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::judge::Finding;
use crate::{
    agent::{AllowList, backend},
    tunnel::{
        RefuseCode,
        health::{Check, HealthProblem, HealthReason, HttpCheck},
        target::socket_path,
        tls,
    },
};

/// The longest head of an answer, in bytes, and the most fields in it.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
/// The longest time that one run may take, whatever the edge asks for.
const AT_MOST: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Prober {
    allow: AllowList,
    /// `None` where this machine can make none; such checks then say nothing.
    tls: Option<Arc<ClientConfig>>,
}

// === impl Prober ===

impl Prober {
    pub(super) fn new(allow: AllowList) -> Self {
        Self { allow, tls: tls::unverified().ok() }
    }

    /// Runs a check once. `None` where the agent itself was not able to.
    pub(super) async fn probe(&self, check: &Check) -> Option<Finding> {
        let limit = Duration::from_millis(check.timeout).min(AT_MOST);
        let Ok(result) = timeout(limit, self.attempt(check, limit)).await else {
            let text = format!("{} did not answer the check within {} s", check.target, limit.as_secs_f64());
            return Some(Err(HealthProblem::new(HealthReason::Timeout, &text)));
        };
        result.transpose()
    }

    async fn attempt(&self, check: &Check, limit: Duration) -> Result<Option<()>, HealthProblem> {
        let stream = match backend::connect(&check.target, &check.namespace, &self.allow, limit).await {
            Ok((stream, _)) => stream,
            Err(refusal) => {
                let reason = match refusal.code {
                    RefuseCode::NotAllowed => HealthReason::NotAllowed,
                    RefuseCode::Refused => HealthReason::Refused,
                    RefuseCode::Unreachable => HealthReason::Unreachable,
                    RefuseCode::Timeout => HealthReason::Timeout,
                    // Out of sockets, say: nothing is known of the backend.
                    _ => return Ok(None),
                };
                return Err(HealthProblem::new(reason, &refusal.text));
            }
        };
        let Some(http) = &check.http else { return Ok(Some(())) };
        match &http.tls {
            None => ask(stream, check, http).await?,
            Some(name) => {
                let Some(config) = &self.tls else { return Ok(None) };
                let name = ServerName::try_from(name.clone())
                    .map_err(|_| unexpected(check, format_args!("has no name that TLS can ask for: {name:?}")))?;
                let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
                let stream = stream.map_err(|error| unexpected(check, format_args!("spoke no TLS: {error}")))?;
                ask(stream, check, http).await?;
            }
        }
        Ok(Some(()))
    }
}

/// Asks over a new connection, and looks at the status of the answer.
async fn ask<T>(mut stream: T, check: &Check, http: &HttpCheck) -> Finding
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // The path of a socket is no host.
    let target = if socket_path(&check.target).is_some() { "localhost" } else { &check.target };
    let host = http.host.as_deref().unwrap_or(target);
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: culvert-health/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        http.path,
        env!("CARGO_PKG_VERSION")
    );
    let broken = |error| unexpected(check, format_args!("broke the check off: {error}"));
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let status = status(&mut stream).await.map_err(|why| unexpected(check, format_args!("{why}")))?;
    if http.expected.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
        return Ok(());
    }
    Err(unexpected(check, format_args!("answered the check with status {status}")))
}

/// The status of the final answer.
async fn status<T: AsyncRead + Unpin>(stream: &mut T) -> Result<u16, String> {
    let mut head = Vec::with_capacity(1024);
    loop {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            match response.parse(&head) {
                Ok(httparse::Status::Complete(length)) => match response.code {
                    // What comes before the answer, as 103.
                    Some(100..=199) => drop(head.drain(..length)),
                    Some(code) => return Ok(code),
                    None => return Err("answered the check without a status".to_owned()),
                },
                Ok(httparse::Status::Partial) => break,
                Err(error) => return Err(format!("answered the check with no HTTP: {error}")),
            }
        }
        if head.len() >= MAX_HEAD {
            return Err("answered the check with too large a head".to_owned());
        }
        match stream.read_buf(&mut head).await {
            Ok(0) => return Err("closed the check's connection without an answer".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("broke the check off: {error}")),
        }
    }
}

fn unexpected(check: &Check, why: std::fmt::Arguments<'_>) -> HealthProblem {
    HealthProblem::new(HealthReason::Unexpected, &format!("{} {why}", check.target))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a check for the statuses 200 to 299 finds where a backend answers with this.
    async fn found(answer: &'static str) -> Result<(), HealthReason> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = listener.local_addr().expect("its address").to_string();
        let backend = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.expect("a request"), 0);
            }
            stream.write_all(answer.as_bytes()).await.expect("answered");
            if answer.is_empty() {
                // Nothing comes, and the connection stays.
                std::future::pending::<()>().await;
            }
            String::from_utf8(request).expect("text")
        });
        let http = HttpCheck { path: "/healthz?a=b".into(), host: None, expected: vec![(200, 299)], tls: None };
        let result = prober().probe(&check(&target, Some(http), 5000)).await.expect("a result");
        if result.as_ref().err().is_none_or(|problem| problem.reason != HealthReason::Timeout) {
            let request = backend.await.expect("a backend");
            assert!(request.starts_with("GET /healthz?a=b HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        }
        result.map_err(|problem| problem.reason)
    }

    fn prober() -> Prober {
        Prober::new(["127.0.0.1:*".parse().expect("a rule")].into_iter().collect())
    }

    fn check(target: &str, http: Option<HttpCheck>, timeout: u64) -> Check {
        Check {
            namespace: "web".into(),
            target: target.into(),
            http,
            interval: 1000,
            timeout,
            unhealthy_after: 1,
            healthy_after: 1,
        }
    }

    #[tokio::test]
    async fn the_status_of_the_final_answer_counts() {
        assert_eq!(found("HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        assert_eq!(found("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 200 OK\r\n\r\n").await, Ok(()));
        for answer in [
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
            "SSH-2.0-OpenSSH_9.9\r\n",
            "HTTP/1.1 200",
        ] {
            assert_eq!(found(answer).await, Err(HealthReason::Unexpected), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_a_timeout() {
        assert_eq!(found("").await, Err(HealthReason::Timeout));
    }

    #[tokio::test]
    async fn without_http_a_connection_is_enough() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = listener.local_addr().expect("its address").to_string();
        assert_eq!(prober().probe(&check(&target, None, 5000)).await, Some(Ok(())));
        drop(listener);
        let problem = prober().probe(&check(&target, None, 5000)).await.expect("a result").expect_err("refused");
        assert_eq!(problem.reason, HealthReason::Refused);
    }

    #[tokio::test]
    async fn what_is_not_allowed_is_not_asked() {
        let nothing = Prober::new(AllowList::default());
        let problem = nothing.probe(&check("127.0.0.1:1", None, 5000)).await.expect("a result").expect_err("refused");
        assert_eq!(problem.reason, HealthReason::NotAllowed);
        assert!(problem.text.contains("--allow 127.0.0.1:1"), "{}", problem.text);
    }
}
