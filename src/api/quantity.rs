use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// A number of bytes as Kubernetes writes quantities: `10Mi`, `1.5G`, or a plain number, with or without quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quantity(String);

// === impl Quantity ===

impl Quantity {
    /// The quantity as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many bytes that is, rounded up; `None` if it is none that can be read, or too large to be one.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let end = self.0.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.0.len());
        let (number, suffix) = self.0.split_at(end);
        let factor: u64 = match suffix {
            "" => 1,
            "k" => 1000,
            "M" => 1000_u64.pow(2),
            "G" => 1000_u64.pow(3),
            "T" => 1000_u64.pow(4),
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
        // Nine digits are a billionth: exact enough for a part of the largest unit, and far from an overflow.
        let digits = fraction.get(..fraction.len().min(9))?;
        let part = u128::from(digits.parse::<u64>().ok()?) * u128::from(factor);
        let part = part.div_ceil(10_u128.pow(u32::try_from(digits.len()).ok()?));
        whole.checked_add(u64::try_from(part).ok()?)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        }))
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
            "pattern": "^[0-9]+([.][0-9]+)?([kMGT]|[KMGT]i)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_a_number_of_bytes() {
        let bytes = |text: &str| Quantity(text.to_owned()).bytes();
        assert_eq!(bytes("0"), Some(0));
        assert_eq!(bytes("10Mi"), Some(10 << 20));
        assert_eq!(bytes("10M"), Some(10_000_000));
        assert_eq!(bytes("1.5Ki"), Some(1536));
        assert_eq!(bytes("0.3333333333k"), Some(334));
        for wrong in ["", "-1", "Mi", "1.Mi", "1.2.3", "1 Mi", "1m", "99999999999Ti", "ten", "1é"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        assert_eq!(serde_json::from_str::<Quantity>("4096").expect("a number").bytes(), Some(4096));
        assert_eq!(serde_json::from_str::<Quantity>("\"4Ki\"").expect("a text").bytes(), Some(4096));
    }
}
