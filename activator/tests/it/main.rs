//! Integration tests of the activator: one binary, so that it is linked once.

mod proxy;
mod state;
