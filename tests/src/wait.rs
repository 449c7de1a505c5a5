//! Waiting: for a condition, with a bound, and with the last state in the message when it does not come.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Pause between two looks: short against what is waited for, and few calls for the API server.
const EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` succeeds. Its error says what there was instead; the last one is reported if the
/// condition does not come within `limit`.
///
/// # Errors
/// When the time is over.
pub async fn await_condition<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        // A look that hangs must not outlive the bound by much.
        let looked = tokio::time::timeout(limit, look()).await;
        let seen = match looked {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => seen,
            Err(_) => anyhow::anyhow!("a look took longer than the limit"),
        };
        if Instant::now() >= deadline {
            return Err(seen).with_context(|| format!("{what}: not within {limit:?}; last seen"));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Watches for as long as `period` that `look` goes on succeeding.
///
/// # Errors
/// The first error of `look`.
pub async fn stays(period: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let (began, deadline) = (Instant::now(), Instant::now() + period);
    while Instant::now() < deadline {
        look().await.with_context(|| format!("{what}: no longer so after {:?}", began.elapsed()))?;
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}
