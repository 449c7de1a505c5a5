//! Which node has which name and address. All of it is from 198.18.0.0/15, the range set aside for
//! benchmarks, which no real network uses.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

use super::names;

/// Where the API server listens: in node 1's network, and by a relay in the machine's own, so that
/// one kubeconfig is right in both.
pub(crate) fn api_port() -> u16 {
    names::port(16443)
}

/// Service addresses. The API server takes the first one for itself.
pub(crate) const SERVICE_CIDR: &str = "198.19.0.0/16";
pub(crate) const API_SERVICE: &str = "198.19.0.1";
pub(crate) const DNS_SERVICE: &str = "198.19.0.10";

/// All pods of all nodes.
pub(crate) const POD_CIDR: &str = "198.18.128.0/17";

/// One of the cluster's machines, counted from 1; the first carries the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node(u8);

impl Node {
    /// More than this machine could run anyway.
    pub(crate) const MAX: u8 = 9;
    pub(crate) const FIRST: Self = Self(1);

    /// The first `count` nodes.
    pub(crate) fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count).map(Self)
    }

    pub(crate) fn address(self) -> String {
        format!("198.18.0.{}", self.0)
    }

    pub(crate) fn pods(self) -> String {
        format!("198.18.{}.0/24", 127 + self.0)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl FromStr for Node {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.strip_prefix('n').and_then(|number| number.parse().ok()) {
            Some(number) if (1..=Self::MAX).contains(&number) => Ok(Self(number)),
            _ => bail!("nodes are called n1, n2, ..., not {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_reads_back_what_it_prints() {
        let second: Node = "n2".parse().unwrap();
        assert_eq!(second.to_string(), "n2");
        assert_eq!(second.address(), "198.18.0.2");
        assert_eq!(second.pods(), "198.18.129.0/24");
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "n0", "n10", "1", "node1", "../n1"] {
            assert!(name.parse::<Node>().is_err(), "{name}");
        }
    }
}
