use std::{collections::HashMap, str::FromStr, sync::Arc};

use k8s_openapi::api::core::v1::Secret;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    api::{Reason, SecretType},
    routing::{ObjectName, Password, Token, User},
};

/// The highest bcrypt cost that is accepted. Every step doubles the work of a login: 14 is about a second, and a Secret
/// must not be able to stall the edge for everybody.
const MAX_BCRYPT_COST: u32 = 14;

/// The Secrets by namespace and name.
pub(super) struct Secrets<'a> {
    known: HashMap<(&'a str, &'a str), &'a Secret>,
    unfetched: &'a HashMap<ObjectName, String>,
}

/// Why a Secret cannot be used. The text names key and line, never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretProblem {
    pub(super) reason: Reason,
    pub(super) message: String,
}

// === impl Secrets ===

impl<'a> Secrets<'a> {
    pub(super) fn index(secrets: &'a [Arc<Secret>], unfetched: &'a HashMap<ObjectName, String>) -> Self {
        let key = |secret: &'a Secret| {
            let namespace = secret.metadata.namespace.as_deref().unwrap_or("default");
            Some((namespace, secret.metadata.name.as_deref()?))
        };
        Self { known: secrets.iter().filter_map(|secret| Some((key(secret)?, &**secret))).collect(), unfetched }
    }

    /// The token of an agent.
    pub(super) fn token(&self, namespace: &str, name: &str) -> Result<Token, SecretProblem> {
        let (_, secret) = self.find(namespace, name, &[SecretType::AgentToken])?;
        let bytes = value(secret, name, SecretType::TOKEN)?;
        Token::new(bytes)
            .map_err(|error| SecretProblem::invalid(format!("Secret {name:?}, key {:?}: {error}", SecretType::TOKEN)))
    }

    /// The visitors that may enter.
    pub(super) fn users(&self, namespace: &str, name: &str) -> Result<Vec<User>, SecretProblem> {
        match self.find(namespace, name, &[SecretType::BasicAuth, SecretType::Htpasswd])? {
            (SecretType::Htpasswd, secret) => htpasswd(text(secret, name, SecretType::AUTH)?).map_err(|problem| {
                SecretProblem::invalid(format!("Secret {name:?}, key {:?}: {problem}", SecretType::AUTH))
            }),
            (_, secret) => {
                let user = text(secret, name, SecretType::USERNAME)?;
                let password = text(secret, name, SecretType::PASSWORD)?;
                if user.contains(':') || user.chars().any(char::is_control) {
                    return Err(SecretProblem::invalid(format!(
                        "Secret {name:?}, key {:?}: a user's name cannot have ':' or control characters (RFC 7617)",
                        SecretType::USERNAME
                    )));
                }
                Ok(vec![User { name: user.into(), password: Password::Plain(password.into()) }])
            }
        }
    }

    /// The chain and the key of a certificate, as PEM.
    pub(super) fn certificate(&self, name: &ObjectName) -> Result<(&'a [u8], &'a [u8]), SecretProblem> {
        if let Some(problem) = self.unfetched.get(name) {
            let message =
                format!("Secret {:?} is there, but the edge cannot get it, and tries again: {problem}", &*name.name);
            return Err(SecretProblem { reason: Reason::InvalidCertificate, message });
        }
        let (_, secret) = self.find(&name.namespace, &name.name, &[SecretType::Tls])?;
        let value = |key| value(secret, &name.name, key).map_err(SecretProblem::of_certificate);
        Ok((value(SecretType::CERTIFICATE)?, value(SecretType::PRIVATE_KEY)?))
    }

    /// The authorities that a backend's certificate is checked by.
    pub(super) fn authorities(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<CertificateDer<'static>>, SecretProblem> {
        let (_, secret) = self.find(namespace, name, &[SecretType::CaCertificates])?;
        let wrong = |problem: String| {
            SecretProblem::invalid(format!("Secret {name:?}, key {:?}: {problem}", SecretType::AUTHORITIES))
        };
        let pem = value(secret, name, SecretType::AUTHORITIES)?;
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("it is no PEM".to_owned()))?;
        if authorities.is_empty() {
            return Err(wrong("it has no certificate in PEM form".to_owned()));
        }
        let mut roots = RootCertStore::empty();
        for (index, authority) in authorities.iter().enumerate() {
            let added = roots.add(authority.clone());
            added.map_err(|error| wrong(format!("certificate {} cannot be read: {error}", index + 1)))?;
        }
        Ok(authorities)
    }

    /// A Secret of a type that the edge does not watch is the same as none in a cluster, so the message for one that is
    /// missing names the types. Where one of another type is seen, as in a folder, its type is what is wrong.
    fn find(
        &self,
        namespace: &str,
        name: &str,
        types: &[SecretType],
    ) -> Result<(SecretType, &'a Secret), SecretProblem> {
        let expected = || types.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ");
        let Some(secret) = self.known.get(&(namespace, name)) else {
            let message = format!(
                "no Secret {name:?} of type {} in namespace {namespace:?}; create it, or correct the name",
                expected()
            );
            return Err(SecretProblem { reason: Reason::SecretNotFound, message });
        };
        // Without a type an API server makes it Opaque.
        let actual = secret.type_.as_deref().filter(|actual| !actual.is_empty()).unwrap_or("Opaque");
        let kind = types.iter().find(|kind| actual == kind.as_str()).ok_or_else(|| {
            SecretProblem::invalid(format!(
                "Secret {name:?} in namespace {namespace:?} is of type {actual}, not {}; a type cannot be changed: delete \
                 it and create it anew",
                expected()
            ))
        })?;
        Ok((*kind, *secret))
    }
}

