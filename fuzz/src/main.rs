//! Runs one fuzz target under libFuzzer: `PILOTLIGHT_FUZZ=framing pilotlight-fuzz CORPUS`. Which there are is in
//! `targets.rs`; `cargo xtask fuzz` builds this so that it sees which branches are taken, and runs them all.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

mod targets;

static TARGET: OnceLock<targets::Target> = OnceLock::new();

fn target() -> targets::Target {
    let name = std::env::var("PILOTLIGHT_FUZZ").unwrap_or_default();
    let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
    found.map_or_else(|| panic!("PILOTLIGHT_FUZZ names no target: `{name}`"), |(_, run)| *run)
}

fuzz_target!(|bytes: &[u8]| (TARGET.get_or_init(target))(bytes));
