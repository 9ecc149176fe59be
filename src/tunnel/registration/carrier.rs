use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::PROTOCOL;
use crate::tunnel::websocket::answer_to;

/// What carries the frames of a session, as its registration asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The connection itself: `Upgrade: culvert/1`.
    Direct,
    /// Binary messages of a WebSocket: `Upgrade: websocket` with the subprotocol `culvert.1`.
    WebSocket {
        /// The value of `Sec-WebSocket-Key`, which the answer has to prove that it has read.
        key: String,
    },
}

/// The protocol's name and version as a WebSocket's subprotocol, where a name has no "/".
pub const SUBPROTOCOL: &str = "culvert.1";

const WEBSOCKET: &str = "websocket";
const VERSION: &str = "13";

// === impl Carrier ===

impl Carrier {
    /// A WebSocket with a key of its own.
    #[must_use]
    pub fn websocket() -> Self {
        Self::WebSocket { key: STANDARD.encode(rand::random::<[u8; 16]>()) }
    }

    /// What a request asks for: `culvert/1` where it names it, else a WebSocket of the right version and subprotocol; `None`
    /// where it asks for neither.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        if names(headers, &header::UPGRADE, PROTOCOL) {
            return Some(Self::Direct);
        }
        let asked = names(headers, &header::UPGRADE, WEBSOCKET)
            && names(headers, &header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
            && names(headers, &header::SEC_WEBSOCKET_VERSION, VERSION);
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?.to_str().ok()?;
        let is_key = STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
        is_key.then(|| Self::WebSocket { key: key.to_owned() })
    }

    /// The headers by which a request asks for it, beside `Connection`.
    pub(super) fn request(&self) -> Vec<(HeaderName, &str)> {
        match self {
            Self::Direct => vec![(header::UPGRADE, PROTOCOL)],
            Self::WebSocket { key } => vec![
                (header::UPGRADE, WEBSOCKET),
                (header::SEC_WEBSOCKET_KEY, key),
                (header::SEC_WEBSOCKET_VERSION, VERSION),
                (header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL),
            ],
        }
    }

    /// The headers by which an answer grants it, beside `Connection`.
    #[must_use]
    pub fn answer(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Self::Direct => vec![(header::UPGRADE, HeaderValue::from_static(PROTOCOL))],
            Self::WebSocket { key } => {
                let mut answer = vec![
                    (header::UPGRADE, HeaderValue::from_static(WEBSOCKET)),
                    (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL)),
                ];
                // Base64 is always a header's value.
                answer.extend(HeaderValue::try_from(answer_to(key)).map(|proof| (header::SEC_WEBSOCKET_ACCEPT, proof)));
                answer
            }
        }
    }

    /// Whether an answer grants it; `value` looks one of its headers up.
    pub(super) fn is_granted<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.answer().iter().all(|(name, wanted)| {
            value(name.as_str()).is_some_and(|found| {
                // The names of protocols have no case; the proof has.
                let same =
                    *name != header::SEC_WEBSOCKET_ACCEPT && found.as_bytes().eq_ignore_ascii_case(wanted.as_bytes());
                same || found.as_bytes() == wanted.as_bytes()
            })
        })
    }
}

/// Whether a list in this header, which may come in several lines, has the word.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let mut words = lines.flat_map(|line| line.split(|&byte| byte == b','));
    words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_is_asked_for_is_read_back_and_granted() {
        for carrier in [Carrier::Direct, Carrier::websocket()] {
            let asked: HeaderMap =
                carrier.request().into_iter().map(|(name, value)| (name, value.parse().expect("a value"))).collect();
            assert_eq!(Carrier::from_headers(&asked).as_ref(), Some(&carrier));
            let answer: HeaderMap = carrier.answer().into_iter().collect();
            let value = |name: &str| answer.get(name).and_then(|value| value.to_str().ok());
            assert!(carrier.is_granted(value));
            let other = match carrier {
                Carrier::Direct => Carrier::websocket(),
                Carrier::WebSocket { .. } => Carrier::Direct,
            };
            assert!(!other.is_granted(value));
        }
        let (one, other) = (Carrier::websocket(), Carrier::websocket());
        let answer: HeaderMap = other.answer().into_iter().collect();
        assert!(!one.is_granted(|name| answer.get(name)?.to_str().ok()), "the proof is for another key");
    }

    #[test]
    fn a_websocket_of_another_kind_is_not_taken() {
        let good = [
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat, culvert.1"),
        ];
        assert!(matches!(Carrier::from_headers(&headers(&good)), Some(Carrier::WebSocket { .. })));
        for (name, value) in [
            ("upgrade", "h2c"),
            ("sec-websocket-key", "short"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-protocol", "chat"),
        ] {
            let mut headers = headers(&good);
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(Carrier::from_headers(&headers), None, "{name}: {value}");
        }
        for (name, _) in good {
            let mut headers = headers(&good);
            headers.remove(name);
            assert_eq!(Carrier::from_headers(&headers), None, "without {name}");
        }
    }
}
