use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::ObjectName;

/// All agents that may register, by name; immutable, swapped whole together with the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    entries: HashMap<ObjectName, Arc<AgentEntry>>,
}

/// One agent: what proves its identity, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEntry {
    /// The TunnelAgent.
    pub name: ObjectName,
    /// What it may register with; several at once make rotation possible. Empty: nobody can register.
    pub credentials: Vec<Credential>,
    /// Most connections (requests in progress and joins) at a time over all replicas; `None` is no limit.
    pub max_connections: Option<u32>,
    /// Most processes that may have sessions with a replica at a time.
    pub max_instances: u32,
    /// The networks that it may register from, with their own family's addresses; `None` is any, an empty list is none.
    pub allowed_sources: Option<Vec<IpNet>>,
}

/// A token and the Secret it comes from, so that removing the Secret ends the sessions made with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The Secret's name, in the agent's namespace.
    pub secret: Arc<str>,
    /// The token in it.
    pub token: Token,
}

/// What an agent proves its identity with. `Debug` does not show it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<[u8]>);

/// Why some bytes are no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It could be guessed.
    #[error("it is shorter than {min} bytes; `culvert token` makes a good one", min = Token::MIN_BYTES)]
    TooShort,
    /// It could not be sent in a header.
    #[error("it has characters that a header cannot carry; use printable ASCII without spaces")]
    NotPrintable,
}

// === impl Agents ===

impl Agents {
    /// The agent of that name, if there is a valid TunnelAgent for it.
    #[must_use]
    pub fn get(&self, name: &ObjectName) -> Option<&Arc<AgentEntry>> {
        self.entries.get(name)
    }

    /// All agents, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<AgentEntry>> {
        self.entries.values()
    }
}

impl FromIterator<AgentEntry> for Agents {
    fn from_iter<I: IntoIterator<Item = AgentEntry>>(entries: I) -> Self {
        Self { entries: entries.into_iter().map(|entry| (entry.name.clone(), Arc::new(entry))).collect() }
    }
}

// === impl AgentEntry ===

impl AgentEntry {
    /// Whether it may register from that address.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.allowed_sources.as_ref().is_none_or(|allowed| allowed.iter().any(|network| network.contains(&source)))
    }
}

// === impl Token ===

impl Token {
    /// The shortest token that is accepted.
    pub const MIN_BYTES: usize = 16;

    /// Takes a Secret's bytes as a token; one trailing newline is ignored, as editors leave it.
    ///
    /// # Errors
    /// Where the token is too short, or could not be sent in an `Authorization` header.
    pub fn new(bytes: &[u8]) -> Result<Self, TokenError> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.len() < Self::MIN_BYTES {
            return Err(TokenError::TooShort);
        }
        if !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::NotPrintable);
        }
        Ok(Self(bytes.into()))
    }

    /// Whether `presented` is this token, in a time that does not depend on where they differ.
    #[must_use]
    pub fn verify(&self, presented: &[u8]) -> bool {
        subtle::ConstantTimeEq::ct_eq(&*self.0, presented).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_without_its_newline_and_never_shown() {
        let token = Token::new(b"0123456789abcdef\n").expect("a token");
        assert!(token.verify(b"0123456789abcdef"));
        assert!(!token.verify(b"0123456789abcdeF"));
        assert!(!token.verify(b"0123456789abcdef\n"));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn short_and_unsendable_tokens_are_refused() {
        assert_eq!(Token::new(b"0123456789abcde\n"), Err(TokenError::TooShort));
        assert_eq!(Token::new(b"0123456789 abcdef"), Err(TokenError::NotPrintable));
    }
}
