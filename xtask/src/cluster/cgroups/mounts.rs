//! The list of mounts that the kernel shows a process.

use std::path::PathBuf;

/// Mount point and file system options of each mount of one type.
pub(super) fn of_type<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = (PathBuf, &'a str)> {
    mountinfo.lines().filter_map(move |line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = filesystem.split(' ');
        (fields.next() == Some(kind)).then_some(())?;
        Some((PathBuf::from(mount.split(' ').nth(4)?), fields.nth(1)?))
    })
}
