//! Several activators side by side.

mod simulation;