// === impl SecretProblem ===

impl SecretProblem {
    pub(super) fn invalid(message: String) -> Self {
        Self { reason: Reason::InvalidSecret, message }
    }

    /// The same problem of a Secret that holds a certificate.
    pub(super) fn of_certificate(self) -> Self {
        Self { reason: Reason::InvalidCertificate, ..self }
    }
}

fn value<'a>(secret: &'a Secret, name: &str, key: &str) -> Result<&'a [u8], SecretProblem> {
    let value = secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |value| &value.0);
    if value.is_empty() {
        return Err(SecretProblem::invalid(format!("Secret {name:?} has no key {key:?}, or an empty one; set it")));
    }
    Ok(value)
}

fn text<'a>(secret: &'a Secret, name: &str, key: &str) -> Result<&'a str, SecretProblem> {
    let value = value(secret, name, key)?;
    std::str::from_utf8(value)
        .map_err(|_| SecretProblem::invalid(format!("Secret {name:?}, key {key:?}: it is not UTF-8 text")))
}

/// The lines of an htpasswd file. Any line that is wrong refuses the file: who wrote it meant somebody to enter, or not.
fn htpasswd(text: &str) -> Result<Vec<User>, String> {
    let mut users = Vec::new();
    let mut lines = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let (number, line) = (index + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (user, hash) = line
            .split_once(':')
            .filter(|(user, _)| !user.is_empty())
            .ok_or_else(|| format!("line {number} is not USER:HASH"))?;
        if let Some(first) = lines.insert(user, number) {
            return Err(format!("line {number} is for the same user as line {first}; remove one of them"));
        }
        let cost = bcrypt_cost(hash).ok_or_else(|| {
            format!("line {number} has no bcrypt hash ({}); make it with `htpasswd -nB USER`", describe(hash))
        })?;
        if cost > MAX_BCRYPT_COST {
            return Err(format!(
                "line {number} has a bcrypt cost of {cost}, the most is {MAX_BCRYPT_COST}; make it with `htpasswd -nB \
                 -C 10 USER`"
            ));
        }
        users.push(User { name: user.into(), password: Password::Bcrypt(hash.into()) });
    }
    if users.is_empty() { Err("it has no line USER:HASH".to_owned()) } else { Ok(users) }
}

/// The cost of a bcrypt hash; `None` for anything else.
fn bcrypt_cost(hash: &str) -> Option<u32> {
    let known = ["$2y$", "$2b$", "$2a$", "$2x$"].iter().any(|version| hash.starts_with(version));
    let parts = known.then(|| bcrypt::HashParts::from_str(hash).ok()).flatten()?;
    Some(parts.get_cost())
}

/// What a hash looks like, by its public prefix only.
fn describe(hash: &str) -> &'static str {
    match hash {
        _ if hash.starts_with("$2") => "a bcrypt hash that is cut off or misspelt",
        _ if hash.starts_with("$apr1$") || hash.starts_with("$1$") => "MD5, which is refused",
        _ if hash.starts_with("{SHA}") => "SHA-1, which is refused",
        _ if hash.starts_with("$5$") || hash.starts_with("$6$") => "SHA crypt, which is refused",
        _ => "plain text or DES, which are refused",
    }
}
