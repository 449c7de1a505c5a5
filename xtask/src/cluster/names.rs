//! What tells one cluster from another on the same machine.
//!
//! There is one, unless `PILOTLIGHT_CLUSTER` gives it a name: then it has control groups, network
//! namespaces, files and ports of its own, and knows nothing of others.

use std::sync::LazyLock;

/// Appended to everything that is named for the cluster: nothing, or `.name`.
pub(crate) fn suffix() -> &'static str {
    static SUFFIX: LazyLock<String> =
        LazyLock::new(|| from(&std::env::var("PILOTLIGHT_CLUSTER").unwrap_or_default()));
    &SUFFIX
}

/// The port that the only cluster would use, moved for one with a name.
pub(crate) fn port(usual: u16) -> u16 {
    usual + offset(suffix())
}

/// Letters and digits only: the rest may mean something in a path.
fn from(name: &str) -> String {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    if plain.is_empty() { plain } else { format!(".{plain}") }
}

/// Two names may share an offset; the second cluster then fails to start and names the port.
fn offset(suffix: &str) -> u16 {
    let sum = suffix.bytes().fold(0_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    if suffix.is_empty() { 0 } else { 1 + sum % 1000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_cluster_has_plain_names() {
        assert_eq!(from(""), "");
        assert_eq!(offset(""), 0);
    }

    #[test]
    fn a_name_cannot_be_a_path() {
        assert_eq!(from("../b 2"), ".b2");
        assert_ne!(offset(&from("a")), offset(&from("b")));
    }
}
