//! Code that is arranged by how often it ran when the [profile](paths::profile) was made, as the images' is
//! ([docs/adr/0009](../../../docs/adr/0009-profile-guided.md)).
//!
//! The profile knows functions by names that carry a number of their crate, which is another one with other features, of
//! another version, or with dependencies of which that is so. The compiler goes without where it finds nothing, and says
//! nothing. So what it has built is looked at.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cargo::{Built, StaticBuild, about_rustc};
use crate::paths;

/// The compiler that the profile was made with.
const COMPILER: &str = env!("CARGO_PKG_RUST_VERSION");
/// Behind the name and the number of a crate, where a part of it is named: those that the compiler made of one crate.
const UNIT: &[u8] = b"-cgu.";
/// Hexadecimal digits of a crate's number.
const NUMBER: usize = 16;

/// Builds what cargo's arguments choose, by the profile, in a folder of its own.
///
/// # Errors
/// If the build fails, or if there are crates that the profile is not for.
pub(crate) fn build(folder: &Path, what: &[&str]) -> Result<Built> {
    let version = about_rustc("release")?;
    if !version.strip_prefix(COMPILER).is_some_and(|rest| rest.starts_with('.')) {
        eprintln!("built without its profile, which is for rustc {COMPILER}: this is rustc {version}");
        return StaticBuild { profile: "dist", codegen: &[], folder }.run(what);
    }
    let profile = paths::profile();
    let codegen = [format!("profile-use={}", profile.display())];
    let built = StaticBuild { profile: "dist", codegen: &codegen, folder }.run(what)?;
    let recorded = crates(&read(&profile)?);
    let mut compiled = BTreeSet::new();
    for library in &built.libraries {
        compiled.extend(crates(&read(library)?));
    }
    let others = others(&recorded, &compiled).join(", ");
    ensure!(
        others.is_empty(),
        "{} is for others of these crates: {others}. `cargo xtask profile` makes it anew",
        profile.display()
    );
    Ok(built)
}

/// Crates that were compiled, and of which the profile has only others of the same name.
fn others(recorded: &BTreeSet<Crate>, compiled: &BTreeSet<Crate>) -> Vec<String> {
    let named = |crates: &BTreeSet<Crate>, name: &str| crates.iter().any(|other| other.name == name);
    let missed = |it: &&Crate| named(compiled, &it.name) && !compiled.contains(*it);
    recorded.iter().filter(missed).map(|it| it.name.clone()).collect()
}

/// A crate as the compiler tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    number: String,
}

/// The crates whose parts are named in a profile or in a library: `h2.f3e8d6546cd9c594-cgu.0`.
fn crates(bytes: &[u8]) -> BTreeSet<Crate> {
    memchr::memmem::find_iter(bytes, UNIT).filter_map(|end| crate_before(&bytes[..end])).collect()
}

/// The crate that bytes end with.
fn crate_before(bytes: &[u8]) -> Option<Crate> {
    let (rest, number) = bytes.split_last_chunk::<NUMBER>()?;
    let (dot, rest) = rest.split_last()?;
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let name = &rest[rest.iter().rposition(|byte| !is_name(byte)).map_or(0, |at| at + 1)..];
    let fits = *dot == b'.' && !name.is_empty() && number.iter().all(u8::is_ascii_hexdigit);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fits.then(|| Crate { name: text(name), number: text(number) })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
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

    /// As it names them: otherwise nothing would ever be missed.
    #[test]
    fn the_profile_names_its_crates() {
        let recorded = crates(&read(&paths::profile()).unwrap());
        for name in ["h2", "hyper", "pilotlight_activator", "tokio"] {
            assert!(recorded.iter().any(|it| it.name == name), "{name}: {recorded:?}");
        }
    }

    #[test]
    fn a_crate_with_other_features_is_another() {
        let recorded =
            crates(b"\x08h2.f3e8d6546cd9c594-cgu.0;_ZN2h2 standalone.594a584d0556b3fc-cgu.0;_ZN4core");
        assert_eq!(recorded.len(), 2, "{recorded:?}");
        let compiled = |library: &[u8]| others(&recorded, &crates(library));
        assert!(compiled(b"h2-27211.h2.f3e8d6546cd9c594-cgu.0.rcgu.o/").is_empty());
        assert_eq!(compiled(b"h2-de377.h2.a07822d07fdc7f89-cgu.0.rcgu.o/"), ["h2"]);
        assert!(crates(b"-cgu.0 h2.f3e8d6546cd9c59g-cgu.0 .f3e8d6546cd9c594-cgu.0").is_empty());
    }
}
