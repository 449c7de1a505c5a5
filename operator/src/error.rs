//! What can go wrong in a reconciliation, and when to try again: the whole retry policy.
//!
//! Not an error: a spec that breaks a rule, a child that the API server refuses, a pod that does not
//! start. Those are states of a Function and become conditions.

use std::time::Duration;

/// The watches ended before they had listed what there is.
#[derive(Debug, thiserror::Error)]
#[error("the watches ended before they had listed what there is")]
pub(crate) struct NotListed;

/// A reconciliation that could not be finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A watch has ended: the process is about to stop.
    #[error("the watches have ended")]
    NotWatching(#[source] NotListed),
    /// An object without the metadata that the API server gives to each.
    #[error("the Function has no namespace, name or uid")]
    NoIdentity,
    /// The API server did not do what was asked.
    #[error("could not {action}")]
    Api {
        /// What was asked for.
        action: &'static str,
        /// How it answered.
        #[source]
        source: kube::Error,
    },
    /// A Function of this name was deleted, and its children are still being collected.
    #[error("{kind} {name} of a deleted Function of the same name is still there")]
    Predecessor {
        /// Kind of the child.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The namespace is being deleted, and the Function with it.
    #[error("the namespace is being deleted")]
    NamespaceEnding,
    /// An object could not be written as JSON.
    #[error("could not serialise an object")]
    Serialize(#[from] serde_json::Error),
    /// A bug. It stops this Function, not the others.
    #[error("panicked: {0}")]
    Panicked(String),
    /// The API server answered, but too slowly.
    #[error("took longer than {0:?}")]
    Deadline(Duration),
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// When the Function changes.
    Never,
    /// Later, and later each time.
    Backoff,
}

impl Error {
    /// When to try again.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::NoIdentity | Self::NamespaceEnding | Self::Serialize(_) => Retry::Never,
            Self::NotWatching(_)
            | Self::Api { .. }
            | Self::Predecessor { .. }
            | Self::Panicked(_)
            | Self::Deadline(_) => Retry::Backoff,
        }
    }

    /// A name from a bounded set, for metrics and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotWatching(_) => "not_watching",
            Self::NoIdentity => "no_identity",
            Self::Api { source: kube::Error::Api(_), .. } => "api_refused",
            Self::Api { .. } => "api_unreachable",
            Self::Predecessor { .. } => "predecessor",
            Self::NamespaceEnding => "namespace_ending",
            Self::Serialize(_) => "serialize",
            Self::Panicked(_) => "panicked",
            Self::Deadline(_) => "deadline",
        }
    }
}

/// An error with all its causes on one line. kube's errors repeat their cause, so repetitions are left out.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = line(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = line(error);
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    text
}

/// An error without its causes. kube would write an answer of the API server twice, once for a debugger.
fn line(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status.to_string(),
        _ => error.to_string(),
    }
}

/// The first wait after a failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait: the periodic resync comes as often.
const LONGEST: Duration = Duration::from_secs(300);

/// The wait after the `failures`-th failure in a row: doubling, bounded, and spread by `seed` over half
/// of itself, so that what failed together does not come back together.
pub(crate) fn backoff(failures: u32, seed: u64) -> Duration {
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST);
    let spread = f64::from(u16::try_from(seed % 1000).unwrap_or(0)) / 2000.0;
    doubled.mul_f64(1.0 - spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_are_spread() {
        assert_eq!(backoff(1, 0), Duration::from_secs(1));
        assert_eq!(backoff(4, 0), Duration::from_secs(8));
        assert_eq!(backoff(60, 0), LONGEST);
        for seed in 0..2000 {
            let wait = backoff(4, seed);
            assert!(wait > Duration::from_secs(4) && wait <= Duration::from_secs(8), "{wait:?}");
        }
    }

    #[test]
    fn an_error_is_told_once_with_its_causes() {
        let status = kube::core::Status::failure("quota exceeded", "Forbidden").with_code(403).boxed();
        let error = Error::Api { action: "apply a child", source: kube::Error::Api(status) };
        assert_eq!(chain(&error), "could not apply a child: quota exceeded: Forbidden");
    }
}
