//! The one place where a tracing subscriber is built.

use std::io::{IsTerminal, stdout};

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// What is logged where neither `PILOTLIGHT_LOG` nor `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info,kube=warn";

/// Starts logging to standard output: JSON lines for collectors, text where a person looks on.
///
/// # Errors
/// The filter in `PILOTLIGHT_LOG` or `RUST_LOG` does not parse, or a subscriber exists already.
pub fn init() -> anyhow::Result<()> {
    let filter = std::env::var("PILOTLIGHT_LOG").or_else(|_| std::env::var("RUST_LOG"));
    let filter = EnvFilter::try_new(filter.as_deref().unwrap_or(DEFAULT_FILTER))?;
    let registry = tracing_subscriber::registry().with(filter);
    if stdout().is_terminal() {
        registry.with(fmt::layer()).try_init()?;
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_span_list(false)).try_init()?;
    }
    Ok(())
}
