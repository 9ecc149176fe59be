use std::{fmt, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use crate::tunnel::tls;

/// How a replica proves to the others that it is one of them, and who they have to be.
///
/// All replicas of an edge share one private key. Each signs with it, when it starts, a certificate for a key that never
/// leaves its memory, with its id as the name.
#[derive(Clone)]
pub struct MeshIdentity {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Why there is no [`MeshIdentity`].
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The shared key is none.
    #[error("the key that the replicas share is not usable: {0}; `openssl genpkey -algorithm ed25519` makes one")]
    Key(rcgen::Error),
    /// The id cannot stand in a certificate.
    #[error("the replica id {0:?} cannot be the name in a certificate; use one that could be a DNS name")]
    Replica(String),
    /// The certificate cannot be made.
    #[error("the replica's certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not take it.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// rustls does not take it for checking the others.
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

/// What both sides say that they speak.
const ALPN: &[u8] = b"culvert-mesh/1";

// === impl MeshIdentity ===

impl MeshIdentity {
    /// The identity of the replica with that id, by the private key (PEM) that all replicas share.
    pub fn new(replica: &str, shared_key: &str) -> Result<Self, MeshError> {
        ServerName::try_from(replica).map_err(|_| MeshError::Replica(replica.to_owned()))?;
        let shared_key = KeyPair::from_pem(shared_key).map_err(MeshError::Key)?;
        // Equal for all who have the key, but for the signature: what counts of it is the name and the key.
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "culvert mesh");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let mut roots = RootCertStore::empty();
        roots.add(authority.self_signed(&shared_key)?.der().clone())?;
        let roots = Arc::new(roots);

        let key = KeyPair::generate()?;
        let mut own = CertificateParams::new([replica.to_owned()])?;
        own.distinguished_name.push(DnType::CommonName, replica);
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let own = own.signed_by(&key, &Issuer::new(authority, shared_key))?;
        let chain: Vec<CertificateDer<'static>> = vec![own.der().clone()];
        let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));

        let provider = tls::provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
        let mut server = server.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key())?;
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
        let mut client = client.with_root_certificates(roots).with_client_auth_cert(chain, key())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }
}

impl fmt::Debug for MeshIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshIdentity").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, Connection, ServerConnection};

    use super::*;

    /// As Helm's `genPrivateKey "ecdsa"` makes them; this one is used nowhere.
    const OF_HELM: &str = "-----BEGIN EC PRIVATE KEY-----\n\
        MHcCAQEEINDJoOh+rlYJlHIs2hlObbbMQJ5ZDih1lESFV8MNpeP1oAoGCCqGSM49\n\
        AwEHoUQDQgAEsL8C+UH8VRNoz+uFC5mBZfzIFyjDv5sfJIO7z+qQmwuI5hEKV4w4\n\
        c0mNYyWBlhT2bXKzlHMjVNze7YOFuE/9XA==\n\
        -----END EC PRIVATE KEY-----\n";

    fn key() -> String {
        KeyPair::generate().expect("a key").serialize_pem()
    }

    fn identity(replica: &str, key: &str) -> MeshIdentity {
        MeshIdentity::new(replica, key).expect("an identity")
    }

    /// A handshake of this client, which asks for `r1`, with this server.
    fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<(), rustls::Error> {
        let mut client: Connection =
            ClientConnection::new(client.clone(), "r1".try_into().expect("a name")).expect("a client").into();
        let mut server: Connection = ServerConnection::new(server.clone()).expect("a server").into();
        for _ in 0..4 {
            for way in 0..2 {
                let (from, to) = if way == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
                let mut bytes = Vec::new();
                while from.wants_write() {
                    from.write_tls(&mut bytes).expect("in memory");
                }
                let mut bytes = &bytes[..];
                while !bytes.is_empty() {
                    to.read_tls(&mut bytes).expect("in memory");
                    to.process_new_packets()?;
                }
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(())
    }

    #[test]
    fn who_has_the_key_and_the_right_name_is_let_in() {
        let (shared, other) = (OF_HELM, key());
        let (one, two) = (identity("r1", shared), identity("r2", shared));
        handshake(&two.client(), &one.server()).expect("both are replicas");
        handshake(&one.client(), &two.server()).expect_err("it asked for another replica");
        let stranger = identity("r1", &other);
        handshake(&two.client(), &stranger.server()).expect_err("a server with another key");

        // Whom the server does not know, though it believes the server: one with another key, and one with none.
        let mut roots = RootCertStore::empty();
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "culvert mesh");
        let signed = authority.self_signed(&KeyPair::from_pem(shared).expect("a key")).expect("signed");
        roots.add(signed.der().clone()).expect("a certificate");
        let believing = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let with_alpn = |mut config: ClientConfig| {
            config.alpn_protocols = vec![ALPN.to_vec()];
            Arc::new(config)
        };
        let without = with_alpn(believing.clone().with_no_client_auth());
        handshake(&without, &one.server()).expect_err("no certificate");
        let resolver = stranger.client().client_auth_cert_resolver.clone();
        let strange = with_alpn(believing.with_client_cert_resolver(resolver));
        handshake(&strange, &one.server()).expect_err("another's certificate");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_key() {
        let key = key();
        identity("edge-0", &key);
        let error = MeshIdentity::new("edge 0", &key).expect_err("no name").to_string();
        assert!(error.contains("edge 0"), "{error}");
        let error = MeshIdentity::new("edge-0", "secret").expect_err("no key").to_string();
        assert!(!error.contains("secret") && error.contains("openssl"), "{error}");
    }
}
