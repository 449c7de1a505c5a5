//! Programs that cargo builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{paths, run};

/// Linked with everything that they need.
const STATIC: &str = "target-feature=+crt-static";

/// A build of static programs.
#[derive(Debug)]
pub(crate) struct StaticBuild<'a> {
    /// Cargo's profile.
    pub(crate) profile: &'a str,
    /// What the compiler is told besides: options of `-C`.
    pub(crate) codegen: &'a [String],
    /// A folder of its own: with other options nothing in it is of use to an ordinary build, and an ordinary build
    /// never waits for this one's lock.
    pub(crate) folder: &'a Path,
}

impl StaticBuild<'_> {
    /// Builds what cargo's arguments choose.
    pub(crate) fn run(&self, what: &[&str]) -> Result<Built> {
        let target = about_rustc("host")?;
        let options = [STATIC].into_iter().chain(self.codegen.iter().map(String::as_str));
        let flags: Vec<_> = options.map(|option| format!("-C{option}")).collect();
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(paths::workspace())
            .args(["build", "--quiet", "--message-format", "json-render-diagnostics"])
            .args(["--profile", self.profile, "--target", &target, "--target-dir"])
            .arg(self.folder)
            // With a target named, these flags reach the programs but not build scripts and macros, which cannot
            // be static.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        let messages = run::printed(cargo.args(what))?;
        Ok(Built { folder: self.folder.join(target).join(self.profile), libraries: libraries(&messages) })
    }
}

/// What was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// Where the programs are.
    pub(crate) folder: PathBuf,
    /// The libraries of all crates in them.
    pub(crate) libraries: Vec<PathBuf>,
}

/// One line of `rustc -vV`.
pub(crate) fn about_rustc(what: &str) -> Result<String> {
    let version = run::output(Command::new("rustc").arg("-vV"))?;
    let mut lines = version.lines().filter_map(|line| line.split_once(": "));
    let (_, told) =
        lines.find(|(name, _)| *name == what).with_context(|| format!("`rustc -vV` says no {what}"))?;
    Ok(told.to_owned())
}

/// The program of a target that cargo's messages name.
pub(crate) fn executable(text: &str, target: &str) -> Option<PathBuf> {
    messages(text)
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

/// The libraries that cargo's messages name.
fn libraries(text: &str) -> Vec<PathBuf> {
    let files = messages(text).flat_map(|message| match &message["filenames"] {
        Value::Array(files) => files.clone(),
        _ => Vec::new(),
    });
    files.filter_map(|file| file.as_str().filter(|file| file.ends_with(".rlib")).map(PathBuf::from)).collect()
}

fn messages(text: &str) -> impl Iterator<Item = Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_found_among_cargos_messages() {
        let messages = r#"{"target":{"name":"pilotlight_tests"},"profile":{"test":false},"executable":null}
{"target":{"name":"e2e"},"profile":{"test":true},"executable":"/target/e2e-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "e2e"), Some("/target/e2e-1".into()));
        assert_eq!(executable("no json", "e2e"), None);
    }

    #[test]
    fn libraries_are_found_among_cargos_messages() {
        let messages = r#"{"filenames":["/target/libh2.rlib","/target/libh2.rmeta"]}
{"reason":"build-finished"}"#;
        assert_eq!(libraries(messages), [PathBuf::from("/target/libh2.rlib")]);
    }
}
