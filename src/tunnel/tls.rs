//! TLS of the tunnel: whom an agent trusts, and what the bridge shows.
//!
//! TLS 1.3 and 1.2 by aws-lc-rs, no ALPN, no early data.

mod fingerprint;
mod verifier;

use std::sync::Arc;

use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

pub use self::fingerprint::{Fingerprint, FingerprintError};
pub(crate) use self::verifier::Verifier;

/// What makes an agent believe that it talks to its edge.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The server's key is one of these, whoever signed its certificate, whatever its names and dates.
    Pinned(Vec<Fingerprint>),
    /// The server's certificate comes from one of the authorities in this PEM, for the name that was dialled.
    Authorities(Vec<u8>),
    /// The server's certificate comes from an authority that this system trusts, for the name that was dialled.
    #[cfg(feature = "agent")]
    System,
}

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM has no certificate.
    #[error("there is no certificate in it; a PEM file with \"BEGIN CERTIFICATE\" is expected")]
    NoCertificate,
    /// The PEM has no private key.
    #[error("there is no private key in it; a PEM file with \"BEGIN PRIVATE KEY\" is expected")]
    NoKey,
    /// The PEM is broken.
    #[error("it is no PEM file: {0}")]
    Pem(rustls_pki_types::pem::Error),
    /// The system trusts nobody.
    #[error("this system has no certificate authorities; install its ca-certificates or give the edge's own")]
    NoSystemRoots,
    /// No pin was given.
    #[error("there is no fingerprint to trust")]
    NoPin,
    /// rustls does not take it.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The configuration of an agent.
pub fn client(trust: &Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let config = match trust {
        Trust::Pinned(pins) if pins.is_empty() => return Err(TlsError::NoPin),
        Trust::Pinned(pins) => {
            let verifier = Verifier::of_keys(pins.clone(), provider());
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
        Trust::Authorities(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem)? {
                roots.add(certificate)?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        #[cfg(feature = "agent")]
        Trust::System => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::NoSystemRoots);
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(Arc::new(config))
}

/// The configuration of a client that believes every certificate.
#[cfg(feature = "agent")]
pub(crate) fn unverified() -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Verifier::of_any(provider()));
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// The configuration of a bridge that shows this certificate chain (PEM) and holds its key (PEM).
pub fn server(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let key = private_key(key)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key)?))
}

/// The certificates of a PEM text, at least one; the first is the server's own where it is a chain.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TlsError::Pem)?;
    if certificates.is_empty() { Err(TlsError::NoCertificate) } else { Ok(certificates) }
}

/// The private key of a PEM text.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => TlsError::NoKey,
        error => TlsError::Pem(error),
    })
}

/// The cryptography of all of the edge's and the agent's own connections. Passed explicitly, so that it does not matter what
/// else in the process chose a default.
///
/// AES with 128 bits and SHA-256 comes before that with 256 bits and SHA-384, as browsers have it: it is as good as unbreakable
/// too, and of a handshake's work it saves a seventh.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    let is_second = |suite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        )
    };
    let is_tls12 = |version| version == rustls::ProtocolVersion::TLSv1_2;
    provider.cipher_suites.sort_by_key(|suite| (is_tls12(suite.version().version), is_second(suite.suite())));
    Arc::new(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_of_two_good_ciphers_comes_first() {
        let suites: Vec<_> = provider().cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).collect();
        assert_eq!(suites[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(suites.len(), aws_lc_rs::default_provider().cipher_suites.len());
    }
}
