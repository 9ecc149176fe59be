use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{cli::Failure, tunnel::tls};

/// How often the files are looked at. Kubernetes takes longer to bring a change of a Secret to them.
const LOOK: Duration = Duration::from_secs(10);

/// A certificate in files that change, as those of a mounted Secret do.
pub(crate) struct FollowedCertificate {
    certificate: PathBuf,
    key: PathBuf,
    /// Of what was read last, good or not.
    seen: [u8; 32],
    latest: watch::Sender<Option<Arc<CertifiedKey>>>,
}

// === impl FollowedCertificate ===

impl FollowedCertificate {
    /// Reads it for the first time. Errors name the file.
    pub(crate) fn read(certificate: PathBuf, key: PathBuf) -> Result<Self, Failure> {
        let mut followed = Self { certificate, key, seen: [0; 32], latest: watch::Sender::new(None) };
        let read = followed.read_again()?;
        followed.latest.send_replace(read);
        Ok(followed)
    }

    /// The last good one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<CertifiedKey>>> {
        self.latest.subscribe()
    }

    /// Reads it again from time to time, and when `asked`. What is broken is logged once, and the last good one stays.
    pub(crate) async fn follow(mut self, mut asked: watch::Receiver<()>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = String::new();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                Ok(()) = asked.changed() => {}
            }
            match self.read_again() {
                Ok(None) => {}
                Ok(read) => {
                    tracing::info!("the default certificate was read again");
                    self.latest.send_replace(read);
                    complaint.clear();
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != complaint {
                        tracing::error!("the default certificate stays as it is: {error}");
                        complaint = error;
                    }
                }
            }
        }
    }

    /// The certificate and its key; `None` where the files are as they were.
    fn read_again(&mut self) -> Result<Option<Arc<CertifiedKey>>, Failure> {
        let read = |path: &PathBuf| fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        let seen = Sha256::new().chain_update(&certificate).chain_update([0]).chain_update(&key).finalize().into();
        if seen == self.seen {
            return Ok(None);
        }
        // A broken pair need not be read as often as it is looked at.
        self.seen = seen;
        let certified = certified(&certificate, &key)
            .map_err(|error| format!("{} and {}: {error}", self.certificate.display(), self.key.display()))?;
        Ok(Some(Arc::new(certified)))
    }
}

fn certified(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, tls::TlsError> {
    let (chain, key) = (tls::certificates(certificate)?, tls::private_key(key)?);
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (PathBuf, PathBuf, PathBuf) {
        let folder = std::env::temp_dir().join(format!("culvert-{:032x}", rand::random::<u128>()));
        fs::create_dir(&folder).expect("a folder");
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        (folder, certificate, key)
    }

    fn make() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["example.com".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[tokio::test]
    async fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
        let (folder, certificate, key) = files();
        let write = |(pem, private): &(String, String)| {
            fs::write(&certificate, pem).expect("written");
            fs::write(&key, private).expect("written");
        };
        let (first, second) = (make(), make());
        write(&first);
        let mut followed = FollowedCertificate::read(certificate.clone(), key.clone()).expect("a certificate");
        assert!(followed.read_again().expect("good").is_none(), "nothing changed");
        write(&(second.0.clone(), first.1.clone()));
        followed.read_again().expect_err("the key of another certificate");

        let mut latest = followed.subscribe();
        let shown = |latest: &watch::Receiver<Option<Arc<CertifiedKey>>>| {
            latest.borrow().as_ref().expect("a certificate").cert[0].clone()
        };
        let old = shown(&latest);
        write(&second);
        let ask = watch::Sender::new(());
        let task = tokio::spawn(followed.follow(ask.subscribe()));
        ask.send_replace(());
        tokio::time::timeout(Duration::from_secs(30), latest.changed()).await.expect("in time").expect("followed");
        assert_ne!(shown(&latest), old);
        task.abort();
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_broken_certificate_names_its_files_and_leaves_the_last() {
        let (folder, certificate, key) = files();
        let (first, second) = (make(), make());
        fs::write(&certificate, first.0).expect("written");
        fs::write(&key, second.1).expect("written");
        let error = FollowedCertificate::read(certificate, key).err().expect("another's key").to_string();
        assert!(error.contains("tls.crt") && error.contains("tls.key"), "{error}");
        fs::remove_dir_all(folder).expect("removed");
    }
}
