//! The project's own tool: `cargo xtask <verb>`. Everything that is more than one cargo command is
//! here, so that people and automation do the same thing.

mod bench;
mod cargo;
mod cli;
mod cluster;
mod codegen;
mod demo;
mod fuzz;
mod guided;
mod images;
mod interrupt;
mod paths;
mod run;
mod site;
mod steps;
mod tidy;
mod tools;
mod verify;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let verb = cli::Xtask::parse();
    match interrupt::listen().and_then(|()| verb.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
