//! What a process and its children use, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};

/// CPU time so far, in user and kernel mode, of all threads.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanos = 0;
    for process in family(pid) {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).context("the measured process is gone")?;
        for task in tasks {
            // A thread may end between the listing and the look.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            nanos += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(nanos as f64 / 1e9)
}

/// Memory: its own, and its share of what it has in common with others, in bytes.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let mut bytes = 0;
    for process in family(pid) {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        bytes += line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024;
    }
    Ok(bytes)
}

fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_what_it_uses() {
        let own = std::process::id();
        let before = cpu_seconds(own).unwrap();
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 30 {}
        let used = cpu_seconds(own).unwrap() - before;
        assert!(used > 0.0, "{used}");
        assert!(memory(own).unwrap() > 100_000);
    }
}
