//! Certificates of hostnames, as Secrets.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::CertificateDer;
use serde_json::json;

/// A certificate that signs itself, and its key.
#[derive(Clone)]
pub(crate) struct Certificate {
    /// What a visitor is shown.
    pub(crate) der: CertificateDer<'static>,
    /// When it ends, in seconds of the Unix epoch.
    pub(crate) ends: i64,
    chain: String,
    key: String,
}

// === impl Certificate ===

impl Certificate {
    /// For these names, until that year begins.
    pub(crate) fn new(names: &[&str], until: i32) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        let ends = params.not_after.unix_timestamp();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), ends, chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// The same certificate beside a key that is not its own.
    pub(crate) fn with_key_of(&self, other: &Self) -> Self {
        Self { key: other.key.clone(), ..self.clone() }
    }

    /// A Secret with both.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> String {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"namespace": namespace, "name": name},
            "stringData": {"tls.crt": self.chain, "tls.key": self.key},
        })
        .to_string()
    }

    /// A line of the key in PEM form, which is nowhere else in the world.
    pub(crate) fn line_of_key(&self) -> &str {
        self.key.lines().nth(1).unwrap()
    }
}
