//! The images of this checkout and of the cluster's own parts, as archives in `dist/images`.

mod archive;
mod rootfs;

use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use anyhow::{Context, Result, bail};

use crate::cargo::StaticBuild;
use crate::cluster::PAUSE_IMAGE;
use crate::{paths, tools};
use archive::{Entry, Image, USER};

/// The repository prefix of everything that is built here. It names no registry, so that an image
/// that was not loaded fails at once instead of being looked for.
pub(crate) const REPOSITORY: &str = "pilotlight.local";

/// What people install: binaries of this workspace. Each image has its binary's last name.
const PROGRAMS: [Program; 6] = [
    Program { image: "operator", package: "pilotlight-operator" },
    Program { image: "activator", package: "pilotlight-activator" },
    Program { image: "hello", package: "hello" },
    Program { image: "cart", package: "cart" },
    Program { image: "users", package: "users" },
    Program { image: "slow-start", package: "slow-start" },
];

#[derive(Debug, Clone, Copy)]
struct Program {
    image: &'static str,
    /// The package, which is also its binary's name.
    package: &'static str,
}

/// The images that a bare cluster needs.
pub(crate) fn for_cluster() -> Result<Vec<PathBuf>> {
    Ok(vec![pause()?, coredns()?])
}

/// Builds the named images, or all of them.
pub(crate) fn build(names: &[String]) -> Result<Vec<PathBuf>> {
    let known: Vec<_> = PROGRAMS.iter().map(|program| program.image).chain(["redis"]).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no image {unknown}; there are {}", known.join(", "));
    }
    let wanted = |image: &str| names.is_empty() || names.iter().any(|name| name == image);
    let programs: Vec<_> = PROGRAMS.into_iter().filter(|program| wanted(program.image)).collect();
    let mut archives = Vec::new();
    if !programs.is_empty() {
        let packages: Vec<_> = programs.iter().flat_map(|program| ["--package", program.package]).collect();
        let folder = paths::workspace().join("target/images");
        let built = StaticBuild { profile: "release", codegen: &[], folder: &folder }.run(&packages)?;
        for program in &programs {
            archives.push(rust_program(program, &built.folder.join(program.package))?);
        }
    }
    if wanted("redis") {
        archives.push(redis()?);
    }
    Ok(archives)
}

fn rust_program(program: &Program, binary: &Path) -> Result<PathBuf> {
    write(program.image, &[binary], || {
        let path = format!("/{}", program.package);
        let mut entries = rootfs::base();
        entries.push(rootfs::static_program(&path, binary)?);
        Ok(Image { name: tag(program.image), entries, entrypoint: path, user: USER, folder: "/".into() })
    })
}

/// Redis as the distribution packages it.
fn redis() -> Result<PathBuf> {
    let find = |program| tools::find(program).with_context(|| format!("no {program}: install redis-server"));
    let (server, client) = (find("redis-server")?, find("redis-cli")?);
    write("redis", &[&server, &client], || {
        let mut entries = rootfs::base();
        entries.extend(rootfs::linked_programs(&[&server, &client])?);
        entries.push(Entry::folder("/data", 0o755, USER));
        let entrypoint = server.to_string_lossy().into_owned();
        Ok(Image { name: tag("redis"), entries, entrypoint, user: USER, folder: "/data".into() })
    })
}

fn coredns() -> Result<PathBuf> {
    let binary = tools::coredns()?;
    write("coredns", &[&binary], || {
        let mut entries = rootfs::base();
        entries.push(rootfs::static_program("/coredns", &binary)?);
        // Root, without any right but to take port 53: see its manifest.
        Ok(Image {
            name: tag("coredns"),
            entries,
            entrypoint: "/coredns".into(),
            user: 0,
            folder: "/".into(),
        })
    })
}

fn pause() -> Result<PathBuf> {
    let binary = tools::pause()?;
    write("pause", &[&binary], || {
        let entries = vec![rootfs::static_program("/pause", &binary)?];
        Ok(Image {
            name: PAUSE_IMAGE.into(),
            entries,
            entrypoint: "/pause".into(),
            user: USER,
            folder: "/".into(),
        })
    })
}

/// The name under which a cluster knows an image.
pub(crate) fn tag(image: &str) -> String {
    format!("{REPOSITORY}/{image}:dev")
}

/// Writes an image's archive, unless there is one newer than all that went into it, and than the
/// xtask that would write it.
fn write(name: &str, inputs: &[&Path], image: impl FnOnce() -> Result<Image>) -> Result<PathBuf> {
    let file = paths::images().join(format!("{name}.tar"));
    let own = std::env::current_exe()?;
    let newest = inputs.iter().copied().chain([own.as_path()]).map(modified).max().flatten();
    if modified(&file) > newest {
        return Ok(file);
    }
    let bytes = archive::archive(&image()?).with_context(|| format!("the image {name}"))?;
    write_whole(&file, &bytes).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// By another name first: half an archive must not look like a new one.
fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(paths::images())?;
    let unfinished = file.with_extension("tar.new");
    fs::write(&unfinished, bytes)?;
    fs::rename(unfinished, file)
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|data| data.modified()).ok()
}
