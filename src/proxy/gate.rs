//! The gate: what a request has to pass before anything is done for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::error::ProxyError;
use crate::routing::{BasicAuth, Filter, Password, Rule};

/// How long a password that bcrypt took its time to accept is accepted at once. A removed user is out at once all
/// the same, since the hash that was matched is part of what is remembered.
const REMEMBERED: Duration = Duration::from_mins(1);
const MAX_REMEMBERED: usize = 4096;
/// How long a visitor waits for others' passwords to be hashed.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Checks passwords. bcrypt is slow on purpose: it runs beside the reactor, on as many threads as may be spared, and
/// what it accepted is remembered for a while.
pub(super) struct Gate {
    accepted: Mutex<HashMap<[u8; 32], Instant>>,
    hashing: Semaphore,
}

// === impl Gate ===

impl Gate {
    pub(super) fn new() -> Self {
        // The other half stays with those who have a password already, or need none.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
        Self { accepted: Mutex::default(), hashing: Semaphore::new(threads) }
    }

    /// Lets a request pass the rule's filters, or says why not. What the edge itself checked is not passed on.
    pub(super) async fn pass(&self, rule: &Rule, headers: &mut HeaderMap) -> Result<(), ProxyError> {
        for filter in &rule.filters {
            match filter {
                Filter::BasicAuth(auth) => {
                    if !self.authorized(auth, headers.get(header::AUTHORIZATION)).await? {
                        return Err(ProxyError::Unauthorized { realm: auth.realm.clone() });
                    }
                    headers.remove(header::AUTHORIZATION);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn authorized(&self, auth: &BasicAuth, presented: Option<&HeaderValue>) -> Result<bool, ProxyError> {
        let Some((name, password)) = presented.and_then(basic_credentials) else { return Ok(false) };
        let known = auth.users.iter().find(|user| *user.name == *name);
        // For an unknown name another's password is checked, so that the time it takes does not tell who is known.
        let Some(user) = known.or(auth.users.first()) else { return Ok(false) };
        let matches = match &user.password {
            Password::Plain(expected) => expected.as_bytes().ct_eq(password.as_bytes()).into(),
            Password::Bcrypt(hash) => self.matches_hash(hash, password).await?,
        };
        Ok(matches && known.is_some())
    }

    async fn matches_hash(&self, hash: &Arc<str>, password: String) -> Result<bool, ProxyError> {
        let key: [u8; 32] = Sha256::new().chain_update(hash.as_bytes()).chain_update(&password).finalize().into();
        if self.accepted.lock().get(&key).is_some_and(|until| Instant::now() < *until) {
            return Ok(true);
        }
        let Ok(Ok(_permit)) = timeout(MAX_WAIT, self.hashing.acquire()).await else {
            return Err(ProxyError::TooManyLogins);
        };
        let hash = hash.clone();
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
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
    use crate::routing::{Backend, Matches, ObjectName, PathMatch, RuleId, Timeouts, User};

    fn rule(password: Password) -> Rule {
        let users = vec![User { name: "ada".into(), password }];
        Rule {
            id: RuleId { object: ObjectName::new("web", "shop"), route: 0 },
            matches: Matches::path(PathMatch::prefix("/")),
            filters: vec![Filter::BasicAuth(Arc::new(BasicAuth { realm: "Shop".into(), users }))],
            timeouts: Timeouts::default(),
            backend: Backend::Invalid("a test".into()),
        }
    }

    async fn passes(gate: &Gate, rule: &Rule, credentials: &str) -> bool {
        let mut headers = HeaderMap::new();
        let value = format!("bAsIc {}", BASE64_STANDARD.encode(credentials));
        headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
        let passed = gate.pass(rule, &mut headers).await.is_ok();
        assert_eq!(headers.contains_key(header::AUTHORIZATION), !passed, "checked credentials are not passed on");
        passed
    }

    #[tokio::test]
    async fn only_the_right_password_passes() {
        let gate = Gate::new();
        let rule = rule(Password::Plain("sesame:open".into()));
        assert!(passes(&gate, &rule, "ada:sesame:open").await);
        assert!(!passes(&gate, &rule, "ada:sesame").await);
        assert!(!passes(&gate, &rule, "eve:sesame:open").await);
        assert!(!passes(&gate, &rule, "").await);
        assert!(gate.pass(&rule, &mut HeaderMap::new()).await.is_err());
    }

    #[tokio::test]
    async fn a_hash_is_checked_once_and_then_remembered() {
        let gate = Gate::new();
        let hash = bcrypt::hash("sesame", 4).expect("a hash");
        let rule = rule(Password::Bcrypt(hash.into()));
        assert!(!passes(&gate, &rule, "ada:wrong").await);
        assert!(gate.accepted.lock().is_empty());
        assert!(passes(&gate, &rule, "ada:sesame").await);
        assert_eq!(gate.accepted.lock().len(), 1);
        assert!(passes(&gate, &rule, "ada:sesame").await);
        assert!(!passes(&gate, &rule, "ada:wrong").await);
    }
}
