//! The bridge's certificate: given as files, or made once and kept; and the visitors' default one, followed in its files.

mod followed;

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;

pub(super) use self::followed::FollowedCertificate;
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
    let keep = |path: &Path, text: &str| {
        fs::create_dir_all(state).and_then(|()| write_private(path, text)).map_err(|error| {
            format!("cannot keep the bridge's certificate in {}: {error}; choose another --state", state.display())
        })
    };
    // The key first: one without a certificate is the one that agents pin, and gets another certificate.
    let (pair, is_new) = match fs::read_to_string(&key) {
        Ok(pem) => (KeyPair::from_pem(&pem).map_err(|error| format!("{}: {error}", key.display()))?, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pair = KeyPair::generate()?;
            keep(&key, &pair.serialize_pem())?;
            (pair, true)
        }
        Err(error) => return Err(format!("cannot read {}: {error}", key.display()).into()),
    };
    if is_new || !certificate.exists() {
        keep(&certificate, &sign(&pair)?)?;
    }
    read(&certificate, &key)
}

/// A certificate in memory, for an edge that does not outlive its process.
pub(super) fn ephemeral() -> Result<BridgeCertificate, Failure> {
    let key = KeyPair::generate()?;
    load(sign(&key)?.as_bytes(), key.serialize_pem().as_bytes())
}

/// A certificate that the key signs for itself.
fn sign(key: &KeyPair) -> Result<String, Failure> {
    Ok(CertificateParams::new(["culvert-bridge".to_owned()])?.self_signed(key)?.pem())
}

fn load(certificate: &[u8], key: &[u8]) -> Result<BridgeCertificate, Failure> {
    let config = tls::server(certificate, key)?;
    let chain = tls::certificates(certificate)?;
    let fingerprint = Fingerprint::of_certificate(chain.first().ok_or("the certificate file is empty")?)?;
    Ok(BridgeCertificate { config, fingerprint })
}

/// Writes a file that only its owner can read: all of it or, where that fails, nothing.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_added_extension("part");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(part, path)
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

    #[test]
    fn a_lost_certificate_is_made_anew_with_the_key_that_agents_pin() {
        let state = std::env::temp_dir().join(format!("culvert-{:032x}", rand::random::<u128>()));
        let made = read_or_make(&state).expect("made");
        let mut names: Vec<_> =
            fs::read_dir(&state).expect("a folder").map(|entry| entry.expect("a file").file_name()).collect();
        names.sort();
        assert_eq!(names, ["bridge.crt", "bridge.key"], "nothing half-written is left");
        fs::remove_file(state.join("bridge.crt")).expect("removed");
        assert_eq!(read_or_make(&state).expect("signed anew").fingerprint, made.fingerprint);

        // Without its key the certificate is worth nothing.
        fs::remove_file(state.join("bridge.key")).expect("removed");
        assert_ne!(read_or_make(&state).expect("both anew").fingerprint, made.fingerprint);

        // What is there and is no key is for people to look at.
        fs::remove_file(state.join("bridge.crt")).expect("removed");
        fs::write(state.join("bridge.key"), "nonsense").expect("written");
        let error = read_or_make(&state).err().expect("a broken key is not replaced").to_string();
        assert!(error.contains("bridge.key"), "{error}");
        assert_eq!(fs::read_to_string(state.join("bridge.key")).expect("still there"), "nonsense");
        fs::remove_dir_all(state).expect("removed");
    }
}
