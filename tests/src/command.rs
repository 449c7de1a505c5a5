//! The programs that users type: kubectl and helm; and `cargo xtask cluster`, for faults of machines.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// No command that tests run takes longer, `helm --wait` included.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs kubectl and returns what it printed.
///
/// # Errors
/// When it cannot be run or fails; with what it said.
pub async fn kubectl(arguments: &[&str]) -> Result<String> {
    run("KUBECTL", "kubectl", arguments).await
}

/// Runs helm and returns what it printed.
///
/// # Errors
/// When it cannot be run or fails; with what it said.
pub async fn helm(arguments: &[&str]) -> Result<String> {
    run("HELM", "helm", arguments).await
}

/// Runs a verb of `cargo xtask cluster` on the cluster that it made; `None` on any other cluster, whose
/// machines are not ours to disturb.
///
/// # Errors
/// When it fails; with what it said.
pub async fn machinery(arguments: &[&str]) -> Result<Option<String>> {
    if std::env::var_os("PILOTLIGHT_XTASK").is_none() {
        return Ok(None);
    }
    run("PILOTLIGHT_XTASK", "xtask", &[&["cluster"], arguments].concat()).await.map(Some)
}

async fn run(variable: &str, default: &str, arguments: &[&str]) -> Result<String> {
    let program = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let line = format!("{default} {}", arguments.join(" "));
    let output = Command::new(&program).args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, output)
        .await
        .with_context(|| format!("`{line}` took longer than {LIMIT:?}"))?
        .with_context(|| format!("cannot run {program}: set {variable}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}` failed: {}\n{}", output.status, said.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
