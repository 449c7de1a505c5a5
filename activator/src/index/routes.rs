//! Host and path to function: an immutable table, swapped whole when a Function changes.
//!
//! Order of preference: exact host, wildcard host, `/fn/<namespace>/<name>`, routes for any host; in
//! each the longest path prefix. Of two Functions that claim the same, the older one has it.

use std::{collections::HashMap, sync::Arc};

use pilotlight_crds::{Function, FunctionKey, names};

/// Path prefix under which every Function answers, on any host that is not taken.
const FUNCTIONS_PREFIX: &str = "/fn/";

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Routed<'a, T> {
    /// The function.
    pub target: &'a T,
    /// How many bytes of the path were only for us, and are not forwarded.
    pub strip: usize,
}

/// The domains under which Functions get their own hosts.
#[derive(Clone, Debug)]
pub struct Domains {
    /// `<name>.<namespace>.<domain>` reaches a Function from outside.
    pub outside: String,
    /// The cluster's DNS domain.
    pub cluster: String,
}

#[derive(Debug)]
struct Prefix<T> {
    prefix: String,
    target: T,
}

/// The routes of all Functions. `T` is what a route leads to.
#[derive(Debug)]
pub struct RouteTable<T> {
    exact: HashMap<String, Vec<Prefix<T>>>,
    /// By the host without its first label.
    wildcard: HashMap<String, Vec<Prefix<T>>>,
    any: Vec<Prefix<T>>,
    by_key: HashMap<String, T>,
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: Vec::new(), by_key: HashMap::new() }
    }
}

/// What a Function claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who claims.
    pub key: FunctionKey,
    /// When the Function was made: the older one has a route that two claim.
    pub created: Option<jiff::Timestamp>,
    /// Hosts (none: any) and path prefixes.
    pub routes: Vec<(Vec<String>, String)>,
}

impl Claim {
    /// What a Function claims in its spec.
    pub fn read(function: &Function) -> Option<Self> {
        let routes =
            function.spec.routes.iter().map(|route| (route.hosts.clone(), route.path.0.clone())).collect();
        let created = function.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Some(Self { key: function.key()?, created, routes })
    }
}

impl<T: Clone> RouteTable<T> {
    /// Builds the table from all claims.
    pub fn build(claims: impl IntoIterator<Item = (Claim, T)>, domains: &Domains) -> Self {
        let mut claims: Vec<_> = claims.into_iter().collect();
        claims.sort_by(|(a, _), (b, _)| (a.created, &a.key).cmp(&(b.created, &b.key)));
        let mut table = Self::default();
        for (claim, target) in &claims {
            // A Function's own hosts come first: no other's spec can take them.
            for host in names::default_hosts(&claim.key, &domains.outside, &domains.cluster) {
                table.add(&host, "/", target);
            }
            table.by_key.insert(claim.key.to_string(), target.clone());
        }
        for (claim, target) in &claims {
            for (hosts, path) in &claim.routes {
                hosts.iter().for_each(|host| table.add(host, path, target));
                if hosts.is_empty() {
                    insert(&mut table.any, path, target);
                }
            }
        }
        table
    }

    fn add(&mut self, host: &str, path: &str, target: &T) {
        let prefixes = match host.strip_prefix("*.") {
            Some(parent) => self.wildcard.entry(parent.to_owned()).or_default(),
            None => self.exact.entry(host.to_owned()).or_default(),
        };
        insert(prefixes, path, target);
    }

    /// The function for a host (lower case, without port) and a path as it was received.
    pub fn find(&self, host: &str, path: &str) -> Option<Routed<'_, T>> {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        let exact = self.exact.get(host).and_then(|prefixes| longest(prefixes, path));
        let wildcard = || self.wildcard.get(parent?).and_then(|prefixes| longest(prefixes, path));
        let whole = |target| Routed { target, strip: 0 };
        exact
            .or_else(wildcard)
            .map(whole)
            .or_else(|| self.by_path(path))
            .or_else(|| longest(&self.any, path).map(whole))
    }

    /// `/fn/<namespace>/<name>` and what is below it.
    fn by_path(&self, path: &str) -> Option<Routed<'_, T>> {
        let rest = path.strip_prefix(FUNCTIONS_PREFIX)?;
        let (namespace, below) = rest.split_once('/')?;
        let name = below.split('/').next()?;
        let key = &rest[..namespace.len() + 1 + name.len()];
        let target = self.by_key.get(key)?;
        Some(Routed { target, strip: FUNCTIONS_PREFIX.len() + key.len() })
    }
}

