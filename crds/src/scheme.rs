//! How callers reach Functions from outside.

use std::{fmt, str::FromStr};

/// How callers reach the activator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlScheme {
    /// Plain HTTP.
    Http,
    /// TLS is ended by the activator, or by something in front of it.
    Https,
}

/// A text that is no scheme of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the scheme is http or https")]
pub struct InvalidScheme;

impl UrlScheme {
    /// The scheme as it stands in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for UrlScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UrlScheme {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, InvalidScheme> {
        match text {
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            _ => Err(InvalidScheme),
        }
    }
}
