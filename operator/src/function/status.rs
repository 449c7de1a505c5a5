//! Step 5: what the status says, computed without a client, then patched if it says something new.
//!
//! | spec and children | latest revision | serving revision | Ready | Routable | Healthy |
//! | --- | --- | --- | --- | --- | --- |
//! | good | no trouble | is the latest | True/Ready | True/Routable | True/Healthy |
//! | good | no trouble | an older one | True/Ready | True/Routable | True/RollingOut |
//! | good | trouble X | is the latest, has no ready pod | False/X | True/Routable | False/X |
//! | good | trouble X | is the latest, has a ready pod | True/Ready | True/Routable | False/X |
//! | good | trouble X | an older one, without trouble or with a ready pod | True/Ready | True/Routable | False/X |
//! | good | trouble X | an older one, with trouble Y and no ready pod | False/X | True/Routable | False/X |
//! | a child refused | any | any | False/ChildRefused | False/ChildRefused | as above |
//! | good, no activator yet | any | any | False/WaitingForActivator | False/WaitingForActivator | as above |
//! | invalid | any | any | False/InvalidSpec | False/InvalidSpec | as above |
//!
//! So `Ready` asks whether calls are answered as the spec says, `Healthy` whether anything is wrong with the
//! latest revision. `Routable=False` stops no traffic: what served before still does. A Function without pods
//! is healthy: nothing is known to stand in its way.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType},
};
use pilotlight_crds::{Function, FunctionStatus, PodTrouble, condition, names, reason};
use serde_json::json;

use crate::{
    context::Context,
    error::{Error, chain},
    function::{
        apply::Refusal,
        observe::Observed,
        pod::PodView,
        revisions::{Revision, Serving, serving},
    },
};

/// Kubernetes takes at most 1 kB of text in an Event.
const MAX_NOTE: usize = 1000;

/// How far a spec has come.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It breaks a rule; nothing was touched.
    Invalid(String),
    /// It was applied.
    Applied {
        /// The revision that it is.
        revision: String,
        /// Whether that revision's Deployment exists.
        exists: bool,
        /// Children that were refused.
        refusals: Vec<Refusal>,
        /// Where the Function answers.
        url: String,
        /// What costs more than it needs to.
        warnings: Vec<String>,
    },
}

/// What to say, and when to look again if nothing happens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// The operator's part of the status.
    pub status: FunctionStatus,
    pub look_again: Option<Duration>,
}

/// Computes the operator's part of the status.
pub(crate) fn compute(seen: &Observed, revisions: &[Revision], outcome: Outcome, now: Timestamp) -> Verdict {
    // Whatever is not computed anew stays as it was.
    let mut status = own_part(&seen.status);
    status.observed_generation = seen.generation;
    let mut look_again = None;
    let problem = match outcome {
        Outcome::Invalid(message) => Some((reason::INVALID_SPEC, message)),
        Outcome::Applied { revision, exists, refusals, url, warnings } => {
            status.url = Some(url);
            status.warnings = warnings;
            if exists {
                let serving = serving(status.revision.as_deref(), &revision, revisions, &seen.pods, now);
                match serving {
                    Serving::Latest => status.revision = Some(revision.clone()),
                    Serving::Previous => {}
                    Serving::PreviousFor(time) => look_again = Some(time),
                }
                status.latest_revision = Some(revision);
            }
            let messages: Vec<_> = refusals.into_iter().map(|refusal| refusal.0).collect();
            // The activator writes its part of the status once it has the Function in its route table.
            let waiting = seen.status.replicas.is_none().then(|| {
                let message = "no activator has taken the Function up yet: see whether one runs";
                (reason::WAITING_FOR_ACTIVATOR, message.to_owned())
            });
            (!messages.is_empty()).then(|| (reason::CHILD_REFUSED, messages.join("; "))).or(waiting)
        }
    };
    let health = Health::of(&status, seen, revisions);
    let facts = conditions(problem, &health, status.url.as_deref().unwrap_or_default());
    status.conditions = facts.map(|fact| fact.into_condition(&seen.status, seen.generation, now)).into();
    Verdict { status, look_again }
}

/// What the pods say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Health {
    serving: String,
    latest: String,
    /// What is wrong with the latest revision.
    trouble: Option<PodTrouble>,
    /// Whether the serving revision answers all the same.
    serves: bool,
}

impl Health {
    fn of(status: &FunctionStatus, seen: &Observed, revisions: &[Revision]) -> Self {
        let serving = status.revision.clone().unwrap_or_default();
        let latest = status.latest_revision.clone().unwrap_or_default();
        // Of several, the one that was reported before, so that the report does not waver.
        let before = find(&seen.status, condition::HEALTHY).map(|condition| condition.reason.as_str());
        let find = |name: &str| revisions.iter().find(|revision| revision.name == name);
        let trouble = |name: &str| trouble(name, &seen.pods, find(name), before);
        let has_ready_pod = find(&serving).is_some_and(|revision| revision.ready > 0);
        Self {
            trouble: trouble(&latest),
            serves: has_ready_pod || (serving != latest && trouble(&serving).is_none()),
            serving,
            latest,
        }
    }
}

