use std::{collections::HashMap, fmt, sync::Arc};

use rustls::sign::CertifiedKey;

use super::{Hostname, ObjectName};

/// A certificate with its key, which the edge shows to visitors. Two of the same Secret's content are equal. `Debug` does
/// not show the key.
#[derive(Clone)]
pub struct Certificate {
    /// The Secret that it comes from.
    pub secret: ObjectName,
    /// The chain and the key.
    pub key: Arc<CertifiedKey>,
    /// SHA-256 of chain and key, as they stand in the Secret.
    pub fingerprint: [u8; 32],
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

/// The certificates by the hostnames that they are shown for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    exact: HashMap<Arc<str>, Arc<Certificate>>,
    /// By the suffix after `*.`.
    wildcard: HashMap<Arc<str>, Arc<Certificate>>,
}

// === impl Certificate ===

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret && self.fingerprint == other.fingerprint
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.secret)
    }
}

// === impl Certificates ===

impl Certificates {
    /// The certificate for a normalized host: of the exact name, else of the longest wildcard above it.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<Certificate>> {
        let mut parents = host.match_indices('.').map(|(dot, _)| &host[dot + 1..]);
        self.exact.get(host).or_else(|| parents.find_map(|suffix| self.wildcard.get(suffix)))
    }

    /// All of them; one that is for several hostnames comes as often.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.exact.values().chain(self.wildcard.values())
    }
}

impl FromIterator<(Hostname, Arc<Certificate>)> for Certificates {
    fn from_iter<I: IntoIterator<Item = (Hostname, Arc<Certificate>)>>(certificates: I) -> Self {
        let mut all = Self::default();
        for (hostname, certificate) in certificates {
            match hostname {
                Hostname::Exact(name) => all.exact.insert(name, certificate),
                Hostname::Wildcard(suffix) => all.wildcard.insert(suffix, certificate),
            };
        }
        all
    }
}
