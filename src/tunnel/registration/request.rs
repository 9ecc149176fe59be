use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::{
    Carrier, PATH, PROTOCOL, SUBPROTOCOL, Token, TokenError, decimal, header as own, is_replica_id,
    version_of_other_side,
};

/// Who registers, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The agent: `namespace/name`.
    pub agent: String,
    /// What proves it.
    pub token: Token,
    /// A random hexadecimal number of the agent's process, 1 to 64 digits.
    pub instance: String,
    /// The version of the agent's binary.
    pub version: String,
    /// How many sessions the process wants with each replica, 1 to [`Registration::MAX_SLOTS`]. Their slots are numbered from 0.
    pub slots: u32,
    /// The slots in which the process holds sessions already, by the ids of the replicas.
    pub met: BTreeMap<String, BTreeSet<u32>>,
}

/// Why a request is no registration. Its text may be shown to the client: it holds nothing of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// It asks for another protocol, or none.
    #[error(
        "this is a bridge for culvert agents: it speaks {PROTOCOL}, or {SUBPROTOCOL} in a WebSocket; the request asks \
         for {}{}",
        asked(.upgrade, .subprotocol), remedy(.upgrade, .subprotocol)
    )]
    Protocol {
        /// What it has in `Upgrade`.
        upgrade: String,
        /// What it has in `Sec-WebSocket-Protocol`.
        subprotocol: String,
    },
    /// There is no bearer token.
    #[error("no token: send it as \"Authorization: Bearer TOKEN\"")]
    NoToken,
    /// What was sent as a token cannot be one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A header is missing.
    #[error("the header {0:?} is missing")]
    Missing(HeaderName),
    /// A header has another form than it should.
    #[error("the header {0:?} is malformed: expected {1}")]
    Malformed(HeaderName, &'static str),
}

/// What the headers are to be like, as errors say it.
const SLOTS_FORM: &str = "a number from 1 to 8";
const MET_FORM: &str =
    "ids of replicas separated by commas, each once, and behind = those of the slots that are held, as in a,b=0+2";

// === impl Registration ===

impl Registration {
    /// The most sessions that a process may want with one replica.
    pub const MAX_SLOTS: u32 = 8;

    /// The longest value of a header that is taken, in bytes.
    const MAX_VALUE: usize = 1024;
    /// That of `Culvert-Met`, in bytes: some hundreds of replicas.
    const MAX_MET: usize = 8 * 1024;

