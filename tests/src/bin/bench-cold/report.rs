//! The results as Markdown.

use std::fmt::Write;

use pilotlight_crds::ColdStartPhases;

use crate::{many::Many, memory::Memory, numbers::Numbers, starts::Starts};

/// All results.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) starts: Starts,
    pub(crate) many: Many,
    /// Memory without any Function.
    pub(crate) empty: Vec<Memory>,
}

type Phase = (&'static str, fn(&ColdStartPhases) -> Option<f64>);

const PHASES: [Phase; 6] = [
    ("scaled: the API server accepted the order", |phases| phases.scaled),
    ("pod created", |phases| phases.pod_created),
    ("scheduled", |phases| phases.scheduled),
    ("address known", |phases| phases.address_known),
    ("port answers", |phases| phases.port_answers),
    ("first byte", |phases| phases.first_byte),
];

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        self.write_starts(text)?;
        self.write_phases(text)?;
        self.write_many(text)
    }

    fn write_starts(&self, text: &mut String) -> std::fmt::Result {
        let all = |times: &[f64]| Numbers::new(times.iter().copied());
        let [function, lean, default] =
            [all(&self.starts.function), all(&self.starts.lean), all(&self.starts.default)];
        let floor = lean.percentile(50.0);
        writeln!(text, "## Cold start: from nothing to the first byte\n")?;
        writeln!(text, "Milliseconds; the three in turn, each with no other pod running or ending.\n")?;
        writeln!(text, "| way | n | min | p50 | p95 | max | p50 against lean |")?;
        writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for (way, numbers) in [
            ("Pilotlight: request at zero, through the activator", &function),
            ("lean Deployment: replicas patched by hand, pod IP watched, GET every 5 ms", &lean),
            ("default Deployment: token volume, readiness probe of 1 s, GET once Ready", &default),
        ] {
            let at = |percent| numbers.percentile(percent);
            let (count, against) = (numbers.count(), at(50.0) / floor);
            let [min, p50, p95, max] = [0.0, 50.0, 95.0, 100.0].map(at);
            writeln!(text, "| {way} | {count} | {min:.0} | {p50:.0} | {p95:.0} | {max:.0} | {against:.2} |")?;
        }
        let against = function.percentile(50.0) / default.percentile(50.0);
        writeln!(text, "\nPilotlight's p50 is {against:.2} times that of the default Deployment.\n")
    }

    fn write_phases(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "### Where Pilotlight's time goes\n")?;
        writeln!(text, "Milliseconds from the moment when the request was held.\n")?;
        writeln!(text, "| phase | n | p50 | p95 |")?;
        writeln!(text, "| --- | --- | --- | --- |")?;
        for (name, of) in PHASES {
            let numbers = Numbers::new(self.starts.phases.iter().filter_map(of));
            let (count, p50, p95) = (numbers.count(), numbers.percentile(50.0), numbers.percentile(95.0));
            writeln!(text, "| {name} | {count} | {p50:.1} | {p95:.1} |")?;
        }
        Ok(())
    }

    fn write_many(&self, text: &mut String) -> std::fmt::Result {
        let Many { functions, applied, routable, answered, memory } = &self.many;
        let [applied, routable] = [applied, routable].map(std::time::Duration::as_secs_f64);
        let slowest = answered.iter().max().map_or(f64::NAN, |slowest| slowest.as_secs_f64());
        writeln!(text, "\n## {functions} Functions\n")?;
        writeln!(text, "| from the first apply until | seconds |")?;
        writeln!(text, "| --- | --- |")?;
        writeln!(text, "| all were applied | {applied:.1} |")?;
        writeln!(text, "| all were routable | {routable:.1} |")?;
        writeln!(
            text,
            "\n{} of them called at once, from zero: the last answer came after {slowest:.1} s.\n",
            answered.len()
        )?;
        writeln!(text, "| process | Functions | resident, MiB | proportional, MiB |")?;
        writeln!(text, "| --- | --- | --- | --- |")?;
        for (count, processes) in [(&0, &self.empty), (functions, memory)] {
            for Memory { component, rss, pss } in processes {
                let [rss, pss] = [rss, pss].map(|kibibytes| *kibibytes as f64 / 1024.0);
                writeln!(text, "| {component} | {count} | {rss:.1} | {pss:.1} |")?;
            }
        }
        Ok(())
    }
}
