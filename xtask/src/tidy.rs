//! House rules that neither the compiler nor clippy checks. `cargo xtask tidy` names every place
//! that breaks one.

mod rules;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, run};
use rules::{Breach, Source};

/// Files that decide and nothing else: same input, same output. No clock, no client, no runtime, no
/// chance. Every one of them must exist, so that a file that moves does not lose its guard.
const PURE: &[&str] = &[
    "activator/src/autoscaler/decide.rs",
    "activator/src/autoscaler/policy.rs",
    "activator/src/autoscaler/window.rs",
    "activator/src/function/growth.rs",
    "activator/src/function/role.rs",
    "activator/src/peer/leases.rs",
    "activator/src/peer/ledger.rs",
    "activator/src/peer/members.rs",
    "activator/src/peer/note.rs",
    "activator/src/peer/owner.rs",
    "activator/src/proxy/client/frames.rs",
    "activator/src/proxy/client/framing.rs",
    "activator/src/proxy/client/framing/chunked.rs",
    "activator/src/proxy/client/framing/grammar.rs",
    "activator/src/proxy/client/framing/head.rs",
    "activator/src/proxy/client/rate.rs",
    "activator/src/proxy/headers.rs",
    "activator/src/proxy/host.rs",
    "activator/src/proxy/path.rs",
    "activator/src/proxy/respond.rs",
    "activator/src/proxy/strict.rs",
    "activator/src/proxy/tunnel/frames.rs",
    "activator/src/slots.rs",
    "activator/src/slots/line.rs",
    "activator/src/slots/overload.rs",
    "operator/src/function/build.rs",
    "operator/src/function/build/deployment.rs",
    "operator/src/function/build/secret.rs",
    "operator/src/function/build/service.rs",
    "operator/src/function/build/warnings.rs",
    "operator/src/function/drift.rs",
    "operator/src/function/revisions.rs",
    "operator/src/function/validate.rs",
];

/// Checks everything that git knows or would add.
pub(crate) fn check() -> Result<()> {
    let files = files()?;
    let mut breaches = missing_pure_files(&files);
    for file in &files {
        // A name that git lists may be deleted, and not every file is text.
        let Ok(text) = fs::read_to_string(paths::workspace().join(file)) else { continue };
        breaches.extend(rules::check(&Source { file, text: &text, pure: PURE.contains(&file.as_str()) }));
    }
    if !breaches.is_empty() {
        let lines: Vec<_> = breaches.iter().map(Breach::to_string).collect();
        bail!("{} untidy places:\n{}", lines.len(), lines.join("\n"));
    }
    Ok(())
}

fn missing_pure_files(files: &[String]) -> Vec<Breach> {
    let missing = PURE.iter().filter(|pure| !files.iter().any(|file| file == *pure));
    missing
        .map(|file| Breach {
            file: (*file).into(),
            line: 1,
            rule: "is on tidy's list of pure files, but gone".into(),
        })
        .collect()
}

fn files() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(paths::workspace()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let list = run::output(&mut git).context("asking git for the files")?;
    Ok(list.lines().map(str::to_owned).collect())
}
