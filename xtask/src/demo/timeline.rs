//! A cold start, phase by phase, as a person reads it.

use std::fmt::Write as _;

use serde_json::Value;

/// The phases in the order in which they happen: the name in the status, and what it means.
const PHASES: [(&str, &str); 6] = [
    ("scaled", "the API server has taken the new scale"),
    ("podCreated", "the pod exists"),
    ("scheduled", "it has a node"),
    ("addressKnown", "it has an address"),
    ("portAnswers", "it answers on its port"),
    ("firstByte", "the first byte of the response"),
];

/// Columns of the widest bar.
const WIDTH: f64 = 40.0;

/// A table of `status.lastColdStart`.
pub(super) fn render(cold_start: &Value) -> String {
    let at = |phase: &str| cold_start["milliseconds"][phase].as_f64();
    let end = PHASES.iter().filter_map(|(phase, _)| at(phase)).fold(0.0, f64::max);
    let mut table = String::from("    0.0 ms  the request is held\n");
    let mut before = 0.0;
    for (phase, meaning) in PHASES {
        let Some(milliseconds) = at(phase) else { continue };
        let (indent, length) = (columns(before, end), columns(milliseconds, end));
        let bar = format!("{}{}", " ".repeat(indent), "-".repeat(length.saturating_sub(indent)));
        let _ = writeln!(table, "{milliseconds:>7.1} ms  {meaning:<39} {bar}");
        before = milliseconds;
    }
    table
}

fn columns(milliseconds: f64, end: f64) -> usize {
    if end <= 0.0 {
        return 0;
    }
    // At most WIDTH, so the conversion is exact.
    (milliseconds / end * WIDTH).round() as usize
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bars_follow_each_other() {
        let table =
            render(&json!({ "milliseconds": { "scaled": 5.0, "podCreated": 20.0, "firstByte": 200.0 } }));
        let bars: Vec<_> = table.lines().skip(1).map(|line| line[52..].to_owned()).collect();
        assert_eq!(bars, ["-".to_owned(), format!(" {}", "-".repeat(3)), format!("    {}", "-".repeat(36))]);
    }

    #[test]
    fn phases_that_are_not_known_are_left_out() {
        let table = render(&json!({ "milliseconds": { "firstByte": 12.0 } }));
        assert_eq!(table.lines().count(), 2);
        assert_eq!(render(&Value::Null).lines().count(), 1);
    }
}
