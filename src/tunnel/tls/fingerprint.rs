use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

/// SHA-256 of a public key (the `SubjectPublicKeyInfo` in DER), so that it outlives a renewed certificate.
///
/// Written `sha256:` and 64 hexadecimal digits; base64, as other tools print it, is read too.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// The text is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fingerprint; expected \"sha256:\" and 64 hexadecimal digits (or 32 bytes in base64)")]
pub struct FingerprintError(String);

// === impl Fingerprint ===

impl Fingerprint {
    /// The fingerprint of a certificate's public key.
    ///
    /// # Errors
    /// Where it cannot be parsed.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(Sha256::digest(spki.as_ref()).into()))
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || FingerprintError(text.to_owned());
        let digest = text.trim().strip_prefix("sha256:").ok_or_else(error)?;
        let hex: String = digest.chars().filter(|&c| c != ':').collect();
        if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let mut bytes = [0; 32];
            for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
                let digits = std::str::from_utf8(digits).map_err(|_| error())?;
                *byte = u8::from_str_radix(digits, 16).map_err(|_| error())?;
            }
            return Ok(Self(bytes));
        }
        let bytes = STANDARD.decode(digest).map_err(|_| error())?;
        bytes.try_into().map(Self).map_err(|_| error())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_base64_are_the_same_fingerprint() {
        let hex = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let fingerprint: Fingerprint = hex.parse().expect("a fingerprint");
        assert_eq!(fingerprint.to_string(), hex);
        assert_eq!("sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".parse(), Ok(fingerprint));
        let colons =
            "sha256:E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55";
        assert_eq!(colons.parse(), Ok(fingerprint));
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "sha256:", "sha256:e3b0", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"] {
            assert_eq!(text.parse::<Fingerprint>(), Err(FingerprintError(text.to_owned())));
        }
    }
}
