//! The Lease: only one operator writes.
//!
//! The rules are client-go's: whoever holds the Lease renews it every [`TICK`]; the others take it when it
//! is given up, or when it has not changed for its whole duration *by their own clock* (clocks of two
//! nodes are never compared). A holder that cannot renew for [`RENEW_DEADLINE`] stops leading before
//! anybody else may begin. Each write carries the version that was read, so two cannot both take it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::error::chain;

/// Name of the Lease.
const LEASE: &str = "pilotlight-operator";
/// How often a holder renews and the others look: also how soon they follow one that gave up.
const TICK: Duration = Duration::from_secs(2);
/// A holder that was not heard of for so long is replaced.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops; the rest of [`LEASE_DURATION`] is its margin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// One look must end before the next but one.
const ATTEMPT: Duration = Duration::from_secs(4);

/// What this process is, as the Lease tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The API server has not answered yet.
    Unknown,
    /// Another process leads.
    Standby,
    /// This process leads.
    Leader,
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours: renew it.
    Renew,
    /// Nobody holds it, or its holder is gone: take it.
    Take,
    /// Another process holds it.
    Wait,
}

/// What was seen of the Lease, and when it last changed by our clock.
#[derive(Debug)]
struct Sighting {
    version: Option<String>,
    since: Instant,
}

/// Competes for the Lease until `stop`, then gives it up. The role is published on `role`.
pub(crate) async fn campaign(
    client: Client,
    namespace: &str,
    identity: &str,
    role: watch::Sender<Role>,
    stop: CancellationToken,
) {
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sighting = Sighting { version: None, since: Instant::now() };
    let mut renewed = Instant::now();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let started = Instant::now();
        let held = match tokio::time::timeout(ATTEMPT, attempt(&leases, identity, &mut sighting)).await {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "could not read or write the Lease");
                None
            }
            Err(_) => None,
        };
        if held == Some(Role::Leader) {
            renewed = started;
        }
        let now = held.unwrap_or_else(|| kept(*role.borrow(), renewed.elapsed()));
        if role.send_if_modified(|role| std::mem::replace(role, now) != now) {
            tracing::info!(identity, role = ?now, "role changed");
        }
    }
    if *role.borrow() == Role::Leader
        && !matches!(tokio::time::timeout(ATTEMPT, release(&leases, identity)).await, Ok(Ok(())))
    {
        tracing::warn!("could not give up the Lease; another operator takes it when it runs out");
    }
}

/// The role while the Lease cannot be reached.
fn kept(role: Role, since_renewed: Duration) -> Role {
    if role == Role::Leader && since_renewed >= RENEW_DEADLINE { Role::Standby } else { role }
}

/// Reads the Lease, and renews or takes it where that is due. `None`: another process wrote at the same
/// time, the next look will tell.
async fn attempt(
    leases: &Api<Lease>,
    identity: &str,
    sighting: &mut Sighting,
) -> Result<Option<Role>, kube::Error> {
    let Some(lease) = leases.get_opt(LEASE).await? else {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(LEASE.into()), ..Default::default() },
            spec: Some(held_by(identity, None)),
        };
        return won(leases.create(&PostParams::default(), &lease).await);
    };
    if sighting.version != lease.metadata.resource_version {
        *sighting = Sighting { version: lease.metadata.resource_version.clone(), since: Instant::now() };
    }
    if step(lease.spec.as_ref(), identity, sighting.since.elapsed()) == Step::Wait {
        return Ok(Some(Role::Standby));
    }
    let spec = Some(held_by(identity, lease.spec.as_ref()));
    won(leases.replace(LEASE, &PostParams::default(), &Lease { spec, ..lease }).await)
}

/// A conflict means that another process was faster.
fn won(written: Result<Lease, kube::Error>) -> Result<Option<Role>, kube::Error> {
    match written {
        Ok(_) => Ok(Some(Role::Leader)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

/// What to do about a Lease that has not changed for `unchanged`.
fn step(lease: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> Step {
    let holder = lease.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let duration = lease.and_then(|spec| spec.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    let duration = duration.map_or(LEASE_DURATION, Duration::from_secs);
    match holder {
        "" => Step::Take,
        holder if holder == identity => Step::Renew,
        _ if unchanged > duration => Step::Take,
        _ => Step::Wait,
    }
}

/// The Lease as `identity` holds it from now on.
fn held_by(identity: &str, before: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    let before = before.cloned().unwrap_or_default();
    let renewal = before.holder_identity.as_deref() == Some(identity);
    let transitions = before.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        acquire_time: if renewal { before.acquire_time } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(if renewal { transitions } else { transitions.saturating_add(1) }),
        ..Default::default()
    }
}

/// Gives the Lease up, so that another operator takes it at its next look.
async fn release(leases: &Api<Lease>, identity: &str) -> Result<(), kube::Error> {
    let lease = leases.get(LEASE).await?;
    let Some(spec) = lease.spec.clone().filter(|spec| spec.holder_identity.as_deref() == Some(identity))
    else {
        return Ok(());
    };
    let spec = Some(LeaseSpec { holder_identity: Some(String::new()), ..spec });
    leases.replace(LEASE, &PostParams::default(), &Lease { spec, ..lease }).await?;
    tracing::info!("gave up the Lease");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_is_taken_only_from_nobody_or_from_the_dead() {
        let lease = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            ..Default::default()
        };
        let secs = Duration::from_secs;
        assert_eq!(step(None, "me", secs(0)), Step::Take, "a Lease that was just made");
        assert_eq!(step(Some(&lease("")), "me", secs(0)), Step::Take, "given up");
        assert_eq!(step(Some(&lease("me")), "me", secs(0)), Step::Renew);
        assert_eq!(step(Some(&lease("other")), "me", secs(15)), Step::Wait);
        assert_eq!(step(Some(&lease("other")), "me", secs(16)), Step::Take);
    }

    #[test]
    fn a_holder_that_cannot_renew_stops_before_another_may_begin() {
        assert_eq!(kept(Role::Leader, Duration::from_secs(9)), Role::Leader);
        assert_eq!(kept(Role::Leader, RENEW_DEADLINE), Role::Standby);
        assert_eq!(kept(Role::Unknown, RENEW_DEADLINE), Role::Unknown);
        let worst = RENEW_DEADLINE + TICK.max(ATTEMPT);
        assert!(worst < LEASE_DURATION, "{worst:?} after its last renewal the holder has stopped");
    }

    #[test]
    fn transitions_count_holders_not_renewals() {
        let first = held_by("a", None);
        let renewed = held_by("a", Some(&first));
        assert_eq!(renewed.lease_transitions, first.lease_transitions);
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(held_by("b", Some(&renewed)).lease_transitions, Some(2));
    }
}
