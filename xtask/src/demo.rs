//! `cargo xtask demo`: from nothing to a function's first answer, growth, and back to zero. Every
//! command is shown as a user would type it.

mod forward;
mod timeline;

use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use crate::site::{Site, SiteArgs};
use crate::{images, paths, run};
use forward::{Forward, port};

const MANIFEST: &str = "functions/hello/function.yaml";
const HOST: &str = "hello.example.com";

/// Between the last request and zero: the idle time set below, the window of the averages, and the
/// end of the pods.
const TO_ZERO: Duration = Duration::from_secs(180);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Leave the cluster up, to look around
    #[arg(long)]
    keep: bool,
}

/// Shows what Pilotlight does.
pub(crate) fn demo(args: &DemoArgs) -> Result<()> {
    let load = load_generator()?;
    let archives = if args.site.kubeconfig.is_none() { images::build(&[])? } else { Vec::new() };
    let (owned, site) = Site::prepare(&args.site, 1)?;
    site.load(&archives)?;
    let demo = Demo { site };
    demo.install()?;
    let _forward = Forward::start(&demo.site)?;
    demo.cold_start()?;
    demo.growth(&load)?;
    demo.back_to_zero()?;
    if let (true, Some(owned)) = (args.keep, owned) {
        owned.keep();
        say("The cluster stays up until `cargo xtask cluster down`:");
        println!("export KUBECONFIG={}", demo.site.kubeconfig().display());
        println!("curl -H 'Host: {HOST}' http://127.0.0.1:{}/", port());
    }
    Ok(())
}

struct Demo {
    site: Site,
}

impl Demo {
    fn install(&self) -> Result<()> {
        say("Install Pilotlight: an operator, an activator, a Redis.");
        self.site.or_explain(self.show("helm", &self.site.helm_arguments()))?;
        say("Give it a function, and see that nothing runs for it.");
        self.apply()?;
        self.kubectl("wait fn/hello --for=condition=Ready --timeout=60s")?;
        // The default is a minute, which is long to watch.
        self.show(
            "kubectl",
            &words(r#"patch fn/hello --type=merge -p {"spec":{"scaling":{"idleAfter":"10s"}}}"#),
        )?;
        self.kubectl("get fn,pods")
    }

    /// The manifest as it is, or with the user's registry in the place of ours.
    fn apply(&self) -> Result<()> {
        let ours = images::tag("hello");
        if self.site.image("hello") == ours {
            return self.kubectl(&format!("apply -f {MANIFEST}"));
        }
        let text = std::fs::read_to_string(paths::workspace().join(MANIFEST))?;
        println!("$ sed 's#{ours}#{}#' {MANIFEST} | kubectl apply -f -", self.site.image("hello"));
        let text = text.replace(&ours, &self.site.image("hello"));
        let mut kubectl = self.site.command("kubectl");
        print!("{}", run::feed(kubectl.args(["apply", "-f", "-"]), text.as_bytes())?);
        Ok(())
    }

    fn cold_start(&self) -> Result<()> {
        say("Call it. There is no pod: the request is held until there is one.");
        let url = format!("http://127.0.0.1:{}/", port());
        let host = format!("Host: {HOST}");
        // curl reads the line break itself: shown as typed, it stays on one line.
        let summary = "%{http_code} after %{time_total} s\\n";
        let arguments = ["--silent", "--show-error", "--max-time", "60", "-w", summary, "-H", &host, &url];
        show_local("curl", &arguments.map(str::to_owned))?;
        say("Where the time went:");
        let mut status = Value::Null;
        run::wait_until("the cold start is in the status", Duration::from_secs(15), || {
            status = self.status()?;
            Ok(!status["lastColdStart"].is_null())
        })?;
        print!("{}", timeline::render(&status["lastColdStart"]));
        Ok(())
    }

    fn growth(&self, load: &str) -> Result<()> {
        say("Put load on it: 300 requests a second that take 300 ms each, for 15 s.");
        let watch = self.watch()?;
        let url = format!("http://127.0.0.1:{}", port());
        let words = format!("--url {url} --host {HOST} --path /sleep?ms=300 --rps 300 --seconds 15");
        let loaded = show_as("pilotlight-load", Command::new(load).args(words.split(' ')));
        drop(watch);
        loaded?;
        self.kubectl("get fn,pods")
    }

    fn back_to_zero(&self) -> Result<()> {
        say("Leave it alone. It goes back to zero.");
        let watch = self.watch()?;
        let zero = run::wait_until("hello is at zero", TO_ZERO, || {
            let replicas = &self.status()?["replicas"];
            Ok(replicas["desired"] == 0 && replicas["ready"] == 0)
        });
        drop(watch);
        zero?;
        self.kubectl("get fn,pods")
    }

    fn status(&self) -> Result<Value> {
        let mut kubectl = self.site.command("kubectl");
        let text = run::output(kubectl.args(["get", "fn/hello", "-o", "json", "--request-timeout=10s"]))?;
        let mut function: Value = serde_json::from_str(&text)?;
        Ok(function["status"].take())
    }

    /// Shows changes of the function until dropped.
    fn watch(&self) -> Result<Ended> {
        println!("$ kubectl get fn hello --watch &");
        let mut kubectl = self.site.command("kubectl");
        Ok(Ended(kubectl.args(["get", "fn", "hello", "--watch"]).spawn()?))
    }

    fn kubectl(&self, arguments: &str) -> Result<()> {
        self.show("kubectl", &words(arguments))
    }

    fn show(&self, program: &str, arguments: &[String]) -> Result<()> {
        println!("$ {}", run::line(Command::new(program).args(arguments)));
        run::run(self.site.command(program).args(arguments))
    }
}

/// A child that ends when its time is over, whatever happens meanwhile.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn say(text: &str) {
    println!("\n# {text}");
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn show_local(program: &str, arguments: &[String]) -> Result<()> {
    show_as(program, Command::new(program).args(arguments))
}

/// Runs a command and shows it under a shorter name.
fn show_as(name: &str, command: &mut Command) -> Result<()> {
    println!("$ {}", run::line(Command::new(name).args(command.get_args())));
    run::run(command)
}

/// Builds the load generator.
fn load_generator() -> Result<String> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::workspace()).args(["build", "--quiet", "--package", "pilotlight-tests"]);
    run::run(cargo.args(["--bin", "pilotlight-load"]))?;
    let program = paths::workspace().join("target/debug/pilotlight-load");
    if !program.is_file() {
        bail!("cargo built no {}", program.display());
    }
    Ok(program.to_string_lossy().into_owned())
}
