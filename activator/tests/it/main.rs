//! Integration tests of the activator: one binary, so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

mod peers;
mod proxy;
mod queue;
mod random;
mod state;
