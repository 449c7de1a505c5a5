//! What the API server and the operator make of Functions.

mod children;
mod invalid;
mod rules;