    /// The request's bytes; `host` is the bridge's authority, as in `bridge.example.com:7443`.
    #[must_use]
    pub fn encode(&self, host: &str, carrier: &Carrier) -> Vec<u8> {
        let Self { agent, token, instance, version, slots, met: _ } = self;
        let mut text = format!(
            "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n\
             Authorization: Bearer {token}\r\nCulvert-Agent: {agent}\r\nCulvert-Instance: {instance}\r\n\
             Culvert-Version: {version}\r\nCulvert-Slots: {slots}\r\n",
            token = token.expose(),
        );
        for (name, value) in carrier.request() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
        let met = self.met_value();
        if !met.is_empty() {
            let _ = write!(text, "Culvert-Met: {met}\r\n");
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// As many of the replicas that are met as the header may hold. Of more, one that is left out may give a slot again that is held.
    fn met_value(&self) -> String {
        let mut value = String::new();
        for (replica, held) in self.met.iter().filter(|(_, held)| !held.is_empty()) {
            let before = value.len();
            if before > 0 {
                value.push(',');
            }
            value.push_str(replica);
            if self.free_slots(replica).next().is_some() {
                for (index, slot) in held.iter().enumerate() {
                    // Writing to a String cannot fail.
                    let _ = write!(value, "{}{slot}", if index == 0 { '=' } else { '+' });
                }
            }
            if value.len() > Self::MAX_MET {
                value.truncate(before);
            }
        }
        value
    }

    /// The slots for the next session with this replica, the lowest first; none where the process holds one in each.
    pub fn free_slots<'a>(&'a self, replica: &'a str) -> impl Iterator<Item = u32> + Clone + 'a {
        (0..self.slots).filter(move |slot| self.is_free(replica, *slot))
    }

    /// Whether that slot is one in which the process wants a session with this replica and does not hold one.
    pub(super) fn is_free(&self, replica: &str, slot: u32) -> bool {
        slot < self.slots && self.met.get(replica).is_none_or(|held| !held.contains(&slot))
    }

    /// Reads a registration from a request's headers; method and path are the caller's to check.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, RegistrationError> {
        if Carrier::from_headers(headers).is_none() {
            let values = |name| headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            let text = |name| values(name).collect::<Vec<_>>().join(", ");
            let (upgrade, subprotocol) = (text(header::UPGRADE), text(header::SEC_WEBSOCKET_PROTOCOL));
            return Err(RegistrationError::Protocol { upgrade, subprotocol });
        }
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = Token::new(token.and_then(bearer).ok_or(RegistrationError::NoToken)?)?;

        let agent = required(headers, own::AGENT, "NAMESPACE/NAME")?;
        let is_name = |part: &str| !part.is_empty() && !part.contains('/');
        if !agent.split_once('/').is_some_and(|(namespace, name)| is_name(namespace) && is_name(name)) {
            return Err(RegistrationError::Malformed(own::AGENT, "NAMESPACE/NAME"));
        }
        let instance = required(headers, own::INSTANCE, "1 to 64 hexadecimal digits")?;
        if instance.len() > 64 || !instance.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(RegistrationError::Malformed(own::INSTANCE, "1 to 64 hexadecimal digits"));
        }
        let version = required(headers, own::VERSION, "the binary's version")?;
        let slots = decimal(&required(headers, own::SLOTS, SLOTS_FORM)?);
        let slots = slots.filter(|slots| (1..=Self::MAX_SLOTS).contains(slots));
        let slots = slots.ok_or(RegistrationError::Malformed(own::SLOTS, SLOTS_FORM))?;
        let met = match headers.get(own::MET) {
            Some(_) => value(headers, own::MET, MET_FORM, Self::MAX_MET)?,
            None => String::new(),
        };
        let met = read_met(&met, slots).ok_or(RegistrationError::Malformed(own::MET, MET_FORM))?;
        Ok(Self { agent, token, instance, version, slots, met })
    }
}

/// What is held, by the ids of the replicas, where the process wants so many sessions with each. Nothing is said twice.
fn read_met(value: &str, slots: u32) -> Option<BTreeMap<String, BTreeSet<u32>>> {
    let mut met = BTreeMap::new();
    for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (replica, held) = match entry.split_once('=') {
            Some((replica, held)) => (replica, read_slots(held, slots)?),
            None => (entry, (0..slots).collect()),
        };
        if !is_replica_id(replica) || met.insert(replica.to_owned(), held).is_some() {
            return None;
        }
    }
    Some(met)
}

fn read_slots(value: &str, slots: u32) -> Option<BTreeSet<u32>> {
    let mut held = BTreeSet::new();
    value.split('+').all(|slot| decimal(slot).is_some_and(|slot| slot < slots && held.insert(slot))).then_some(held)
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// The header's one value, in printable ASCII and not too long.
fn required(headers: &HeaderMap, name: HeaderName, form: &'static str) -> Result<String, RegistrationError> {
    value(headers, name, form, Registration::MAX_VALUE)
}

/// The same, of at most so many bytes.
fn value(headers: &HeaderMap, name: HeaderName, form: &'static str, most: usize) -> Result<String, RegistrationError> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Err(RegistrationError::Missing(name)) };
    match value.to_str() {
        Ok(text) if values.next().is_none() && !text.is_empty() && text.len() <= most => Ok(text.to_owned()),
        _ => Err(RegistrationError::Malformed(name, form)),
    }
}

/// What an agent asks for, and where.
fn asked(upgrade: &str, subprotocol: &str) -> String {
    if subprotocol.is_empty() {
        return format!("{upgrade:?} in \"Upgrade\"");
    }
    format!("{upgrade:?} in \"Upgrade\", and {subprotocol:?} in \"Sec-WebSocket-Protocol\"")
}

/// Which side is too old to speak a protocol that the agent asks for.
fn remedy(upgrade: &str, subprotocol: &str) -> &'static str {
    match version_of_other_side(&format!("{upgrade},{subprotocol}")) {
        Some(Ordering::Greater) => "; upgrade the edge",
        Some(Ordering::Less) => "; upgrade the agent",
        Some(Ordering::Equal) | None => "",
    }
}

