use std::{collections::HashMap, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use rustls::{crypto::aws_lc_rs::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::secrets::{SecretProblem, Secrets};
use crate::{
    api::SecretType,
    routing::{Certificate, Certificates, Hostname, ObjectName},
};

/// The certificates that visitors are shown. Objects come in order of age, the oldest first, so the first that has a
/// certificate for a hostname gives it.
pub(super) struct CertificateBook<'a> {
    secrets: &'a Secrets<'a>,
    /// Those that were right the last time.
    previous: Option<&'a HashMap<ObjectName, Arc<Certificate>>>,
    /// By Secret, so that one that is for many objects is read once.
    found: HashMap<ObjectName, Found>,
    shown: HashMap<Hostname, Arc<Certificate>>,
}

/// What a Secret has come to.
#[derive(Clone)]
pub(super) struct Found {
    /// The certificate; where there is a problem, the last good one.
    pub(super) certificate: Option<Shown>,
    pub(super) problem: Option<SecretProblem>,
}

/// A certificate, and what it says of itself.
#[derive(Clone)]
pub(super) struct Shown {
    certificate: Arc<Certificate>,
    names: Arc<[String]>,
    /// When it ends, for people.
    pub(super) until: Timestamp,
}

// === impl CertificateBook ===

impl<'a> CertificateBook<'a> {
    pub(super) fn new(secrets: &'a Secrets<'a>, previous: Option<&'a HashMap<ObjectName, Arc<Certificate>>>) -> Self {
        Self { secrets, previous, found: HashMap::new(), shown: HashMap::new() }
    }

    /// The certificate of a Secret, or the last good one. It is kept from now on.
    pub(super) fn find(&mut self, secret: &ObjectName) -> Found {
        if let Some(found) = self.found.get(secret) {
            return found.clone();
        }
        let last = self.previous.and_then(|previous| previous.get(secret));
        let found = match self.read(secret, last) {
            Ok(certificate) => Found { certificate: Some(certificate), problem: None },
            // Its leaf could be read before.
            Err(problem) => {
                Found { certificate: last.and_then(|last| Shown::new(last.clone()).ok()), problem: Some(problem) }
            }
        };
        self.found.insert(secret.clone(), found.clone());
        found
    }

    /// Shows the certificate of a Secret for those of the hostnames that no older object has one for.
    pub(super) fn show(&mut self, secret: &ObjectName, hostnames: &[Hostname]) {
        let Some(shown) = self.found.get(secret).and_then(|found| found.certificate.as_ref()) else { return };
        for hostname in hostnames {
            self.shown.entry(hostname.clone()).or_insert_with(|| shown.certificate.clone());
        }
    }

    /// What visitors are shown by hostname, and all that were found by Secret.
    pub(super) fn into_parts(self) -> (Certificates, HashMap<ObjectName, Arc<Certificate>>) {
        let found = self.found.into_iter();
        let found = found.filter_map(|(secret, found)| Some((secret, found.certificate?.certificate))).collect();
        (self.shown.into_iter().collect(), found)
    }

    fn read(&self, secret: &ObjectName, last: Option<&Arc<Certificate>>) -> Result<Shown, SecretProblem> {
        let (chain, key) = self.secrets.certificate(secret)?;
        let digest = Sha256::new().chain_update(chain).chain_update([0]).chain_update(key);
        let fingerprint: [u8; 32] = digest.finalize().into();
        if let Some(last) = last.filter(|last| last.fingerprint == fingerprint) {
            return Shown::new(last.clone()).map_err(|problem| wrong(secret, SecretType::CERTIFICATE, &problem));
        }
        let key = certified(secret, chain, key)?;
        let not_after = leaf(&key.cert).map(|leaf| leaf.validity().not_after.timestamp());
        let not_after = not_after.map_err(|problem| wrong(secret, SecretType::CERTIFICATE, &problem))?;
        let certificate = Certificate { secret: secret.clone(), key: Arc::new(key), fingerprint, not_after };
        Shown::new(Arc::new(certificate)).map_err(|problem| wrong(secret, SecretType::CERTIFICATE, &problem))
    }
}

// === impl Shown ===

impl Shown {
    fn new(certificate: Arc<Certificate>) -> Result<Self, String> {
        let leaf = leaf(&certificate.key.cert)?;
        let names = leaf.subject_alternative_name().ok().flatten().into_iter();
        let names = names.flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        });
        let (names, until) = (names.collect(), Timestamp::from_second(certificate.not_after).unwrap_or(Timestamp::MAX));
        Ok(Self { certificate, names, until })
    }

    /// Whether a browser takes it for the hostname. A wildcard of a certificate stands for one label (RFC 9525, 6.3).
    pub(super) fn covers(&self, hostname: &Hostname) -> bool {
        let text = hostname.to_string();
        let parent = text.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| *name == text || (parent.is_some() && name.strip_prefix("*.") == parent))
    }
}

/// Chain and key of a Secret, which must belong together.
fn certified(secret: &ObjectName, chain: &[u8], key: &[u8]) -> Result<CertifiedKey, SecretProblem> {
    let in_chain = |problem: &str| wrong(secret, SecretType::CERTIFICATE, problem);
    let in_key = |problem: &str| wrong(secret, SecretType::PRIVATE_KEY, problem);
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|_| in_chain("it is no PEM"))?;
    if chain.is_empty() {
        return Err(in_chain("it has no certificate in PEM form"));
    }
    leaf(&chain).map_err(|problem| in_chain(&problem))?;
    // The errors of keys are not shown: they might show a part of one.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| in_key("it has no private key in PEM form"))?;
    let key = any_supported_type(&key).map_err(|_| in_key("it is no RSA, ECDSA or Ed25519 key that can be used"))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| in_key("it is not the key of the first certificate of \"tls.crt\""))?;
    Ok(certified)
}

/// The first certificate of a chain, which is the server's own.
fn leaf<'a>(chain: &'a [CertificateDer<'_>]) -> Result<X509Certificate<'a>, String> {
    let first = chain.first().ok_or("it has no certificate")?;
    let parsed = X509Certificate::from_der(first);
    parsed.map(|(_, certificate)| certificate).map_err(|_| "its first certificate cannot be read".to_owned())
}

fn wrong(secret: &ObjectName, key: &str, problem: &str) -> SecretProblem {
    SecretProblem::invalid(format!("Secret {:?}, key {key:?}: {problem}", &*secret.name)).of_certificate()
}
