//! The bridge's certificate: given as files, or made once and kept.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;

use super::Failure;
use crate::tunnel::tls::{self, Fingerprint};

/// What the bridge shows, and what agents can know it by.
pub(super) struct BridgeCertificate {
    pub(super) config: Arc<ServerConfig>,
    pub(super) fingerprint: Fingerprint,
}

/// Reads a certificate chain and its key. Errors name the file.
pub(super) fn read(certificate: &Path, key: &Path) -> Result<BridgeCertificate, Failure> {
    let pem = |path: &Path| fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    load(&pem(certificate)?, &pem(key)?)
        .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()).into())
}

/// Reads the certificate that is kept in the state folder, or makes one. Agents pin its key, so that neither its name
/// nor its dates matter.
pub(super) fn read_or_make(state: &Path) -> Result<BridgeCertificate, Failure> {
    let (certificate, key) = (state.join("bridge.crt"), state.join("bridge.key"));
    if !certificate.exists() || !key.exists() {
        let (certificate_pem, key_pem) = make()?;
        let kept = fs::create_dir_all(state)
            .and_then(|()| write_private(&key, &key_pem))
            .and_then(|()| fs::write(&certificate, certificate_pem));
        kept.map_err(|error| {
            format!("cannot keep the bridge's certificate in {}: {error}; choose another --state", state.display())
        })?;
    }
    read(&certificate, &key)
}

/// A certificate in memory, for an edge that does not outlive its process.
pub(super) fn ephemeral() -> Result<BridgeCertificate, Failure> {
    let (certificate, key) = make()?;
    load(certificate.as_bytes(), key.as_bytes())
}

fn make() -> Result<(String, String), Failure> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["culvert-bridge".to_owned()])?.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn load(certificate: &[u8], key: &[u8]) -> Result<BridgeCertificate, Failure> {
    let config = tls::server(certificate, key)?;
    let chain = tls::certificates(certificate)?;
    let fingerprint = Fingerprint::of_certificate(chain.first().ok_or("the certificate file is empty")?)?;
    Ok(BridgeCertificate { config, fingerprint })
}

/// Writes a file that only its owner can read.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_kept() {
        let state = std::env::temp_dir().join(format!("culvert-{:032x}", rand::random::<u128>()));
        let made = read_or_make(&state).expect("made");
        let kept = read_or_make(&state).expect("kept");
        assert_eq!(made.fingerprint, kept.fingerprint);
        fs::write(state.join("bridge.crt"), "nonsense").expect("written");
        let error = read_or_make(&state).err().expect("a broken file is not replaced").to_string();
        assert!(error.contains("bridge.crt"), "{error}");
        fs::remove_dir_all(state).expect("removed");
    }
}
