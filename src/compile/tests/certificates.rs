//! The certificates that visitors are shown.

use super::*;

/// A certificate of its own authority, with its key, as PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

pub(super) fn issue(names: &[&str]) -> Issued {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let issued = rcgen::generate_simple_self_signed(names).expect("a certificate");
    Issued { chain: issued.cert.pem(), key: issued.signing_key.serialize_pem() }
}

fn tls(name: &str, issued: &Issued) -> Arc<Secret> {
    secret(name, SecretType::Tls, &[("tls.crt", &issued.chain), ("tls.key", &issued.key)])
}

fn with_tls(name: &str, age: i64, hostnames: &[&str], secret: &str) -> Arc<TunnelHost> {
    let spec = json!({
        "hostnames": hostnames, "tls": {"secretRef": {"name": secret}, "redirect": false}, "routes": [{}],
    });
    host(name, age, &spec)
}

fn all(hosts: Vec<Arc<TunnelHost>>, secrets: &[Arc<Secret>], previous: Option<&Compiled>) -> Compiled {
    let mut objects = objects(hosts);
    objects.secrets.extend_from_slice(secrets);
    compile(&objects, previous)
}

fn shown(compiled: &Compiled, host: &str) -> Option<String> {
    compiled.table.certificates().find(host).map(|certificate| certificate.secret.to_string())
}

#[test]
fn a_hostname_shows_the_certificate_of_the_oldest_object_that_has_one() {
    let hosts = vec![
        plain("web/first", 1, &["a.com"]),
        with_tls("web/second", 2, &["a.com", "*.a.com"], "one"),
        with_tls("web/third", 3, &["a.com", "b.com"], "two"),
        with_tls("web/broken", 0, &["a.com"], "gone"),
        with_tls("other/thief", 4, &["a.com"], "three"),
    ];
    let secrets = [
        tls("web/one", &issue(&["a.com", "*.a.com"])),
        tls("web/two", &issue(&["a.com", "b.com"])),
        tls("other/three", &issue(&["a.com"])),
        tls("web/unused", &issue(&["a.com"])),
    ];
    let compiled = all(hosts, &secrets, None);
    assert_eq!(shown(&compiled, "a.com").as_deref(), Some("web/one"));
    assert_eq!(shown(&compiled, "x.a.com").as_deref(), Some("web/one"));
    assert_eq!(shown(&compiled, "b.com").as_deref(), Some("web/two"));
    assert_eq!(shown(&compiled, "c.com"), None);
    let (reason, message) = judged(&compiled, "web/second", ResolvedRefs);
    assert_eq!(
        (reason, &*message),
        (Reason::ResolvedRefs, "1 agent found, and a certificate that is valid until 4096-01-01T00:00:00Z")
    );
    assert_eq!(
        judged(&compiled, "web/broken", ResolvedRefs),
        (
            Reason::SecretNotFound,
            "spec.tls.secretRef.name: no Secret \"gone\" of type kubernetes.io/tls in namespace \"web\"; create it, or \
             correct the name; until then the edge's default certificate is shown"
                .into()
        )
    );
    // Its routes go on.
    assert_eq!(found(&compiled, "a.com", "/"), "web/broken routes[0]");
    let mut kept: Vec<_> = compiled.certificates().map(|certificate| certificate.secret.to_string()).collect();
    kept.sort();
    assert_eq!(kept, ["other/three", "web/one", "web/two"]);
}

#[test]
fn a_certificate_that_is_not_for_the_hostname_is_told_and_shown_all_the_same() {
    let hosts = vec![with_tls("web/a", 1, &["a.com", "x.y.a.com", "*.a.com", "*.b.com"], "one")];
    let compiled = all(hosts, &[tls("web/one", &issue(&["A.com", "*.a.com"]))], None);
    let (reason, message) = judged(&compiled, "web/a", ResolvedRefs);
    assert_eq!(reason, Reason::ResolvedRefs);
    let notes: Vec<&str> = message.split("; ").filter(|part| part.contains("is not for")).collect();
    assert_eq!(
        notes,
        [
            "spec.tls.secretRef.name: the certificate of Secret \"one\" is not for \"x.y.a.com\", so browsers refuse it",
            "spec.tls.secretRef.name: the certificate of Secret \"one\" is not for \"*.b.com\", so browsers refuse it",
        ]
    );
    assert_eq!(shown(&compiled, "x.y.a.com").as_deref(), Some("web/one"));
}

