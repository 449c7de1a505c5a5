//! The state API against a real Redis: what it promises while all is well, and while Redis is not.

// The lints' exception for tests covers test functions, not what helps them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api;
mod data;
mod outage;
mod redis;
mod tie;