// === impl RegistrationError ===

impl RegistrationError {
    /// What to answer: 400, 401 or 426.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Protocol { .. } => StatusCode::UPGRADE_REQUIRED,
            Self::NoToken | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Missing(_) | Self::Malformed(..) => StatusCode::BAD_REQUEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn registration() -> Registration {
        Registration {
            agent: "web/home-lab".into(),
            token: Token::new("0123456789abcdef").expect("a token"),
            instance: "5f0c".into(),
            version: "0.1.0".into(),
            slots: 3,
            met: met(&[("edge-0", &[0, 1, 2]), ("edge-1", &[1]), ("edge-2", &[0, 2])]),
        }
    }

    fn met(held: &[(&str, &[u32])]) -> BTreeMap<String, BTreeSet<u32>> {
        held.iter().map(|(replica, slots)| ((*replica).to_owned(), slots.iter().copied().collect())).collect()
    }

    /// What is read of a request with these values.
    fn with(values: &[(&'static str, &'static str)]) -> Result<Registration, RegistrationError> {
        let mut headers = headers(&registration().encode("bridge", &Carrier::Direct));
        for (name, value) in values {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        Registration::from_headers(&headers)
    }

    fn headers(bytes: &[u8]) -> HeaderMap {
        let mut parsed = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut parsed);
        assert!(request.parse(bytes).expect("a request").is_complete());
        assert_eq!((request.method, request.path), (Some("GET"), Some(PATH)));
        let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).expect("a name");
        let value = |value| HeaderValue::from_bytes(value).expect("a value");
        request.headers.iter().map(|header| (name(header.name), value(header.value))).collect()
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let registration = registration();
        let headers = headers(&registration.encode("bridge.example.com:7443", &Carrier::Direct));
        assert_eq!(headers["host"], "bridge.example.com:7443");
        assert_eq!(headers["connection"], "Upgrade");
        assert_eq!(headers["culvert-slots"], "3");
        assert_eq!(headers["culvert-met"], "edge-0,edge-1=1,edge-2=0+2");
        assert_eq!(Registration::from_headers(&headers), Ok(registration));
    }

    #[test]
    fn no_replica_met_means_no_header() {
        // Nor does one that is held in no slot.
        let none = Registration { met: met(&[("edge-0", &[])]), ..registration() };
        assert!(!headers(&none.encode("bridge", &Carrier::Direct)).contains_key("culvert-met"));
        let registration = Registration { met: BTreeMap::new(), ..registration() };
        let headers = headers(&registration.encode("bridge", &Carrier::Direct));
        assert!(!headers.contains_key("culvert-met"));
        assert_eq!(Registration::from_headers(&headers), Ok(registration));
    }

    #[test]
    fn what_is_met_is_read_as_it_is_meant() {
        let read = |value| with(&[("culvert-slots", "2"), ("culvert-met", value)]).map(|registration| registration.met);
        assert_eq!(read("a"), Ok(met(&[("a", &[0, 1])])), "an id alone: in all slots");
        assert_eq!(read("a, b=1 ,,c=1+0"), Ok(met(&[("a", &[0, 1]), ("b", &[1]), ("c", &[0, 1])])));
        for malformed in [
            "a,a",
            "a,a=0",
            "a=0+0",
            "a=",
            "=0",
            "a=2",
            "a=-1",
            "a=+1",
            "a=0+",
            "a=0=1",
            "a=x",
            "a b",
            "a=0 1",
            "a=4294967296",
        ] {
            assert_eq!(read(malformed), Err(RegistrationError::Malformed(own::MET, MET_FORM)), "{malformed}");
        }
        for malformed in ["0", "9", "-1", "+1", "1.0", "two"] {
            let read = with(&[("culvert-slots", malformed)]);
            assert_eq!(read, Err(RegistrationError::Malformed(own::SLOTS, SLOTS_FORM)), "{malformed}");
        }
        assert!(SLOTS_FORM.ends_with(&Registration::MAX_SLOTS.to_string()));
    }

    #[test]
    fn the_lowest_slot_that_is_free_is_the_next() {
        let registration = registration();
        let next = ["edge-0", "edge-1", "edge-2", "edge-3"].map(|replica| registration.free_slots(replica).next());
        assert_eq!(next, [None, Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn no_more_replicas_are_named_than_the_header_may_hold() {
        let held = (0..1_000).map(|number| (format!("edge-{number:03}"), BTreeSet::from([0])));
        let many = Registration { met: held.collect(), ..registration() };
        let read = Registration::from_headers(&headers(&many.encode("bridge", &Carrier::Direct))).expect("it is taken");
        assert_eq!(read.met.len(), (Registration::MAX_MET + 1) / "edge-000=0,".len());
    }

    #[test]
    fn errors_say_what_is_wrong_and_never_the_token() {
        let with = |name, value| with(&[(name, value)]).expect_err("no registration");
        assert_eq!(with("upgrade", "h2c").status(), StatusCode::UPGRADE_REQUIRED);
        assert!(with("upgrade", "h2c").to_string().ends_with(r#"asks for "h2c" in "Upgrade""#));
        assert!(with("upgrade", "culvert/3, culvert/2").to_string().ends_with("; upgrade the edge"));
        assert!(with("upgrade", "culvert/0").to_string().ends_with("; upgrade the agent"));
        assert_eq!(with("authorization", "Basic Zm9vOmJhcg==").status(), StatusCode::UNAUTHORIZED);
        assert_eq!(with("authorization", "Basic Zm9vOmJhcg=="), RegistrationError::NoToken);
        assert_eq!(with("authorization", "Bearer a-short-one").status(), StatusCode::UNAUTHORIZED);
        let text = with("authorization", "Bearer 0123456789 abcdef").to_string();
        assert!(text.contains("printable ASCII") && !text.contains("0123456789"), "{text}");
        assert_eq!(with("culvert-agent", "home-lab").status(), StatusCode::BAD_REQUEST);
        assert_eq!(with("culvert-agent", "a/b/c"), RegistrationError::Malformed(own::AGENT, "NAMESPACE/NAME"));
        assert_eq!(with("culvert-instance", "xyz").status(), StatusCode::BAD_REQUEST);
        assert_eq!(with("culvert-slots", "0").status(), StatusCode::BAD_REQUEST);
        assert_eq!(with("culvert-met", "edge-0,edge-0").status(), StatusCode::BAD_REQUEST);
        let mut headers = headers(&registration().encode("bridge", &Carrier::Direct));
        headers.remove("culvert-version");
        assert_eq!(Registration::from_headers(&headers), Err(RegistrationError::Missing(own::VERSION)));
    }

    #[test]
    fn a_websocket_registers_alike() {
        let carrier = Carrier::websocket();
        let headers = headers(&registration().encode("bridge", &carrier));
        assert_eq!(Registration::from_headers(&headers), Ok(registration()));
        assert_eq!(Carrier::from_headers(&headers), Some(carrier));
    }

    #[test]
    fn one_of_several_protocols_is_enough() {
        let mut headers = headers(&registration().encode("bridge", &Carrier::Direct));
        headers.insert("upgrade", HeaderValue::from_static("culvert/2, Culvert/1"));
        assert!(Registration::from_headers(&headers).is_ok());
    }
}
