//! What the cluster's components wrote.

use std::fs;
use std::path::Path;

/// Enough to see the error and what led to it.
const LINES: usize = 20;

/// The last lines of a log, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!("--- the end of {}:\n{}", log.display(), last.join("\n"))
}

/// The components that have a log in this folder.
pub(crate) fn components(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().to_string_lossy().strip_suffix(".log").map(str::to_owned))
        .collect();
    names.sort();
    names
}
