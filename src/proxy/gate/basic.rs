//! HTTP Basic authentication (RFC 7617).

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderValue;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{
    sync::{AcquireError, Semaphore},
    time::{Instant, timeout},
};

use crate::{
    proxy::error::ProxyError,
    routing::{BasicAuth, Password},
};

/// How long a password that bcrypt took its time to accept is accepted at once. A removed user is out at once all
/// the same, since the hash that was matched is part of what is remembered.
const REMEMBERED: Duration = Duration::from_mins(1);
const MAX_REMEMBERED: usize = 4096;
/// How long a visitor waits for others' passwords to be hashed.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Checks passwords. bcrypt is slow on purpose: it runs beside the reactor, on as many threads as may be spared, and
/// what it accepted is remembered for a while.
pub(in crate::proxy) struct Passwords {
    accepted: Mutex<HashMap<[u8; 32], Instant>>,
    hashing: Arc<Semaphore>,
}

/// One TunnelHost's turn at having passwords hashed. Its visitors wait here for each other, so that in the queue for the
/// threads, which is first come, first served, no TunnelHost has more than a few: a flood of wrong passwords at one
/// of them holds up nobody else's visitors.
pub(in crate::proxy) struct Turn(Arc<Semaphore>);

/// How many threads may hash at a time. The other half stays with those who have a password already, or need none.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2)
}

// === impl Turn ===

impl Turn {
    pub(in crate::proxy) fn new() -> Self {
        Self(Arc::new(Semaphore::new(threads().div_ceil(2))))
    }
}

// === impl Passwords ===

impl Passwords {
    pub(in crate::proxy) fn new() -> Self {
        Self { accepted: Mutex::default(), hashing: Arc::new(Semaphore::new(threads())) }
    }

    /// Whether the presented credentials are a user's.
    pub(super) async fn authorized(
        &self,
        turn: &Turn,
        auth: &BasicAuth,
        presented: Option<&HeaderValue>,
    ) -> Result<bool, ProxyError> {
        let Some((name, password)) = presented.and_then(basic_credentials) else { return Ok(false) };
        let known = auth.users.iter().find(|user| *user.name == *name);
        // For an unknown name another's password is checked, so that the time it takes does not tell who is known.
        let Some(user) = known.or(auth.users.first()) else { return Ok(false) };
        let matches = match &user.password {
            Password::Plain(expected) => expected.as_bytes().ct_eq(password.as_bytes()).into(),
            Password::Bcrypt(hash) => self.matches_hash(turn, hash, password).await?,
        };
        Ok(matches && known.is_some())
    }

    async fn matches_hash(&self, turn: &Turn, hash: &Arc<str>, password: String) -> Result<bool, ProxyError> {
        let key: [u8; 32] = Sha256::new().chain_update(hash.as_bytes()).chain_update(&password).finalize().into();
        if self.accepted.lock().get(&key).is_some_and(|until| Instant::now() < *until) {
            return Ok(true);
        }
        let (turn, hashing) = (turn.0.clone(), self.hashing.clone());
        let turns = async { Ok::<_, AcquireError>((turn.acquire_owned().await?, hashing.acquire_owned().await?)) };
        let Ok(Ok(permits)) = timeout(MAX_WAIT, turns).await else {
            return Err(ProxyError::TooManyLogins);
        };
        let hash = hash.clone();
        let verify = move || {
            // Held by the thread: a visitor may leave, and the hash is computed all the same.
            let _permits = permits;
            bcrypt::verify(password, &hash).unwrap_or(false)
        };
        let verified = tokio::task::spawn_blocking(verify).await;
        let verified = verified.unwrap_or(false);
        if verified {
            let mut accepted = self.accepted.lock();
            let now = Instant::now();
            if accepted.len() >= MAX_REMEMBERED {
                accepted.retain(|_, until| now < *until);
            }
            if accepted.len() < MAX_REMEMBERED {
                accepted.insert(key, now + REMEMBERED);
            }
        }
        Ok(verified)
    }
}

