use std::fmt;

/// What an agent proves its identity with, as presented. `Debug` does not show it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No edge accepts it, since it could be guessed.
    #[error("the token is too short: it needs at least {min} bytes; `culvert token` makes a good one", min = Token::MIN_BYTES)]
    TooShort,
    /// It could not be sent in a header.
    #[error("the token has characters that a header cannot carry; use printable ASCII without spaces")]
    NotPrintable,
}

// === impl Token ===

impl Token {
    /// The shortest token that an edge accepts.
    pub const MIN_BYTES: usize = 16;

    /// Takes a text as a token; one trailing newline is ignored, as editors leave it.
    ///
    /// # Errors
    /// Where it is too short, or could not be sent in an `Authorization` header.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.len() < Self::MIN_BYTES {
            return Err(TokenError::TooShort);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::NotPrintable);
        }
        Ok(Self(text.into()))
    }

    /// The secret itself: for the one header it is sent in, and for comparing it in constant time.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
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
    fn a_token_loses_its_newline_and_is_not_shown() {
        let token = Token::new("0123456789abcdef\r\n").expect("a token");
        assert_eq!(token.expose(), "0123456789abcdef");
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn short_and_unsendable_tokens_are_refused() {
        assert_eq!(Token::new("\n"), Err(TokenError::TooShort));
        assert_eq!(Token::new("0123456789abcde\n"), Err(TokenError::TooShort));
        assert!(TokenError::TooShort.to_string().contains("16 bytes"));
        assert_eq!(Token::new("0123456789 abcdef"), Err(TokenError::NotPrintable));
        assert_eq!(Token::new("0123456789abcdef\r\nHost: b"), Err(TokenError::NotPrintable));
    }
}
