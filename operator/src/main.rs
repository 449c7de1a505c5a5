//! Arguments, logging, run. Everything else is in the library, where tests reach it.

use std::process::ExitCode;

use clap::Parser;
use pilotlight_operator::{
    config::{Args, Config},
    run, telemetry,
};

/// `EX_USAGE` of sysexits: whoever started us has to change something.
const BAD_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { BAD_CONFIG } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let config = match Config::try_from(args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("pilotlight-operator: {error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if let Err(error) = telemetry::init() {
        eprintln!("pilotlight-operator: PILOTLIGHT_LOG: {error}");
        return ExitCode::from(BAD_CONFIG);
    }
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(config))?;
    Ok(())
}
