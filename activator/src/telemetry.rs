//! The one place where logging is set up.

use tracing_subscriber::EnvFilter;

/// Logs as JSON lines on stdout, filtered as `filter` says (`info`, `pilotlight_activator=debug`, ...).
///
/// # Errors
/// When the filter cannot be read.
pub fn init(filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
    Ok(())
}
