//! The identity of a Function inside one cluster.

use std::{collections::BTreeMap, fmt};

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

/// The Function that owns an object in `namespace`, told by its labels.
pub fn function_of(
    namespace: Option<&str>,
    labels: Option<&BTreeMap<String, String>>,
) -> Option<FunctionKey> {
    let name = labels?.get(crate::names::FUNCTION_LABEL)?;
    Some(FunctionKey::new(namespace?, name.as_str()))
}
