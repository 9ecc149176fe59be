use std::fmt;

/// What an agent proves its identity with, as presented. `Debug` does not show it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

/// The text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is empty or has characters that a header cannot carry; use printable ASCII without spaces")]
pub struct TokenError;

// === impl Token ===

impl Token {
    /// Takes a text as a token; one trailing newline is ignored, as editors leave it.
    ///
    /// # Errors
    /// Where it could not be sent in an `Authorization` header.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError);
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
        assert_eq!(Token::new("\n"), Err(TokenError));
        assert_eq!(Token::new("a b"), Err(TokenError));
        assert_eq!(Token::new("a\r\nHost: b"), Err(TokenError));
    }
}
