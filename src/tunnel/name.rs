//! The names of objects, as both ends read them (RFC 1123, as Kubernetes has it).

/// The name of a namespace, or a part of another name: up to 63 of a-z, 0-9 and `-`, with no `-` at an end.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = text.starts_with('-') || text.ends_with('-');
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !ends
}

/// The name of an object in a namespace: up to 253 characters of labels with dots between.
#[must_use]
pub fn is_object(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_an_api_server_takes() {
        let long = "a".repeat(63);
        for label in ["a", "0", "web", "a--b", &long] {
            assert!(is_label(label) && is_object(label), "{label}");
        }
        for other in ["", "-", "-web", "web-", "Web", "a_b", "a b", &format!("{long}a")] {
            assert!(!is_label(other) && !is_object(other), "{other}");
        }
        assert!(is_object("home.lab") && !is_label("home.lab"));
        for other in [".", "a.", ".a", "a..b", "a.-b", &["a"; 200].join(".")] {
            assert!(!is_object(other), "{other}");
        }
    }
}
