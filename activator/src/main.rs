//! `pilotlight-activator`: read the configuration, then run.

use std::process::ExitCode;

use clap::Parser as _;
use pilotlight_activator::{
    config::{Args, Config},
    run::run,
    telemetry,
};

/// `EX_USAGE` of sysexits.h: the configuration is wrong, and restarting will not help.
const BAD_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let config = match Config::try_from(Args::parse()) {
        Ok(config) => config,
        Err(error) => return fail(&anyhow::Error::from(error), BAD_CONFIG),
    };
    if let Err(error) = telemetry::init(&config.log) {
        return fail(&anyhow::Error::from(error).context("PILOTLIGHT_LOG"), BAD_CONFIG);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("pilotlight-activator: {error:#}");
    ExitCode::from(code)
}
