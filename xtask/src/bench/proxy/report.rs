//! The results as Markdown, for people and for docs/benchmarks.md.

use std::fmt::Write as _;
use std::iter::repeat;

use anyhow::Result;

use super::driver::Outcome;
use super::loads::{Figure, Load, Order};
use super::peers::Peer;
use super::results::{Results, Spread};
use crate::bench::docs;

/// What Pilotlight has to reach, as a ratio to HAProxy.
struct Bar {
    what: &'static str,
    ratio: fn(&Results) -> Spread,
    limit: f64,
    /// Whether more is worse.
    at_most: bool,
}

const BARS: [Bar; 5] = [
    Bar {
        what: "CPU time per request",
        ratio: |results| results.to_haproxy(Load::Small, Peer::Pilotlight, |outcome| outcome.cpu_micros),
        limit: 1.1,
        at_most: true,
    },
    Bar {
        what: "requests per second on one core",
        ratio: |results| results.to_haproxy(Load::Small, Peer::Pilotlight, |outcome| outcome.per_second),
        limit: 0.9,
        at_most: false,
    },
    Bar {
        what: "CPU time per request, HTTP/2 in front",
        ratio: |results| results.to_haproxy(Load::Http2, Peer::Pilotlight, |outcome| outcome.cpu_micros),
        limit: 1.1,
        at_most: true,
    },
    Bar {
        what: "p50 added at half load",
        ratio: |results| results.added_to_haproxy(Load::Half, Peer::Pilotlight, |outcome| outcome.p50_micros),
        limit: 1.3,
        at_most: true,
    },
    Bar {
        what: "p99 added at half load",
        ratio: |results| results.added_to_haproxy(Load::Half, Peer::Pilotlight, |outcome| outcome.p99_micros),
        limit: 1.3,
        at_most: true,
    },
];

/// All tables.
pub(super) fn markdown(results: &Results, versions: &str, order: Order) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut text, results, versions, order);
    text
}

fn write_all(text: &mut String, results: &Results, versions: &str, order: Order) -> std::fmt::Result {
    writeln!(text, "Beside {versions}. Half load was {:.0} requests per second.\n", order.per_second)?;
    writeln!(text, "| Pilotlight to HAProxy | ratio | bar | |")?;
    writeln!(text, "| --- | --- | --- | --- |")?;
    for Bar { what, ratio, limit, at_most } in BARS {
        let ratio = ratio(results);
        if ratio.median.is_nan() {
            // Its load was not chosen.
            continue;
        }
        let sign = if at_most { "≤" } else { "≥" };
        writeln!(text, "| {what} | {ratio} | {sign} {limit} | {} |", verdict(ratio, limit, at_most))?;
    }
    for load in results.loads() {
        writeln!(text, "\n### {}\n", load.title())?;
        match load.figure() {
            Figure::Exchanges => exchanges(text, results, load)?,
            Figure::Latency => latencies(text, results, load)?,
            Figure::Bytes => bytes(text, results, load)?,
            Figure::Memory => memory(text, results, load)?,
        }
    }
    Ok(())
}

/// What is said of a bar.
fn verdict(ratio: Spread, limit: f64, at_most: bool) -> &'static str {
    let met = if at_most { ratio.median <= limit } else { ratio.median >= limit };
    match met {
        // No proxy makes anything quicker: then the rest of the machine was in the way.
        _ if ratio.low <= 0.0 => "not to be told",
        true => "met",
        false => "missed",
    }
}

/// A table with a row for each peer. Cells that a row does not have are empty.
fn table(
    text: &mut String,
    peers: &[Peer],
    columns: &[&str],
    cells: impl Fn(Peer) -> Vec<String>,
) -> std::fmt::Result {
    writeln!(text, "| | {} |", columns.join(" | "))?;
    writeln!(text, "| ---{} |", " | ---".repeat(columns.len()))?;
    for peer in peers {
        let cells = cells(*peer).into_iter().chain(repeat(String::new())).take(columns.len());
        let row: String =
            cells.map(|cell| if cell.is_empty() { " |".into() } else { format!(" {cell} |") }).collect();
        writeln!(text, "| {} |{row}", peer.name())?;
    }
    Ok(())
}