/// The trouble of a revision: of its pods, or of those that could not even be made.
fn trouble(
    name: &str,
    pods: &[PodView],
    revision: Option<&Revision>,
    before: Option<&str>,
) -> Option<PodTrouble> {
    let pods = pods.iter().filter(|pod| pod.revision == name).filter_map(|pod| pod.trouble.as_ref());
    let uncreated = revision.and_then(|revision| revision.failure.as_ref());
    let rank = |trouble: &&PodTrouble| {
        (before != Some(trouble.reason.as_str()), trouble.reason.clone(), trouble.message.clone())
    };
    pods.chain(uncreated).min_by_key(rank).cloned()
}

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    type_: &'static str,
    holds: bool,
    reason: String,
    message: String,
}

/// The truth table at the top of this file.
fn conditions(problem: Option<(&str, String)>, health: &Health, url: &str) -> [Fact; 3] {
    let Health { serving, latest, trouble, serves } = health;
    let fact =
        |type_, holds, reason: &str, message| Fact { type_, holds, reason: reason.to_owned(), message };
    let routable = match &problem {
        Some((reason, message)) => fact(condition::ROUTABLE, false, reason, message.clone()),
        None => fact(
            condition::ROUTABLE,
            true,
            reason::ROUTABLE,
            format!("calls to {url} are answered, from zero if need be"),
        ),
    };
    let healthy = match trouble {
        Some(PodTrouble { reason, message }) => fact(condition::HEALTHY, false, reason, message.clone()),
        None if serving != latest => fact(
            condition::HEALTHY,
            true,
            reason::ROLLING_OUT,
            format!("revision {latest} is starting; {serving} serves"),
        ),
        None => fact(condition::HEALTHY, true, reason::HEALTHY, "no pod fails to start".to_owned()),
    };
    let blocked = if problem.is_some() {
        Some(&routable)
    } else if healthy.holds || *serves {
        None
    } else {
        Some(&healthy)
    };
    let ready = match blocked {
        Some(Fact { reason, message, .. }) => fact(condition::READY, false, reason, message.clone()),
        None if healthy.holds => fact(condition::READY, true, reason::READY, format!("answers on {url}")),
        None => fact(
            condition::READY,
            true,
            reason::READY,
            format!("revision {serving} answers on {url}; Healthy says what is wrong"),
        ),
    };
    [ready, routable, healthy]
}

impl Fact {
    /// Adds the times: the transition is that of the last change of `status`, as Kubernetes defines it.
    fn into_condition(self, before: &FunctionStatus, generation: Option<i64>, now: Timestamp) -> Condition {
        let status = if self.holds { "True" } else { "False" };
        let same = find(before, self.type_).filter(|before| before.status == status);
        Condition {
            type_: self.type_.to_owned(),
            status: status.to_owned(),
            // Kubernetes asks for a reason; a kubelet could leave it out.
            reason: if self.reason.is_empty() { "Unknown".to_owned() } else { self.reason },
            message: self.message,
            last_transition_time: same.map_or(Time(now), |before| before.last_transition_time.clone()),
            observed_generation: generation,
        }
    }
}

fn find<'a>(status: &'a FunctionStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// The operator's part of a status; the rest belongs to the activator.
fn own_part(status: &FunctionStatus) -> FunctionStatus {
    FunctionStatus { replicas: None, last_decision: None, last_cold_start: None, ..status.clone() }
}

/// What is wrong in `now` and was not, or not for this reason, in `before`. That a new Function waits for an
/// activator is no news: each does for a moment.
fn news<'a>(before: &FunctionStatus, now: &'a FunctionStatus) -> Vec<&'a Condition> {
    let known = |condition: &&Condition| {
        find(before, &condition.type_).is_none_or(|before| {
            // The kubelet's messages count seconds; a broken rule or a refusal is told by its message alone.
            let same_message = condition.type_ == condition::HEALTHY || before.message == condition.message;
            before.status != condition.status || before.reason != condition.reason || !same_message
        })
    };
    let causes = now.conditions.iter().filter(|condition| {
        condition.type_ != condition::READY && condition.reason != reason::WAITING_FOR_ACTIVATOR
    });
    causes.filter(|condition| condition.status == "False").filter(known).collect()
}

/// Patches the status and warns of what is newly wrong, if there is anything new.
pub(crate) async fn publish(
    function: &Function,
    status: &FunctionStatus,
    context: &Context,
) -> Result<(), Error> {
    let before = function.status.clone().unwrap_or_default();
    let mut status = status.clone();
    status.selector = Some(names::pods_selector(&function.name_any()));
    if own_part(&before) == status {
        return Ok(());
    }
    let (name, namespace) = (function.name_any(), function.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": Function::api_version(&()),
        "kind": Function::kind(&()),
        "metadata": { "name": name },
        "status": status,
    });
    let api: Api<Function> = Api::namespaced(context.client.clone(), &namespace);
    let params = PatchParams::apply(names::OPERATOR).force();
    match api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => {}
        // It was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(source) => return Err(Error::Api { action: "patch the status", source }),
    }
    for condition in news(&before, &status) {
        warn(function, condition, context).await;
    }
    Ok(())
}

/// Emits an Event. Only for people: if it cannot be written, nothing else suffers.
async fn warn(function: &Function, condition: &Condition, context: &Context) {
    let event = Event {
        type_: EventType::Warning,
        reason: condition.reason.clone(),
        note: Some(condition.message[..condition.message.floor_char_boundary(MAX_NOTE)].to_owned()),
        action: condition.type_.clone(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &function.object_ref(&())).await {
        tracing::warn!(error = chain(&error), "could not write an Event");
    }
}

#[cfg(test)]
mod tests;
