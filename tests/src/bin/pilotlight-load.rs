//! Puts a fixed rate of requests on a host, and says in one line what came of them.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use pilotlight_tests::{Caller, Load};

/// A load generator whose rate does not depend on the answers
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to connect to
    #[arg(long)]
    url: http::Uri,
    /// Host that is called; the URL's by default
    #[arg(long)]
    host: Option<String>,
    /// Requests per second
    #[arg(long, default_value_t = 50.0, value_parser = positive)]
    rps: f64,
    /// For how many seconds
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    seconds: f64,
    /// Path and query to call
    #[arg(long, default_value = "/")]
    path: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let host = arguments.url.host().context("--url has no host")?;
    let address = format!("{host}:{}", arguments.url.port_u16().unwrap_or(80));
    let caller = Caller::new(&address, arguments.host.as_deref().unwrap_or(host))?;
    let load = Load::new(&caller, &arguments.path, arguments.rps);
    let report = load.run(Duration::from_secs_f64(arguments.seconds)).await?;
    println!("{report}");
    report.all_answered()
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if number > 0.0 && number <= 1e6 {
        Ok(number)
    } else {
        Err("must be above 0, and at most a million".to_owned())
    }
}