/// The name and password of RFC 7617.
fn basic_credentials(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::User;

    fn auth(password: Password) -> BasicAuth {
        BasicAuth { realm: "Shop".into(), users: vec![User { name: "ada".into(), password }] }
    }

    async fn passes(passwords: &Passwords, auth: &BasicAuth, credentials: &str) -> bool {
        let value = format!("bAsIc {}", BASE64_STANDARD.encode(credentials)).parse().expect("a header");
        passwords.authorized(&Turn::new(), auth, Some(&value)).await.expect("time enough")
    }

    #[tokio::test]
    async fn only_the_right_password_passes() {
        let passwords = Passwords::new();
        let auth = auth(Password::Plain("sesame:open".into()));
        assert!(passes(&passwords, &auth, "ada:sesame:open").await);
        assert!(!passes(&passwords, &auth, "ada:sesame").await);
        assert!(!passes(&passwords, &auth, "eve:sesame:open").await);
        assert!(!passes(&passwords, &auth, "").await);
        assert_eq!(passwords.authorized(&Turn::new(), &auth, None).await, Ok(false));
    }

    #[tokio::test]
    async fn a_hash_is_checked_once_and_then_remembered() {
        let passwords = Passwords::new();
        let auth = auth(Password::Bcrypt(bcrypt::hash("sesame", 4).expect("a hash").into()));
        assert!(!passes(&passwords, &auth, "ada:wrong").await);
        assert!(passwords.accepted.lock().is_empty());
        assert!(passes(&passwords, &auth, "ada:sesame").await);
        assert_eq!(passwords.accepted.lock().len(), 1);
        assert!(passes(&passwords, &auth, "ada:sesame").await);
        assert!(!passes(&passwords, &auth, "ada:wrong").await);
    }

    // Paused: time jumps to the next timer once nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn a_flood_at_one_host_does_not_hold_up_another() {
        let passwords = Arc::new(Passwords::new());
        let (flooded, quiet) = (Arc::new(Turn::new()), Turn::new());
        let auth = auth(Password::Bcrypt(bcrypt::hash("sesame", 4).expect("a hash").into()));
        // A guess takes far longer to hash than the other visitor's password, so that none gets by while that is hashed.
        let slow: Arc<str> = bcrypt::hash("open", 10).expect("a hash").into();
        // Somebody hashes on every thread, and many wait at the flooded host.
        let held = passwords.hashing.acquire_many(u32::try_from(threads()).expect("few")).await.expect("all threads");
        let finished = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut waiting = tokio::task::JoinSet::new();
        for guess in 0..100 {
            let (passwords, flooded, slow, finished) =
                (passwords.clone(), flooded.clone(), slow.clone(), finished.clone());
            waiting.spawn(async move {
                let matches = passwords.matches_hash(&flooded, &slow, guess.to_string()).await;
                finished.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                matches
            });
        }
        tokio::task::yield_now().await;
        let other = format!("Basic {}", BASE64_STANDARD.encode("ada:sesame")).parse().expect("a header");
        let mut other = std::pin::pin!(passwords.authorized(&quiet, &auth, Some(&other)));
        assert!(futures::poll!(other.as_mut()).is_pending());
        // In the queue for the threads, only the flooded host's share is before the other host's visitor.
        drop(held);
        assert_eq!(other.await, Ok(true));
        let finished = finished.load(std::sync::atomic::Ordering::Relaxed);
        // Some more may end in the moment until this visitor hears of it; all of them would, if they were before it.
        assert!(finished < 50, "{finished} were before it");
    }

    #[tokio::test]
    async fn a_visitor_who_leaves_does_not_free_the_thread() {
        let (passwords, turn) = (Passwords::new(), Turn::new());
        let auth = auth(Password::Bcrypt(bcrypt::hash("sesame", 10).expect("a hash").into()));
        let value = format!("Basic {}", BASE64_STANDARD.encode("ada:wrong")).parse().expect("a header");
        let before = passwords.hashing.available_permits();
        {
            let mut login = std::pin::pin!(passwords.authorized(&turn, &auth, Some(&value)));
            assert!(futures::poll!(login.as_mut()).is_pending());
        }
        assert_eq!(passwords.hashing.available_permits(), before - 1, "its hash is still computed");
        let _all = passwords.hashing.acquire_many(u32::try_from(before).expect("few")).await.expect("in the end");
    }
}
