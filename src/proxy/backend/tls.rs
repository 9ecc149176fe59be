//! TLS to backends: whom the edge believes, and configurations that are made once.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::{ClientConfig, Error, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::BackendStream;
use crate::{
    flow::Counted,
    proxy::error::ProxyError,
    routing::{BackendTls, Target, Trust},
    tunnel::{Link, tls::Verifier},
};

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The configurations by what they are made of.
#[derive(Default)]
pub(in crate::proxy) struct BackendConfigs(Mutex<HashMap<Arc<BackendTls>, Configs>>);

/// What a backend is asked for: either protocol, or HTTP/1.1 for a connection that may become something else.
#[derive(Clone)]
struct Configs {
    either: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

// === impl BackendConfigs ===

impl BackendConfigs {
    /// Shakes hands with a backend over a link, within `limit`. Returns whether it chose HTTP/2, which it is not asked for
    /// where `http1_only`.
    pub(in crate::proxy) async fn connect(
        &self,
        tls: &Arc<BackendTls>,
        target: &Target,
        http1_only: bool,
        link: Counted<Link>,
        limit: Duration,
    ) -> Result<(BackendStream, bool), ProxyError> {
        let name = tls.server_name.as_deref().or(target.host()).unwrap_or_default().to_owned();
        let name = ServerName::try_from(name.clone())
            .map_err(|_| ProxyError::BackendTls(format!("{name:?} is no name that a certificate can have")))?;
        let Configs { either, http1 } = self.of(tls).map_err(|error| ProxyError::BackendTls(error.to_string()))?;
        let connector = TlsConnector::from(if http1_only { http1 } else { either });
        let stream = timeout(limit, connector.connect(name, link)).await;
        let stream = stream.map_err(|_| ProxyError::ConnectTimeout(limit))?.map_err(|error| failure(&error))?;
        let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok((BackendStream::Tls(Box::new(stream)), speaks_http2))
    }

    /// Forgets what no rule asks for any more.
    pub(in crate::proxy) fn forget_unused(&self) {
        self.0.lock().retain(|tls, _| Arc::strong_count(tls) > 1);
    }

    fn of(&self, tls: &Arc<BackendTls>) -> Result<Configs, Error> {
        if let Some(configs) = self.0.lock().get(tls) {
            return Ok(configs.clone());
        }
        let made = Configs::new(&tls.trust)?;
        self.0.lock().insert(tls.clone(), made.clone());
        Ok(made)
    }
}

/// Why there is no TLS with a backend.
fn failure(error: &io::Error) -> ProxyError {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(error @ Error::InvalidCertificate(_)) => ProxyError::BackendCertificate(error.to_string()),
        Some(error) => ProxyError::BackendTls(error.to_string()),
        None => ProxyError::BackendTls(format!("the connection ended within the handshake: {error}")),
    }
}

// === impl Configs ===

impl Configs {
    fn new(trust: &Trust) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let mut either = match trust {
            Trust::WebRoots => {
                let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
                builder.with_root_certificates(RootCertStore { roots }).with_no_client_auth()
            }
            Trust::Authorities(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority.clone())?;
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Insecure => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Verifier::of_any(provider)))
                .with_no_client_auth(),
        };
        either.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        let mut http1 = either.clone();
        http1.alpn_protocols = vec![HTTP1.to_vec()];
        Ok(Self { either: Arc::new(either), http1: Arc::new(http1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_made_once_and_forgotten_with_its_rule() {
        let configs = BackendConfigs::default();
        let insecure = || Arc::new(BackendTls { server_name: None, trust: Trust::Insecure });
        let rule = insecure();
        let first = configs.of(&rule).expect("made").either;
        assert!(Arc::ptr_eq(&first, &configs.of(&insecure()).expect("known").either));
        configs.forget_unused();
        assert_eq!(configs.0.lock().len(), 1);
        drop(rule);
        configs.forget_unused();
        assert!(configs.0.lock().is_empty());
    }
}
