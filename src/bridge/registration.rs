use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use crate::{
    routing::{Agents, Credential, ObjectName, Token},
    tunnel::registration::{self, Carrier, PROTOCOL, Registration, RegistrationError},
};

/// Who registered, and with which credential.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) agent: ObjectName,
    pub(super) credential: Credential,
    pub(super) registration: Registration,
    pub(super) carrier: Carrier,
}

/// Why a request is no registration that this replica takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Another path: not for us.
    NotFound,
    /// The path is right, the method is not.
    Method,
    /// A header is missing or malformed, or asks for another protocol.
    Request(RegistrationError),
    /// The agent does not exist, or the token is none of its own: which of the two is nobody's business.
    Token(ObjectName),
    /// Its token is right, and it may not come from this address.
    Source(ObjectName, IpAddr),
    /// Its token is right, and as many other processes run as this agent as may.
    Surplus(ObjectName, u32),
    /// The agent holds all the sessions with this replica that it wants, and was led here again by a balancer.
    AlreadyMet,
    /// This replica stops.
    Leaving,
}

/// Decides who may register. Pure.
#[derive(Debug)]
pub(super) struct Registrar {
    /// This replica's id.
    replica: String,
    replica_header: HeaderValue,
    /// Compared with where there is nothing to compare with, so that an unknown agent takes the same way.
    decoy: Option<Token>,
}

/// The longest line of an answer, in characters; few of them have more than one byte, and 1,024 bytes is the limit.
const MAX_LINE: usize = 500;

// === impl Registrar ===

impl Registrar {
    /// `replica` is this replica's id; one that no header can carry is `None`.
    pub(super) fn new(replica: &str) -> Option<Self> {
        let sendable = registration::is_replica_id(replica);
        let replica_header = HeaderValue::from_str(replica).ok().filter(|_| sendable)?;
        let decoy = Token::new(&[b'-'; 32]).ok();
        Some(Self { replica: replica.to_owned(), replica_header, decoy })
    }

    /// Whether this request, which comes from `source`, registers one of `agents`. `others` says how many processes have a
    /// session as that agent, besides the one of that instance.
    pub(super) fn decide<B>(
        &self,
        request: &Request<B>,
        source: IpAddr,
        agents: &Agents,
        others: impl FnOnce(&ObjectName, &str) -> usize,
    ) -> Result<Accepted, Denied> {
        if request.uri().path() != registration::PATH {
            return Err(Denied::NotFound);
        }
        if request.method() != Method::GET {
            return Err(Denied::Method);
        }
        let registration = Registration::from_headers(request.headers()).map_err(Denied::Request)?;
        // Whoever asks for none was denied just now.
        let carrier = Carrier::from_headers(request.headers()).unwrap_or(Carrier::Direct);
        let malformed = RegistrationError::Malformed(registration::header::AGENT, "NAMESPACE/NAME");
        let agent: ObjectName = registration.agent.parse().map_err(|_| Denied::Request(malformed))?;
        let entry = agents.get(&agent);
        let credential = self.verify(&registration, entry.map(|entry| &entry.credentials[..]));
        // Whoever has no token of the agent learns nothing about it, so its other rules come after.
        let (Some(entry), Some(credential)) = (entry, credential.cloned()) else { return Err(Denied::Token(agent)) };
        if !entry.admits(source) {
            return Err(Denied::Source(agent, source.to_canonical()));
        }
        if registration.free_slots(&self.replica).next().is_none() {
            return Err(Denied::AlreadyMet);
        }
        let most = entry.max_instances;
        if others(&agent, &registration.instance) >= usize::try_from(most).unwrap_or(usize::MAX) {
            return Err(Denied::Surplus(agent, most));
        }
        Ok(Accepted { agent, credential, registration, carrier })
    }

    /// The credential whose token was presented. All are compared, so that the time does not tell which it was.
    fn verify<'a>(&self, registration: &Registration, credentials: Option<&'a [Credential]>) -> Option<&'a Credential> {
        let presented = registration.token.expose().as_bytes();
        let credentials = credentials.unwrap_or_default();
        if credentials.is_empty()
            && let Some(decoy) = &self.decoy
        {
            std::hint::black_box(decoy.verify(presented));
        }
        credentials.iter().fold(None, |found, credential| {
            let matches = credential.token.verify(presented);
            found.or(matches.then_some(credential))
        })
    }

    /// The answer to a registration that is accepted, in that slot: what comes after it are frames.
    pub(super) fn welcome(&self, carrier: &Carrier, slot: u32) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.extend(carrier.answer());
        headers.insert(registration::header::REPLICA, self.replica_header.clone());
        headers.insert(registration::header::SLOT, HeaderValue::from(slot));
        response
    }

    /// The answer to a request that is denied: a status and a line that says what to do.
    pub(super) fn refusal(&self, denied: &Denied) -> Response<Full<Bytes>> {
        // A word of the request may be in it, and that may be long.
        let line: String = denied.text().chars().take(MAX_LINE).chain(['\n']).collect();
        let mut response = Response::new(Full::from(line));
        *response.status_mut() = denied.status();
        let mut set = |name: HeaderName, value: &HeaderValue| {
            response.headers_mut().insert(name, value.clone());
        };
        set(registration::header::PROTOCOL, &HeaderValue::from_static(PROTOCOL));
        set(header::CONTENT_TYPE, &HeaderValue::from_static("text/plain; charset=utf-8"));
        match denied.status() {
            StatusCode::UNAUTHORIZED => set(header::WWW_AUTHENTICATE, &HeaderValue::from_static("Bearer")),
            StatusCode::UPGRADE_REQUIRED => {
                set(header::CONNECTION, &HeaderValue::from_static("Upgrade"));
                set(header::UPGRADE, &HeaderValue::from_static(PROTOCOL));
            }
            StatusCode::CONFLICT => set(registration::header::REPLICA, &self.replica_header),
            // Soon enough for one that takes another's place.
            StatusCode::TOO_MANY_REQUESTS => set(header::RETRY_AFTER, &HeaderValue::from_static("5")),
            _ => {}
        }
        response
    }
}