#[test]
fn a_wrong_certificate_is_told_by_key_without_a_value() {
    let (one, two) = (issue(&["a.com"]), issue(&["a.com"]));
    let with = |chain: &str, key: &str| secret("web/one", SecretType::Tls, &[("tls.crt", chain), ("tls.key", key)]);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (secret, expected) in [
        (with("", &one.key), "has no key \"tls.crt\", or an empty one"),
        (with("hunter2", &one.key), "key \"tls.crt\": it has no certificate in PEM form"),
        (with(garbage, &one.key), "key \"tls.crt\": its first certificate cannot be read"),
        (with(&one.chain, "hunter2"), "key \"tls.key\": it has no private key in PEM form"),
        (with(&one.chain, &two.key), "key \"tls.key\": it is not the key of the first certificate of \"tls.crt\""),
        (
            with(&one.chain, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            "key \"tls.key\": it is no RSA, ECDSA or Ed25519 key",
        ),
    ] {
        let compiled = all(vec![with_tls("web/a", 1, &["a.com"], "one")], &[secret], None);
        let (reason, message) = judged(&compiled, "web/a", ResolvedRefs);
        assert_eq!(reason, Reason::InvalidCertificate, "{message}");
        assert!(message.starts_with("spec.tls.secretRef.name: Secret \"one\""), "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert!(!message.contains("hunter2"), "{message}");
        assert_eq!(shown(&compiled, "a.com"), None);
        assert_eq!(found(&compiled, "a.com", "/"), "web/a routes[0]");
    }
}

#[test]
fn the_last_good_certificate_is_shown_until_a_good_one_comes() {
    let hosts = || vec![with_tls("web/a", 1, &["a.com"], "one")];
    let (first, second) = (issue(&["a.com"]), issue(&["a.com"]));
    let certificate = |compiled: &Compiled| compiled.table.certificates().find("a.com").expect("a certificate").clone();

    let good = all(hosts(), &[tls("web/one", &first)], None);
    let same = all(hosts(), &[tls("web/one", &first)], Some(&good));
    assert!(Arc::ptr_eq(&certificate(&good), &certificate(&same)), "unchanged");

    let mismatched = Issued { chain: second.chain.clone(), key: first.key };
    let broken = all(hosts(), &[tls("web/one", &mismatched)], Some(&same));
    assert!(Arc::ptr_eq(&certificate(&good), &certificate(&broken)));
    let (reason, message) = judged(&broken, "web/a", ResolvedRefs);
    assert_eq!(reason, Reason::InvalidCertificate);
    assert!(
        message.ends_with("; the last good certificate, valid until 4096-01-01T00:00:00Z, is still shown"),
        "{message}"
    );
    let gone = all(hosts(), &[], Some(&broken));
    assert!(Arc::ptr_eq(&certificate(&good), &certificate(&gone)));
    assert_eq!(judged(&gone, "web/a", ResolvedRefs).0, Reason::SecretNotFound);

    let rotated = all(hosts(), &[tls("web/one", &second)], Some(&gone));
    assert_ne!(certificate(&good), certificate(&rotated));
    assert_eq!(judged(&rotated, "web/a", ResolvedRefs).0, Reason::ResolvedRefs);
    // Without an object that refers to it, it is forgotten.
    let none = all(vec![plain("web/a", 1, &["a.com"])], &[], Some(&rotated));
    assert_eq!((shown(&none, "a.com"), none.certificates().count()), (None, 0));
}
