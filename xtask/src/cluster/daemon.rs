//! Long-running programs in nodes.

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::logs;
use super::machine::Machine;
use crate::run;

/// One component that runs in a node.
#[derive(Debug)]
struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// What has been started so far. A wait fails as soon as any of them ends, whichever it was that
/// was waited for: the cause is often not where the symptom is.
///
/// Dropping this leaves them running: they end with their node.
#[derive(Debug, Default)]
pub(crate) struct Daemons(Vec<Daemon>);

impl Daemons {
    /// Starts a component, with a log of its own, and does not wait for it.
    pub(crate) fn start(
        &mut self,
        machine: &Machine,
        name: &'static str,
        program: &str,
        arguments: &[String],
    ) -> Result<()> {
        let log = machine.layout().log(machine.node(), name);
        let child = machine.start(program, arguments, &log).with_context(|| format!("starting {name}"))?;
        self.0.push(Daemon { name, child, log });
        Ok(())
    }

    /// Waits for something that the component `name` brings about.
    pub(crate) fn wait(
        &mut self,
        name: &str,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let waited = run::wait_until(what, limit, || {
            self.0.iter_mut().try_for_each(Daemon::check)?;
            ready()
        });
        match self.0.iter().find(|daemon| daemon.name == name) {
            // The log of one that ended is in the error already.
            Some(daemon) if waited.as_ref().is_err_and(|error| error.downcast_ref::<Ended>().is_none()) => {
                waited.with_context(|| logs::tail(&daemon.log))
            }
            _ => waited,
        }
    }

    /// Watches these as well from now on.
    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }
}

impl Daemon {
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(Ended(format!("{} ended: {status}\n{}", self.name, logs::tail(&self.log)))),
        }
    }
}

/// A component ended that should have run on.
#[derive(Debug)]
struct Ended(String);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Ended {}
