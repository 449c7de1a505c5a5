//! Measures cold starts beside what Kubernetes can do by itself, memory, and how soon many Functions are
//! routable.
//!
//! Reading order: this file, `starts` (the three ways to start a pod), `many` (many Functions), `memory`,
//! `numbers` (statistics), `report` (Markdown).

mod many;
mod memory;
mod numbers;
mod report;
mod starts;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use pilotlight_tests::{Cluster, Scope};

use crate::report::Report;

/// Measure cold starts, memory, and how soon many Functions are routable
#[derive(Debug, Parser)]
struct Arguments {
    /// Cold starts of each kind
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Functions to apply for the second part
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(5..=5000))]
    functions: u32,
    /// File for the results as Markdown
    #[arg(long)]
    out: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let empty = memory::of_pilotlight(&Cluster::connect().await?).await?;
    let starts = in_namespace(async |scope| starts::measure(scope, arguments.rounds).await).await?;
    let many = in_namespace(async |scope| many::measure(scope, arguments.functions).await).await?;
    let text = Report { starts, many, empty }.markdown();
    println!("\n{text}");
    if let Some(file) = arguments.out {
        std::fs::write(&file, &text).with_context(|| format!("writing {}", file.display()))?;
        println!("written to {}", file.display());
    }
    Ok(())
}

/// Runs one part in a namespace of its own, which is deleted whatever came of it.
async fn in_namespace<T>(part: impl AsyncFnOnce(&Scope) -> Result<T>) -> Result<T> {
    let scope = Scope::new().await?;
    let outcome = part(&scope).await;
    let gone = scope.delete_and_wait().await;
    let outcome = outcome?;
    gone.map(|()| outcome)
}
