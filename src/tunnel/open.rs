use std::net::{IpAddr, SocketAddr};

/// What the edge tells the agent about a link that it opens: where it goes, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// What the agent connects to, `host:port`.
    pub target: String,
    /// The TunnelHost, `namespace/name`.
    pub tunnel_host: String,
    /// The visitor's address; `None` where there is no single visitor (a link that serves many in turn).
    pub visitor: Option<SocketAddr>,
    /// The request's id.
    pub request_id: Option<String>,
    /// The request's `traceparent` (W3C Trace Context).
    pub traceparent: Option<String>,
    /// Between replicas: the agent, `namespace/name`, whose session the link is to go on through. Agents are not told.
    pub agent: Option<String>,
}

/// The types of OPEN's fields.
mod field {
    pub(super) const TARGET: u8 = 1;
    pub(super) const TUNNEL_HOST: u8 = 2;
    pub(super) const VISITOR: u8 = 3;
    pub(super) const REQUEST_ID: u8 = 4;
    pub(super) const TRACEPARENT: u8 = 5;
    pub(super) const AGENT: u8 = 6;
}

// === impl Open ===

impl Open {
    /// The payload of OPEN.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        put(&mut out, field::TARGET, self.target.as_bytes());
        put(&mut out, field::TUNNEL_HOST, self.tunnel_host.as_bytes());
        if let Some(visitor) = self.visitor {
            let mut value = match visitor.ip().to_canonical() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            value.extend(visitor.port().to_be_bytes());
            put(&mut out, field::VISITOR, &value);
        }
        if let Some(id) = &self.request_id {
            put(&mut out, field::REQUEST_ID, id.as_bytes());
        }
        if let Some(traceparent) = &self.traceparent {
            put(&mut out, field::TRACEPARENT, traceparent.as_bytes());
        }
        if let Some(agent) = &self.agent {
            put(&mut out, field::AGENT, agent.as_bytes());
        }
        out
    }

    /// Reads the payload of OPEN; the error says what is wrong with it.
    pub(super) fn decode(mut payload: &[u8]) -> Result<Self, String> {
        let (mut target, mut tunnel_host, mut visitor, mut request_id, mut traceparent, mut agent) =
            (None, None, None, None, None, None);
        while let Some(([kind, a, b], rest)) = payload.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([*a, *b]));
            let Some((value, rest)) = rest.split_at_checked(length) else {
                return Err(format!("field {kind} is cut off"));
            };
            payload = rest;
            let again = match *kind {
                field::TARGET => target.replace(text(*kind, value)?).is_some(),
                field::TUNNEL_HOST => tunnel_host.replace(text(*kind, value)?).is_some(),
                field::VISITOR => visitor.replace(address(value)?).is_some(),
                field::REQUEST_ID => request_id.replace(text(*kind, value)?).is_some(),
                field::TRACEPARENT => traceparent.replace(text(*kind, value)?).is_some(),
                field::AGENT => agent.replace(text(*kind, value)?).is_some(),
                _ => false,
            };
            if again {
                return Err(format!("field {kind} stands twice"));
            }
        }
        if !payload.is_empty() {
            return Err("the last field is cut off".to_owned());
        }
        let target = target.ok_or("there is no target")?;
        let tunnel_host = tunnel_host.ok_or("there is no tunnel host")?;
        Ok(Self { target, tunnel_host, visitor, request_id, traceparent, agent })
    }
}

/// A value that is too long makes the whole payload too long, and is found there.
fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.push(kind);
    out.extend(length.to_be_bytes());
    out.extend(value);
}

fn text(kind: u8, value: &[u8]) -> Result<String, String> {
    String::from_utf8(value.to_vec()).map_err(|_| format!("field {kind} is not UTF-8"))
}

fn address(value: &[u8]) -> Result<SocketAddr, String> {
    let malformed = || format!("the visitor's address has {} bytes", value.len());
    let (ip, port) = value.split_last_chunk().ok_or_else(malformed)?;
    let ip = <[u8; 4]>::try_from(ip)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(ip).map(IpAddr::from))
        .map_err(|_| malformed())?;
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open() -> Open {
        Open { target: "127.0.0.1:8080".into(), tunnel_host: "web/shop".into(), ..Open::default() }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            target in ".{0,60}", tunnel_host in ".{0,60}",
            ip in prop::option::of(any::<([u8; 16], bool)>()), port: u16,
            request_id in prop::option::of(".{0,60}"), traceparent in prop::option::of(".{0,60}"),
            agent in prop::option::of(".{0,60}"),
        ) {
            let visitor = ip.map(|(bytes, v4)| {
                let ip = if v4 { IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]) } else { IpAddr::from(bytes) };
                SocketAddr::new(ip.to_canonical(), port)
            });
            let open = Open { target, tunnel_host, visitor, request_id, traceparent, agent };
            prop_assert_eq!(Open::decode(&open.encode()), Ok(open));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Open::decode(&bytes);
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_known_ones_stand_once() {
        let mut payload = open().encode();
        put(&mut payload, 77, b"from the future");
        assert_eq!(Open::decode(&payload), Ok(open()));
        put(&mut payload, field::TARGET, b"another");
        assert_eq!(Open::decode(&payload), Err("field 1 stands twice".to_owned()));
    }

    #[test]
    fn what_is_missing_or_cut_off_is_said() {
        let decode = |payload: &[u8]| Open::decode(payload).expect_err("malformed");
        assert_eq!(decode(&[]), "there is no target");
        assert_eq!(decode(&[1, 0, 0]), "there is no tunnel host");
        assert_eq!(decode(&[1, 0]), "the last field is cut off");
        assert_eq!(decode(&[1, 0, 5, b'a']), "field 1 is cut off");
        assert_eq!(decode(&[3, 0, 1, 0]), "the visitor's address has 1 bytes");
        assert_eq!(decode(&[4, 0, 1, 0xff]), "field 4 is not UTF-8");
    }
}