// === impl Denied ===

impl Denied {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::BAD_REQUEST,
            Self::Request(error) => error.status(),
            Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Source(..) => StatusCode::FORBIDDEN,
            Self::Surplus(..) => StatusCode::TOO_MANY_REQUESTS,
            Self::AlreadyMet => StatusCode::CONFLICT,
            Self::Leaving => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::NotFound => {
                format!("nothing here: this is where culvert agents dial in, at GET {}", registration::PATH)
            }
            Self::Method => format!("agents register with GET {}", registration::PATH),
            Self::Request(error) => error.to_string(),
            Self::Token(_) => {
                "no such agent, or not its token: compare --agent and the token with the TunnelAgent and \
                               the Secret that its spec.credentials name"
                    .to_owned()
            }
            Self::Source(agent, source) => {
                format!("TunnelAgent {agent} may not register from {source}: its spec.allowedSources does not have it")
            }
            Self::Surplus(agent, most) => format!(
                "{most} other {} as TunnelAgent {agent}, as many as may (spec.maxInstances): stop one, or raise it",
                if *most == 1 { "process runs" } else { "processes run" }
            ),
            Self::AlreadyMet => "this replica is already met: dial again for another".to_owned(),
            Self::Leaving => "this replica is stopping: dial again for another".to_owned(),
        }
    }

    /// Whether somebody did wrong. An agent that meets a replica again, or one that stops, was only led there, and must be
    /// sent elsewhere at once.
    pub(super) fn is_failure(&self) -> bool {
        !matches!(self, Self::AlreadyMet | Self::Leaving)
    }

    /// What it is counted as.
    pub(super) fn result(&self) -> &'static str {
        match self.status() {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::FORBIDDEN => "source",
            StatusCode::TOO_MANY_REQUESTS => "surplus",
            StatusCode::CONFLICT => "already_met",
            StatusCode::UPGRADE_REQUIRED => "protocol",
            StatusCode::SERVICE_UNAVAILABLE => "leaving",
            _ => "malformed",
        }
    }

    /// Writes a log line where somebody should look into it. The token is in none of it.
    pub(super) fn log(&self, source: SocketAddr) {
        match self {
            Self::Token(agent) => tracing::warn!(%agent, %source, "agent refused: no such agent, or not its token"),
            Self::Source(..) | Self::Surplus(..) => tracing::warn!(%source, "agent refused: {}", self.text()),
            Self::Request(error) => tracing::warn!(%source, "agent refused: {error}"),
            Self::NotFound | Self::Method => tracing::debug!(%source, "request on the agents' port: {}", self.text()),
            Self::AlreadyMet | Self::Leaving => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bridge::slots::Slots, routing::AgentEntry};

    const TOKEN: &str = "0123456789abcdef";

    fn agents() -> Agents {
        let credential = |secret: &str, token: &str| Credential {
            secret: secret.into(),
            token: Token::new(token.as_bytes()).expect("a token"),
        };
        let name = ObjectName::new("web", "lab");
        let credentials = vec![credential("old", "ffffffffffffffff"), credential("new", TOKEN)];
        let allowed_sources = Some(vec!["192.0.2.0/24".parse().expect("a network")]);
        let entry = AgentEntry { name, credentials, max_connections: None, max_instances: 2, allowed_sources };
        [entry].into_iter().collect()
    }

    fn request(change: impl FnOnce(&mut Request<()>)) -> Request<()> {
        let mut request = Request::get(registration::PATH)
            .header("upgrade", PROTOCOL)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("culvert-agent", "web/lab")
            .header("culvert-instance", "0a")
            .header("culvert-version", "0.1.0")
            .header("culvert-slots", "2")
            .body(())
            .expect("a request");
        change(&mut request);
        request
    }

    fn decide(change: impl FnOnce(&mut Request<()>)) -> Result<Accepted, Denied> {
        decide_from("::ffff:192.0.2.7", 1, change)
    }

    fn decide_from(source: &str, others: usize, change: impl FnOnce(&mut Request<()>)) -> Result<Accepted, Denied> {
        let source = source.parse().expect("an address");
        Registrar::new("r1").expect("an id").decide(&request(change), source, &agents(), |_, _| others)
    }

    fn set(request: &mut Request<()>, name: &'static str, value: &'static str) {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }

    #[test]
    fn agents_and_edges_agree_on_the_shortest_token() {
        assert_eq!(registration::Token::MIN_BYTES, Token::MIN_BYTES);
    }

    #[test]
    fn an_agent_is_known_by_any_of_its_tokens() {
        let accepted = decide(|_| {}).expect("accepted");
        assert_eq!((accepted.agent.to_string(), &*accepted.credential.secret), ("web/lab".to_owned(), "new"));
        let accepted = decide(|r| set(r, "authorization", "Bearer ffffffffffffffff")).expect("accepted");
        assert_eq!(&*accepted.credential.secret, "old");
    }

    #[test]
    fn an_unknown_agent_and_a_wrong_token_get_one_answer() {
        let registrar = Registrar::new("r1").expect("an id");
        let unknown = decide(|r| set(r, "culvert-agent", "web/other")).expect_err("denied");
        let wrong = decide(|r| set(r, "authorization", "Bearer 0000000000000000")).expect_err("denied");
        assert_eq!((unknown.status(), unknown.text()), (wrong.status(), wrong.text()));
        let response = registrar.refusal(&wrong);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }

    #[test]
    fn every_denial_has_its_status() {
        let status = |change: &dyn Fn(&mut Request<()>)| decide(change).expect_err("denied").status();
        assert_eq!(status(&|r| *r.uri_mut() = "/".parse().expect("a path")), StatusCode::NOT_FOUND);
        assert_eq!(status(&|r| *r.method_mut() = Method::POST), StatusCode::BAD_REQUEST);
        assert_eq!(status(&|r| set(r, "upgrade", "culvert/9")), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(status(&|r| set(r, "culvert-agent", "lab")), StatusCode::BAD_REQUEST);
        assert_eq!(status(&|r| set(r, "culvert-met", "r0, r1")), StatusCode::CONFLICT);
        assert_eq!(status(&|r| set(r, "culvert-met", "r1=1+0")), StatusCode::CONFLICT);
        assert_eq!(status(&|r| set(r, "culvert-met", "r1=2")), StatusCode::BAD_REQUEST);
        assert_eq!(status(&|r| set(r, "culvert-met", "r0,r0")), StatusCode::BAD_REQUEST);
        // Only who may know which replica this is learns it.
        let both = |r: &mut Request<()>| {
            set(r, "culvert-met", "r1");
            set(r, "authorization", "Bearer 0000000000000000");
        };
        assert_eq!(status(&both), StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn who_is_accepted_is_told_the_lowest_slot_that_it_does_not_hold() {
        let registrar = Registrar::new("r1").expect("an id");
        for (met, slot) in [("r0,r10", "0"), ("r0,r1=0", "1"), ("r1=1,r0", "0"), ("R1", "0")] {
            let accepted = decide(|r| set(r, "culvert-met", met)).expect("accepted");
            let Accepted { agent, registration, carrier, .. } = &accepted;
            let promise = Slots::default().promise(agent, registration, "r1", Vec::new).expect("a slot");
            assert_eq!(registrar.welcome(carrier, promise.slot()).headers()["culvert-slot"], slot, "{met}");
        }
    }

    #[test]
    fn who_has_the_token_still_has_to_come_from_the_right_place_and_find_room() {
        let registrar = Registrar::new("r1").expect("an id");
        let denied = decide_from("198.51.100.7", 1, |_| {}).expect_err("denied");
        assert_eq!((denied.status(), denied.result()), (StatusCode::FORBIDDEN, "source"));
        assert!(denied.text().contains("from 198.51.100.7: its spec.allowedSources"), "{}", denied.text());
        let denied = decide_from("192.0.2.7", 2, |_| {}).expect_err("denied");
        assert_eq!((denied.status(), denied.result()), (StatusCode::TOO_MANY_REQUESTS, "surplus"));
        assert!(denied.text().contains("2 other processes run as TunnelAgent web/lab"), "{}", denied.text());
        assert_eq!(registrar.refusal(&denied).headers()["retry-after"], "5");
        // Without the token nothing of that is told.
        let wrong = |r: &mut Request<()>| set(r, "authorization", "Bearer 0000000000000000");
        assert_eq!(decide_from("198.51.100.7", 2, wrong).expect_err("denied").status(), StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn ids_that_no_header_can_carry_are_none() {
        for id in ["", "a b", "a,b", "a=0", "ä", "a\n"] {
            assert!(Registrar::new(id).is_none(), "{id:?}");
        }
    }
}
