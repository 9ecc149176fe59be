use std::{fmt, str::FromStr, sync::Arc};

/// The namespace and name of an object: what live state is keyed by.
///
/// Cheap to clone. Printed and parsed as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace; never empty.
    pub namespace: Arc<str>,
    /// The name; never empty.
    pub name: Arc<str>,
}

/// The text is not `namespace/name`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not NAMESPACE/NAME")]
pub struct ObjectNameError(String);

// === impl ObjectName ===

impl ObjectName {
    /// Names the object `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ObjectName {
    type Err = ObjectNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(ObjectNameError(text.to_owned())),
        }
    }
}
