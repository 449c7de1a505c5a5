//! Tables that measurements write into pages under `docs/`, between two lines.

use std::fs;

use anyhow::{Context, Result};

use crate::paths;

const END: &str = "<!-- end -->";

/// Puts `tables` where `command` wrote them before.
pub(super) fn write(page: &str, command: &str, tables: &str) -> Result<()> {
    let begin = format!("<!-- written by `{command}` -->");
    let file = paths::workspace().join(page);
    let text = fs::read_to_string(&file)?;
    let (before, rest) = text.split_once(&begin).with_context(|| format!("{page}: no line {begin}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{page}: no line {END}"))?;
    fs::write(&file, format!("{before}{begin}\n{}\n{END}{after}", tables.trim_end()))?;
    eprintln!("written to {page}");
    Ok(())
}