/// Keeps prefixes longest first; the first claim of a prefix wins.
fn insert<T: Clone>(prefixes: &mut Vec<Prefix<T>>, path: &str, target: &T) {
    let prefix = path.trim_end_matches('/');
    if prefixes.iter().any(|known| known.prefix == prefix) {
        return;
    }
    let at = prefixes.partition_point(|known| known.prefix.len() >= prefix.len());
    prefixes.insert(at, Prefix { prefix: prefix.to_owned(), target: target.clone() });
}

fn longest<'a, T>(prefixes: &'a [Prefix<T>], path: &str) -> Option<&'a T> {
    let covers = |prefix: &&Prefix<T>| {
        path.strip_prefix(&prefix.prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.prefix.is_empty())
    };
    prefixes.iter().find(covers).map(|prefix| &prefix.target)
}

/// A table that many threads read.
pub type SharedRoutes<T> = arc_swap::ArcSwap<RouteTable<Arc<T>>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, created: i64, routes: &[(&[&str], &str)]) -> (Claim, &'static str) {
        let routes = routes
            .iter()
            .map(|(hosts, path)| (hosts.iter().map(|host| (*host).to_owned()).collect(), (*path).to_owned()))
            .collect();
        let created = jiff::Timestamp::from_second(created).ok();
        (
            Claim { key: FunctionKey::new("demo", name), created, routes },
            Box::leak(name.to_owned().into_boxed_str()),
        )
    }

    #[track_caller]
    fn check(
        claims: &[(Claim, &'static str)],
        host: &str,
        path: &str,
        expected: Option<(&'static str, usize)>,
    ) {
        let domains = Domains { outside: "example.org".into(), cluster: "cluster.local".into() };
        let table = RouteTable::build(claims.to_vec(), &domains);
        assert_eq!(
            table.find(host, path).map(|routed| (*routed.target, routed.strip)),
            expected,
            "{host}{path}"
        );
    }

    #[test]
    fn a_function_answers_on_its_own_hosts_and_path() {
        let claims = [claim("hello", 1, &[])];
        for host in ["hello.demo.example.org", "hello.demo", "hello.demo.svc", "hello.demo.svc.cluster.local"]
        {
            check(&claims, host, "/any", Some(("hello", 0)));
        }
        check(&claims, "10.0.0.1", "/fn/demo/hello", Some(("hello", 14)));
        check(&claims, "10.0.0.1", "/fn/demo/hello/x?y", Some(("hello", 14)));
        for path in ["/fn/demo/hellos", "/fn/demo", "/fn/demo/", "/fn//hello", "/"] {
            check(&claims, "10.0.0.1", path, None);
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let claims = [
            claim("root", 1, &[(&["a.com"], "/")]),
            claim("api", 2, &[(&["a.com"], "/api/")]),
            claim("v2", 3, &[(&["a.com"], "/api/v2")]),
        ];
        for (path, expected) in
            [("/", "root"), ("/apis", "root"), ("/api", "api"), ("/api/v1", "api"), ("/api/v2/x", "v2")]
        {
            check(&claims, "a.com", path, Some((expected, 0)));
        }
    }

    #[test]
    fn exact_before_wildcard_before_any() {
        let claims = [
            claim("any", 1, &[(&[], "/")]),
            claim("wild", 2, &[(&["*.a.com"], "/")]),
            claim("exact", 3, &[(&["x.a.com"], "/")]),
        ];
        for (host, expected) in
            [("x.a.com", "exact"), ("y.a.com", "wild"), ("y.x.a.com", "any"), ("a.com", "any")]
        {
            check(&claims, host, "/", Some((expected, 0)));
        }
        check(&claims, "b.com", "/fn/demo/wild/", Some(("wild", 13)));
    }

    #[test]
    fn the_older_claim_wins_and_nobody_takes_anothers_own_host() {
        let claims = [
            claim("young", 9, &[(&["a.com"], "/")]),
            claim("old", 1, &[(&["a.com", "young.demo.example.org"], "/")]),
        ];
        check(&claims, "a.com", "/", Some(("old", 0)));
        check(&claims, "young.demo.example.org", "/", Some(("young", 0)));
    }
}
