//! An API server that is away, and back again.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Cluster;
use super::address::Node;
use super::control_plane::{self, API_SERVER};
use crate::run;

/// A killed process is gone at once; this is for a machine that is busy.
const ENDS: Duration = Duration::from_secs(20);

impl Cluster {
    /// Ends the API server as a crash would, without a farewell to its clients.
    pub(crate) fn stop_api(&self) -> Result<()> {
        let servers = self.api_servers();
        ensure!(!servers.is_empty(), "the API server does not run");
        for pid in &servers {
            run::run(Command::new("kill").args(["-KILL", &pid.to_string()]))?;
        }
        run::wait_until("the API server has ended", ENDS, || Ok(self.api_servers().is_empty()))
    }

    /// Starts it again, with all that it knew, and waits until it is ready.
    pub(crate) fn start_api(&self) -> Result<()> {
        ensure!(self.api_servers().is_empty(), "the API server runs already");
        control_plane::restart_api(&self.machine(Node::FIRST)?)
    }

    fn api_servers(&self) -> Vec<u32> {
        let components = self.components(Node::FIRST).into_iter();
        components.filter(|(name, ..)| name == API_SERVER).map(|(_, pid, _)| pid).collect()
    }
}
