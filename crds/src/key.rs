//! The identity of a Function inside one cluster.

use std::{fmt, str::FromStr};

/// Namespace and name of a Function. Written `namespace/name`, as kubectl and logs write it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionKey {
    /// The namespace that the Function lives in.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
}

impl FunctionKey {
    /// The key of the Function `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for FunctionKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(()),
        }
    }
}

/// The Function that owns an object in `namespace`, told by its labels.
pub fn function_of(
    namespace: Option<&str>,
    labels: Option<&std::collections::BTreeMap<String, String>>,
) -> Option<FunctionKey> {
    let name = labels?.get(crate::names::FUNCTION_LABEL)?;
    Some(FunctionKey::new(namespace?, name.as_str()))
}
