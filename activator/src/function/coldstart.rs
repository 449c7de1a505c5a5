//! A cold start, phase by phase, as this activator sees it.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pilotlight_crds::ColdStartPhases;

/// The phases of a cold start in their order: values of the label `phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The API server accepted the new number of replicas.
    Scaled,
    /// The pod existed.
    PodCreated,
    /// The pod had a node.
    Scheduled,
    /// The pod's address was known.
    AddressKnown,
    /// The pod answered on its port.
    PortAnswers,
    /// The head of the first response was there.
    FirstByte,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 6] = [
        Self::Scaled,
        Self::PodCreated,
        Self::Scheduled,
        Self::AddressKnown,
        Self::PortAnswers,
        Self::FirstByte,
    ];

    /// The phase as labels show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scaled => "scaled",
            Self::PodCreated => "pod_created",
            Self::Scheduled => "scheduled",
            Self::AddressKnown => "address_known",
            Self::PortAnswers => "port_answers",
            Self::FirstByte => "first_byte",
        }
    }
}

/// A cold start that is under way, or has ended with [`Phase::FirstByte`].
#[derive(Clone, Debug)]
pub struct ColdStart {
    began: Instant,
    /// Wall clock time of the first held request.
    pub time: jiff::Timestamp,
    /// The revision that is started.
    pub revision: String,
    /// The pod that answered first.
    pub pod: Option<String>,
    reached: [Option<Duration>; Phase::ALL.len()],
}

impl ColdStart {
    /// A cold start that begins now.
    pub fn begin(revision: String, time: jiff::Timestamp, now: Instant) -> Self {
        Self { began: now, time, revision, pod: None, reached: [None; Phase::ALL.len()] }
    }

    /// A phase is reached; only the first time counts.
    pub fn reach(&mut self, phase: Phase, now: Instant) {
        self.reached[phase as usize].get_or_insert_with(|| now.saturating_duration_since(self.began));
    }

    /// When a phase was reached, from the first held request.
    pub fn at(&self, phase: Phase) -> Option<Duration> {
        self.reached[phase as usize]
    }

    /// The cold start as the Function's status shows it.
    pub fn ended(&self) -> pilotlight_crds::ColdStart {
        pilotlight_crds::ColdStart {
            // Kubernetes' times have whole seconds.
            time: Time(jiff::Timestamp::from_second(self.time.as_second()).unwrap_or(self.time)),
            revision: self.revision.clone(),
            pod: self.pod.clone().unwrap_or_default(),
            milliseconds: self.phases(),
        }
    }

    fn phases(&self) -> ColdStartPhases {
        // Tenths of a millisecond: more digits are noise.
        let millis = |phase| self.at(phase).map(|after| (after.as_secs_f64() * 10_000.0).round() / 10.0);
        ColdStartPhases {
            scaled: millis(Phase::Scaled),
            pod_created: millis(Phase::PodCreated),
            scheduled: millis(Phase::Scheduled),
            address_known: millis(Phase::AddressKnown),
            port_answers: millis(Phase::PortAnswers),
            first_byte: millis(Phase::FirstByte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts() {
        let start = Instant::now();
        let mut cold = ColdStart::begin("r".into(), jiff::Timestamp::UNIX_EPOCH, start);
        cold.reach(Phase::Scaled, start + Duration::from_micros(5_460));
        cold.reach(Phase::Scaled, start + Duration::from_secs(9));
        assert_eq!(cold.phases().scaled, Some(5.5));
        assert_eq!(cold.phases().first_byte, None);
    }
}
