//! Memory of connections that have been used once and wait.

use anyhow::Result;
use futures_util::future::try_join_all;

use crate::{drive::Order, http1::Client, process};

/// Bytes that the measured process grew by.
pub(crate) async fn memory(order: &Order, pid: u32) -> Result<u64> {
    let before = process::memory(pid)?;
    let mut clients = try_join_all((0..order.connections).map(|_| Client::connect(order))).await?;
    for client in &mut clients {
        client.exchange().await?;
    }
    let after = process::memory(pid)?;
    drop(clients);
    Ok(after.saturating_sub(before))
}
