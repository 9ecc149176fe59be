use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Fingerprint;

/// Believes a server by its key alone, or whatever it shows. The handshake's signature is verified as ever: it proves that the
/// server holds the key, not only the certificate.
#[derive(Debug)]
pub(crate) struct Verifier {
    believed: Believed,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Believed {
    /// A server with one of these keys. Names and dates are not looked at: whoever pins a key has said whose it is, and a
    /// bridge's self-made certificate knows no name it will be dialled by.
    Keys(Vec<Fingerprint>),
    /// Everyone.
    Any,
}

// === impl Verifier ===

impl Verifier {
    pub(super) fn of_keys(pins: Vec<Fingerprint>, provider: Arc<CryptoProvider>) -> Self {
        Self { believed: Believed::Keys(pins), provider }
    }

    /// For a backend whose object says so, and for checks, which carry nothing that anybody should not see.
    pub(crate) fn of_any(provider: Arc<CryptoProvider>) -> Self {
        Self { believed: Believed::Any, provider }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let believed = match &self.believed {
            Believed::Keys(pins) => pins.contains(&Fingerprint::of_certificate(end_entity)?),
            Believed::Any => true,
        };
        if believed {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
