//! The results as Markdown, for people and for docs/benchmarks.md.

use std::fmt::Write as _;

use anyhow::Result;

use super::driver::{Order, Outcome};
use super::loads::{Figure, Load};
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

const BARS: [Bar; 4] = [
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

fn exchanges(text: &mut String, results: &Results, load: Load) -> std::fmt::Result {
    writeln!(text, "| | per second | to HAProxy | CPU, µs each | to HAProxy | core busy |")?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- |")?;
    for peer in results.peers(load) {
        let median = |number: fn(&Outcome) -> f64| results.median(load, peer, number);
        let rate = |outcome: &Outcome| outcome.per_second;
        let (name, per_second, rates) = (peer.name(), median(rate), results.to_haproxy(load, peer, rate));
        if peer == Peer::Direct {
            writeln!(text, "| {name} | {per_second:.0} | {rates} | | | |")?;
            continue;
        }
        let cpu = |outcome: &Outcome| outcome.cpu_micros;
        let (micros, cpus, busy) =
            (median(cpu), results.to_haproxy(load, peer, cpu), 100.0 * median(|outcome| outcome.busy));
        writeln!(text, "| {name} | {per_second:.0} | {rates} | {micros:.1} | {cpus} | {busy:.0} % |")?;
    }
    Ok(())
}

fn latencies(text: &mut String, results: &Results, load: Load) -> std::fmt::Result {
    writeln!(text, "| | p50, µs | added | to HAProxy's | p99, µs | added | to HAProxy's | CPU, µs each |")?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for peer in results.peers(load) {
        write!(text, "| {} |", peer.name())?;
        for number in [|outcome: &Outcome| outcome.p50_micros, |outcome: &Outcome| outcome.p99_micros] {
            write!(text, " {:.0} |", results.median(load, peer, number))?;
            if peer == Peer::Direct {
                write!(text, " | |")?;
                continue;
            }
            let added = Spread::of(results.added(load, peer, number)).median;
            write!(text, " {added:.0} | {} |", results.added_to_haproxy(load, peer, number))?;
        }
        match peer {
            Peer::Direct => writeln!(text, " |")?,
            peer => writeln!(text, " {:.1} |", results.median(load, peer, |outcome| outcome.cpu_micros))?,
        }
    }
    Ok(())
}

fn bytes(text: &mut String, results: &Results, load: Load) -> std::fmt::Result {
    writeln!(text, "| | MiB per second | to HAProxy | CPU, µs per MiB | to HAProxy |")?;
    writeln!(text, "| --- | --- | --- | --- | --- |")?;
    for peer in results.peers(load) {
        let (name, rate) = (peer.name(), results.median(load, peer, Outcome::mebibytes_per_second));
        let rates = results.to_haproxy(load, peer, Outcome::mebibytes_per_second);
        if peer == Peer::Direct {
            writeln!(text, "| {name} | {rate:.0} | {rates} | | |")?;
            continue;
        }
        let cpu = |outcome: &Outcome| outcome.cpu_micros_per_mib;
        let (micros, cpus) = (results.median(load, peer, cpu), results.to_haproxy(load, peer, cpu));
        writeln!(text, "| {name} | {rate:.0} | {rates} | {micros:.0} | {cpus} |")?;
    }
    Ok(())
}

fn memory(text: &mut String, results: &Results, load: Load) -> std::fmt::Result {
    writeln!(text, "| | KiB per connection |")?;
    writeln!(text, "| --- | --- |")?;
    for peer in results.peers(load) {
        // In later rounds memory of earlier ones is used again.
        let most = Spread::of(results.each(load, peer, |outcome| outcome.memory)).high;
        writeln!(text, "| {} | {:.1} |", peer.name(), most / 1024.0)?;
    }
    Ok(())
}

/// Writes the tables into docs/benchmarks.md.
pub(super) fn write(tables: &str) -> Result<()> {
    docs::write("docs/benchmarks.md", "cargo xtask bench proxy", tables)
}

#[cfg(test)]
mod tests {
    use super::*;

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
