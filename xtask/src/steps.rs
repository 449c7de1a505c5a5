//! A run of named steps, each timed, and the table at the end of it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// What has been done so far.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<Step>);

#[derive(Debug)]
struct Step {
    name: &'static str,
    took: Duration,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Failed,
    /// What it needs failed before. Not a way to succeed.
    NotRun,
}

impl Steps {
    /// Runs a step and reports it. A failure is printed and remembered, and later steps still run:
    /// one run should tell everything that is wrong.
    pub(crate) fn run<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("== {name}");
        let start = Instant::now();
        let result = interrupt::check().and_then(|()| step());
        let took = start.elapsed();
        let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Failed };
        if let Err(error) = &result {
            println!("{error:#}");
        }
        println!("== {name}: {} after {:.1} s\n", outcome.word(), took.as_secs_f64());
        self.0.push(Step { name, took, outcome });
        result.ok()
    }

    /// Reports steps whose condition an earlier one did not meet.
    pub(crate) fn not_run(&mut self, names: &[&'static str]) {
        let steps = names.iter().map(|name| Step { name, took: Duration::ZERO, outcome: Outcome::NotRun });
        self.0.extend(steps);
    }

    /// Prints the table. Fails unless every step was run and went well.
    pub(crate) fn finish(self) -> Result<()> {
        print!("{}", self.table());
        let bad = self.0.iter().filter(|step| step.outcome != Outcome::Ok).count();
        if bad > 0 {
            bail!("{bad} of {} steps did not succeed", self.0.len());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let width = self.0.iter().map(|step| step.name.len()).max().unwrap_or_default();
        let mut table = String::new();
        for step in &self.0 {
            let seconds = step.took.as_secs_f64();
            let _ = writeln!(table, "{:<width$}  {seconds:>7.1} s  {}", step.name, step.outcome.word());
        }
        table
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::NotRun => "NOT RUN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_remembered_and_does_not_stop_the_rest() {
        let mut steps = Steps::default();
        assert_eq!(steps.run("one", || -> Result<()> { bail!("no") }), None);
        assert_eq!(steps.run("two", || Ok(2)), Some(2));
        assert!(steps.finish().is_err());
    }

    #[test]
    fn a_step_that_was_not_run_is_no_success() {
        let mut steps = Steps::default();
        steps.run("built", || Ok(()));
        steps.not_run(&["tested"]);
        assert_eq!(steps.table(), "built       0.0 s  ok\ntested      0.0 s  NOT RUN\n");
        assert!(steps.finish().is_err());
    }
}