/// The median of a number, and its ratio to HAProxy's.
fn beside_haproxy(
    results: &Results,
    load: Load,
    peer: Peer,
    number: fn(&Outcome) -> f64,
    digits: usize,
) -> [String; 2] {
    let median = results.median(load, peer, number);
    [format!("{median:.digits$}"), results.to_haproxy(load, peer, number).to_string()]
}

fn exchanges(text: &mut String, results: &Results, load: Load) -> std::fmt::Result {
    let columns = ["per second", "to HAProxy", "CPU, µs each", "to HAProxy", "core busy"];
    table(text, &results.peers(load), &columns, |peer| {
        let mut cells = beside_haproxy(results, load, peer, |outcome| outcome.per_second, 0).to_vec();
        if peer != Peer::Direct {
            cells.extend(beside_haproxy(results, load, peer, |outcome| outcome.cpu_micros, 1));
            cells.push(format!("{:.0} %", 100.0 * results.median(load, peer, |outcome| outcome.busy)));
        }
        cells
    })
}

fn latencies(text: &mut String, results: &Results, load: Load) -> std::fmt::Result {
    let columns = ["p50, µs", "added", "to HAProxy's", "p99, µs", "added", "to HAProxy's", "CPU, µs each"];
    table(text, &results.peers(load), &columns, |peer| {
        let mut cells = Vec::new();
        for number in [|outcome: &Outcome| outcome.p50_micros, |outcome: &Outcome| outcome.p99_micros] {
            cells.push(format!("{:.0}", results.median(load, peer, number)));
            let added = Spread::of(results.added(load, peer, number)).median;
            let added = [format!("{added:.0}"), results.added_to_haproxy(load, peer, number).to_string()];
            cells.extend(if peer == Peer::Direct { Default::default() } else { added });
        }
        if peer != Peer::Direct {
            cells.push(format!("{:.1}", results.median(load, peer, |outcome| outcome.cpu_micros)));
        }
        cells
    })
}

fn bytes(text: &mut String, results: &Results, load: Load) -> std::fmt::Result {
    let columns = ["MiB per second", "to HAProxy", "CPU, µs per MiB", "to HAProxy"];
    table(text, &results.peers(load), &columns, |peer| {
        let mut cells = beside_haproxy(results, load, peer, Outcome::mebibytes_per_second, 0).to_vec();
        if peer != Peer::Direct {
            cells.extend(beside_haproxy(results, load, peer, |outcome| outcome.cpu_micros_per_mib, 0));
        }
        cells
    })
}

fn memory(text: &mut String, results: &Results, load: Load) -> std::fmt::Result {
    table(text, &results.peers(load), &["KiB per connection"], |peer| {
        // In later rounds memory of earlier ones is used again.
        let most = Spread::of(results.each(load, peer, |outcome| outcome.memory)).high;
        vec![format!("{:.1}", most / 1024.0)]
    })
}

/// Writes the tables into docs/benchmarks.md.
pub(super) fn write(tables: &str) -> Result<()> {
    docs::write("docs/benchmarks.md", "cargo xtask bench proxy", tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_all_cells() {
        let cells = |peer| match peer {
            Peer::Direct => vec!["7".to_owned()],
            _ => vec![String::new(), "8".to_owned()],
        };
        let mut text = String::new();
        table(&mut text, &[Peer::Direct, Peer::Haproxy], &["a", "b"], cells).unwrap();
        let (direct, haproxy) = (Peer::Direct.name(), Peer::Haproxy.name());
        let rows = format!("| {direct} | 7 | |\n| {haproxy} | | 8 |\n");
        assert_eq!(text, format!("| | a | b |\n| --- | --- | --- |\n{rows}"));
    }

    #[test]
    fn what_noise_has_made_negative_meets_no_bar() {
        let rows = [
            ([0.9, 1.0, 1.2], true, "met"),
            ([1.0, 1.2, 1.3], true, "missed"),
            ([1.0, 1.2, 1.3], false, "met"),
            ([0.7, 0.8, 1.3], false, "missed"),
            ([-3.6, 0.2, 0.8], true, "not to be told"),
        ];
        for (rounds, at_most, expected) in rows {
            assert_eq!(verdict(Spread::of(rounds), 1.1, at_most), expected, "{rounds:?}");
        }
    }
}
