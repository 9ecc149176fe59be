//! Any text where people or other programs write: rules of the allow-list, fingerprints, tokens, proxies' addresses, and the
//! first bytes of the PROXY protocol.
#![no_main]

use culvert::{
    agent::{AllowRule, HttpProxy, Proxies},
    tunnel::{registration::Token, tls::Fingerprint},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok((_, length)) = proxy_protocol_rs::parse(data) {
        assert!((1..=data.len()).contains(&length));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(rule) = text.parse::<AllowRule>() {
        let said = rule.to_string();
        assert_eq!(said.parse::<AllowRule>().ok().as_ref(), Some(&rule), "{said}");
    }
    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    }
    if let Ok(token) = Token::new(text) {
        assert!(text.starts_with(token.expose()) && !format!("{token:?}").contains(token.expose()));
    }
    if let Ok(proxy) = text.parse::<HttpProxy>() {
        let _ = Proxies::new(proxy, text);
    }
});
