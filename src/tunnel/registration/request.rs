use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::{Carrier, PATH, PROTOCOL, SUBPROTOCOL, Token, TokenError, header as own};

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
    /// Which of the process's parallel connections this is, from 0.
    pub slot: u32,
    /// The ids of the replicas that the process holds sessions with already.
    pub met: Vec<String>,
}

/// Why a request is no registration. Its text may be shown to the client: it holds nothing of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// It asks for another protocol, or none.
    #[error(
        "this is a bridge for culvert agents: it speaks {PROTOCOL}, or {SUBPROTOCOL} in a WebSocket; the request asks \
         for {0:?} in \"Upgrade\""
    )]
    Protocol(String),
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

// === impl Registration ===

impl Registration {
    /// The longest value of a header that is taken, in bytes.
    const MAX_VALUE: usize = 1024;

    /// The request's bytes; `host` is the bridge's authority, as in `bridge.example.com:7443`.
    #[must_use]
    pub fn encode(&self, host: &str, carrier: &Carrier) -> Vec<u8> {
        let Self { agent, token, instance, version, slot, met } = self;
        let mut text = format!(
            "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n\
             Authorization: Bearer {token}\r\nCulvert-Agent: {agent}\r\nCulvert-Instance: {instance}\r\n\
             Culvert-Version: {version}\r\nCulvert-Slot: {slot}\r\n",
            token = token.expose(),
        );
        for (name, value) in carrier.request() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if !met.is_empty() {
            let _ = write!(text, "Culvert-Met: {}\r\n", met.join(","));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// Reads a registration from a request's headers; method and path are the caller's to check.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, RegistrationError> {
        if Carrier::from_headers(headers).is_none() {
            let upgrade = headers.get(header::UPGRADE).map_or(&b""[..], |value| value.as_bytes());
            return Err(RegistrationError::Protocol(String::from_utf8_lossy(upgrade).into_owned()));
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
        let slot = required(headers, own::SLOT, "a number from 0")?;
        let slot = slot.parse().map_err(|_| RegistrationError::Malformed(own::SLOT, "a number from 0"))?;
        let met = match headers.get(own::MET) {
            Some(_) => required(headers, own::MET, "ids of replicas separated by commas")?,
            None => String::new(),
        };
        let met = met.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect();
        Ok(Self { agent, token, instance, version, slot, met })
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// The header's one value, in printable ASCII and not too long.
fn required(headers: &HeaderMap, name: HeaderName, form: &'static str) -> Result<String, RegistrationError> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Err(RegistrationError::Missing(name)) };
    match value.to_str() {
        Ok(text) if values.next().is_none() && !text.is_empty() && text.len() <= Registration::MAX_VALUE => {
            Ok(text.to_owned())
        }
        _ => Err(RegistrationError::Malformed(name, form)),
    }
}

// === impl RegistrationError ===

impl RegistrationError {
    /// What to answer: 400, 401 or 426.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Protocol(_) => StatusCode::UPGRADE_REQUIRED,
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
            slot: 1,
            met: vec!["edge-0".into(), "edge-1".into()],
        }
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
        assert_eq!(Registration::from_headers(&headers), Ok(registration));
    }

    #[test]
    fn no_replica_met_means_no_header() {
        let registration = Registration { met: Vec::new(), ..registration() };
        let headers = headers(&registration.encode("bridge", &Carrier::Direct));
        assert!(!headers.contains_key("culvert-met"));
        assert_eq!(Registration::from_headers(&headers), Ok(registration));
    }

    #[test]
    fn errors_say_what_is_wrong_and_never_the_token() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = headers(&registration().encode("bridge", &Carrier::Direct));
            headers.insert(name, HeaderValue::from_static(value));
            Registration::from_headers(&headers).expect_err("no registration")
        };
        assert_eq!(with("upgrade", "h2c").status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(with("authorization", "Basic Zm9vOmJhcg==").status(), StatusCode::UNAUTHORIZED);
        assert_eq!(with("authorization", "Basic Zm9vOmJhcg=="), RegistrationError::NoToken);
        assert_eq!(with("authorization", "Bearer a-short-one").status(), StatusCode::UNAUTHORIZED);
        let text = with("authorization", "Bearer 0123456789 abcdef").to_string();
        assert!(text.contains("printable ASCII") && !text.contains("0123456789"), "{text}");
        assert_eq!(with("culvert-agent", "home-lab").status(), StatusCode::BAD_REQUEST);
        assert_eq!(with("culvert-agent", "a/b/c"), RegistrationError::Malformed(own::AGENT, "NAMESPACE/NAME"));
        assert_eq!(with("culvert-instance", "xyz").status(), StatusCode::BAD_REQUEST);
        assert_eq!(with("culvert-slot", "-1").status(), StatusCode::BAD_REQUEST);
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
