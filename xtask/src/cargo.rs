//! Programs that cargo builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{paths, run};

/// Linked with everything that they need.
const STATIC: &str = "target-feature=+crt-static";
/// The compiler that the [profile](paths::profile) was made with.
const COMPILER: &str = env!("CARGO_PKG_RUST_VERSION");

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
    /// Builds what cargo's arguments choose. The programs are then in the folder that it returns.
    pub(crate) fn run(&self, what: &[&str]) -> Result<PathBuf> {
        let target = about_rustc("host")?;
        let options = [STATIC].into_iter().chain(self.codegen.iter().map(String::as_str));
        let flags: Vec<_> = options.map(|option| format!("-C{option}")).collect();
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(paths::workspace())
            .args(["build", "--quiet", "--profile", self.profile, "--target", &target, "--target-dir"])
            .arg(self.folder)
            // With a target named, these flags reach the programs but not build scripts and macros, which cannot
            // be static.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        run::run(cargo.args(what))?;
        Ok(self.folder.join(target).join(self.profile))
    }
}

/// Has the compiler arrange code by how often it ran when the [profile](paths::profile) was made, as the images'
/// are. Nothing for another compiler: it has other names for the same functions.
pub(crate) fn guided() -> Result<Vec<String>> {
    let version = about_rustc("release")?;
    if version.strip_prefix(COMPILER).is_some_and(|rest| rest.starts_with('.')) {
        return Ok(vec![format!("profile-use={}", paths::profile().display())]);
    }
    eprintln!("built without its profile, which is for rustc {COMPILER}: this is rustc {version}");
    Ok(Vec::new())
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
pub(crate) fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Another compiler has other names for the same functions.
    #[test]
    fn the_profile_is_for_the_compiler_that_the_images_are_built_with() {
        let profile = paths::profile();
        assert!(profile.is_file(), "`cargo xtask profile` makes {}", profile.display());
        let dockerfile = fs::read_to_string(paths::workspace().join("Dockerfile")).unwrap();
        let name = profile.file_name().unwrap().to_str().unwrap();
        assert!(dockerfile.contains(&format!("profile-use=/src/activator/{name}")), "{name}");
        assert!(dockerfile.contains(&format!("FROM rust:{COMPILER} ")), "{COMPILER}");
    }

    #[test]
    fn the_test_program_is_found_among_cargos_messages() {
        let messages = r#"{"target":{"name":"pilotlight_tests"},"profile":{"test":false},"executable":null}
{"target":{"name":"e2e"},"profile":{"test":true},"executable":"/target/e2e-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "e2e"), Some("/target/e2e-1".into()));
        assert_eq!(executable("no json", "e2e"), None);
    }
}
