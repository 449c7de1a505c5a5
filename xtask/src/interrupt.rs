//! Ctrl-C and friends, as a question that every long wait asks.
//!
//! A signal does not end xtask by itself: it makes the current wait fail, the error travels up, and
//! whoever owns a cluster takes it down on the way. A second signal ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// What a shell reports for a program that Ctrl-C ended.
const STATUS: i32 = 130;

/// Starts listening. Called once, before anything that must be cleaned up exists.
pub(crate) fn listen() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Order matters: the shutdown is armed by the flag that the second line sets.
        flag::register_conditional_shutdown(signal, STATUS, Arc::clone(&INTERRUPTED))?;
        flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    Ok(())
}

/// Fails once a signal has arrived.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
