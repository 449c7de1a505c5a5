//! Where Pilotlight is to run: a cluster made for it on this machine, or one that the user has.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Args;

use crate::cluster::{Cluster, Owned};
use crate::{images, interrupt, paths, run, tools};

/// Installing waits for pods to be ready; on a busy machine that takes a while.
const INSTALL_TIMEOUT: &str = "180s";

/// Which cluster a verb uses.
#[derive(Debug, Clone, Args)]
pub(crate) struct SiteArgs {
    /// Use this cluster instead of one made for the occasion
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where that cluster gets images: PREFIX/operator:dev, PREFIX/hello:dev, ...
    #[arg(long, value_name = "PREFIX", default_value = images::REPOSITORY)]
    pub(crate) image_registry: String,
}

/// A cluster, and how to run programs against it.
#[derive(Debug)]
pub(crate) struct Site {
    cluster: Option<Cluster>,
    kubeconfig: PathBuf,
    image_registry: String,
    /// Folders with kubectl and helm.
    programs: Vec<PathBuf>,
}

impl Site {
    /// The user's cluster, or a new one of `nodes` nodes. A new one ends with what is returned first.
    pub(crate) fn prepare(args: &SiteArgs, nodes: u8) -> Result<(Option<Owned>, Self)> {
        let Some(kubeconfig) = &args.kubeconfig else {
            let (owned, cluster) = Owned::up(nodes)?;
            return Ok((Some(owned), Self::of(cluster)?));
        };
        ensure!(kubeconfig.is_file(), "--kubeconfig: there is no file {}", kubeconfig.display());
        let site = Self {
            cluster: None,
            kubeconfig: std::path::absolute(kubeconfig)?,
            image_registry: args.image_registry.clone(),
            programs: folders(&[tools::kubectl()?, tools::helm()?]),
        };
        Ok((None, site))
    }

    /// A cluster of ours that is up.
    pub(crate) fn of(cluster: Cluster) -> Result<Self> {
        let kubeconfig = cluster.kubeconfig();
        let programs = folders(&[tools::kubernetes()?.join("kubectl"), tools::helm()?]);
        Ok(Self { cluster: Some(cluster), kubeconfig, image_registry: images::REPOSITORY.into(), programs })
    }

    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}:dev", self.image_registry)
    }

    /// A program in the checkout's root that finds the cluster, kubectl and helm. In a cluster of ours
    /// it runs in the network of node 1, where pods and Services have addresses.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = match &self.cluster {
            Some(cluster) => cluster.command(program),
            None => Command::new(program),
        };
        command
            .current_dir(paths::workspace())
            .env("PATH", self.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PILOTLIGHT_IMAGES", &self.image_registry)
            .env("PILOTLIGHT_TAG", "dev");
        // So that tests can disturb the machines of a cluster of ours, and never those of a user's.
        match std::env::current_exe() {
            Ok(own) if self.cluster.is_some() => command.env("PILOTLIGHT_XTASK", own),
            _ => command.env_remove("PILOTLIGHT_XTASK"),
        };
        command
    }

    /// Puts this checkout's images where the cluster finds them. A cluster of the user's gets them
    /// from its registry, or by the user's own hands.
    pub(crate) fn load(&self, archives: &[PathBuf]) -> Result<()> {
        self.cluster.as_ref().map_or(Ok(()), |cluster| cluster.load(archives))
    }

    /// The helm command line that installs this checkout.
    pub(crate) fn helm_arguments(&self) -> Vec<String> {
        let words = "upgrade --install pilotlight charts/pilotlight --namespace pilotlight --create-namespace \
                     --values charts/pilotlight/ci/embedded-values.yaml";
        let mut arguments: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        if self.image_registry != images::REPOSITORY {
            for image in ["operator", "activator", "redis"] {
                let repository = format!("images.{image}.repository={}/{image}", self.image_registry);
                arguments.extend(["--set".into(), repository]);
            }
        }
        arguments.extend(["--wait".into(), "--timeout".into(), INSTALL_TIMEOUT.into()]);
        arguments
    }

    /// Installs this checkout.
    pub(crate) fn install(&self) -> Result<()> {
        self.or_explain(run::run(self.command("helm").args(self.helm_arguments())))
    }

    /// Passes a result on. Before a failure, shows what a person would look at first.
    pub(crate) fn or_explain<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() && interrupt::check().is_ok() {
            eprintln!("{}", self.pods());
        }
        result
    }

    fn pods(&self) -> String {
        let look = |words: &str| {
            let output = run::output(self.command("kubectl").args(words.split(' ')));
            output.unwrap_or_else(|error| format!("{error:#}\n"))
        };
        format!(
            "{}{}{}",
            look("get pods -A -o wide --request-timeout=10s"),
            look("-n pilotlight get events --sort-by=.lastTimestamp --request-timeout=10s"),
            look(
                "-n pilotlight logs -l app.kubernetes.io/instance=pilotlight --prefix --tail=15 --request-timeout=10s"
            )
        )
    }

    fn path(&self) -> OsString {
        let own = std::env::var_os("PATH").unwrap_or_default();
        let folders = self.programs.iter().cloned().chain(std::env::split_paths(&own));
        // Only a folder with a colon in its name cannot be joined: then the user's PATH has to do.
        std::env::join_paths(folders).unwrap_or(own)
    }
}

fn folders(programs: &[PathBuf]) -> Vec<PathBuf> {
    programs.iter().filter_map(|program| program.parent()).map(Path::to_owned).collect()
}
