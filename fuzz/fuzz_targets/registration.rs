//! Any bytes as a registration, or as the answer to one: no panic, no more read than an answer may be long, and nothing of
//! the token in what is said about it.
#![no_main]

use std::collections::BTreeMap;

use culvert::tunnel::registration::{Carrier, RegisterError, Registration, Token, is_replica_id, register_over};
use culvert_fuzz::{Wire, at_once};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

const TOKEN: &str = "0123456789abcdef";

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, piece], data)) = data.split_first_chunk::<2>() else { return };
    let carrier = if choice & 1 == 0 { Carrier::Direct } else { Carrier::websocket() };
    if choice & 2 == 0 { request(data, &carrier) } else { answer(data, piece, &carrier) }
});

fn request(data: &[u8], carrier: &Carrier) {
    let mut parsed = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut parsed);
    if !request.parse(data).is_ok_and(|status| status.is_complete()) {
        return;
    }
    if let Ok(registration) = Registration::from_headers(&map(request.headers)) {
        // What was understood says the same when it is said again.
        let again = registration.encode("edge", carrier);
        let mut parsed = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut parsed);
        assert!(request.parse(&again).is_ok_and(|status| status.is_complete()), "{again:?}");
        let again = Registration::from_headers(&map(request.headers)).expect("it was one");
        assert_eq!((again.slots, again.met), (registration.slots, registration.met));
    }
}

fn map(headers: &[httparse::Header<'_>]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for header in headers {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(header.value)) {
            map.append(name, value);
        }
    }
    map
}

fn answer(data: &[u8], piece: u8, carrier: &Carrier) {
    let Ok(token) = Token::new(TOKEN) else { return };
    let registration = Registration {
        agent: "web/lab".into(),
        token,
        instance: "0a".into(),
        version: "1".into(),
        slots: 2,
        met: BTreeMap::new(),
    };
    match at_once(register_over(&mut Wire::new(data, piece), "edge", &registration, carrier)) {
        Ok(registered) => assert!(is_replica_id(&registered.replica) && registered.slot < 2),
        Err(RegisterError::Rejected(rejection)) => assert!(rejection.reason.len() <= 3 * 1024),
        Err(_) => {}
    }
}
