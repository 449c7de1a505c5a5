//! Which revision serves, and which has done its time. Pure.
//!
//! The activator scales: it gives the latest revision at least one replica while another one serves, and
//! drains the others to zero. The operator decides when the latest takes over, and removes what is drained.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use pilotlight_crds::{PodTrouble, deployment_trouble, names};

use crate::function::pod::PodView;

/// So long a pod of a new revision must have been ready before it takes over. There is no kubelet probe,
/// so "ready" only says that the process has started, and one that ends at once is ready for a moment.
const SETTLE: Duration = Duration::from_secs(2);

/// A revision, as its Deployment shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revision {
    pub name: String,
    /// Replicas asked for.
    pub wanted: i32,
    /// Pods that exist.
    pub running: i32,
    /// Pods that the kubelet calls ready.
    pub ready: i32,
    /// Whether the counts are those of the present spec, not of an older one.
    pub current: bool,
    /// Why its pods cannot even be created.
    pub failure: Option<PodTrouble>,
}

impl Revision {
    /// Reads a Deployment; `None` if it has no revision label.
    pub(crate) fn read(deployment: &Deployment) -> Option<Self> {
        let status = deployment.status.clone().unwrap_or_default();
        // Kubernetes counts an absent number of replicas as 1.
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        Some(Self {
            name: deployment.metadata.labels.as_ref()?.get(names::REVISION_LABEL)?.clone(),
            wanted,
            running: status.replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            current: status.observed_generation >= deployment.metadata.generation,
            failure: deployment_trouble(deployment),
        })
    }
}

/// Which revision serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// The latest one.
    Latest,
    /// The one that served before.
    Previous,
    /// The one that served before; if nothing happens, the latest one after this long.
    PreviousFor(Duration),
}

/// Which revision serves: the latest
/// - if none served before, or the Deployment of the one that did is gone: there is nothing to protect;
/// - if all replicas that it was given, at least one, have been ready for [`SETTLE`].
pub(crate) fn serving(
    previous: Option<&str>,
    latest: &str,
    revisions: &[Revision],
    pods: &[PodView],
    now: Timestamp,
) -> Serving {
    let find = |name: &str| revisions.iter().find(|revision| revision.name == name);
    if previous.is_none_or(|previous| previous == latest || find(previous).is_none()) {
        return Serving::Latest;
    }
    let Some(latest) = find(latest).filter(|r| r.current && r.wanted >= 1 && r.ready >= r.wanted) else {
        return Serving::Previous;
    };
    let settled = |since: Timestamp| {
        now.duration_since(since) >= SignedDuration::try_from(SETTLE).unwrap_or(SignedDuration::ZERO)
    };
    let settled =
        pods.iter().filter(|pod| pod.revision == latest.name && pod.ready_since.is_some_and(settled));
    if i32::try_from(settled.count()).unwrap_or(i32::MAX) >= latest.wanted {
        Serving::Latest
    } else {
        Serving::PreviousFor(SETTLE)
    }
}

/// Whether a revision can be removed: neither serves nor is the latest, and the activator has drained it.
pub(crate) fn is_spent(revision: &Revision, serving: Option<&str>, latest: Option<&str>) -> bool {
    let needed = [serving, latest].contains(&Some(revision.name.as_str()));
    !needed && revision.wanted == 0 && revision.running == 0 && revision.current
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(name: &str, wanted: i32, running: i32, ready: i32) -> Revision {
        Revision { name: name.into(), wanted, running, ready, current: true, failure: None }
    }

    fn pod(revision: &str, ready_since: Option<i64>) -> PodView {
        let ready_since = ready_since.map(|second| Timestamp::from_second(second).unwrap());
        PodView { revision: revision.into(), trouble: None, ready_since }
    }

    #[test]
    fn the_latest_revision_serves_when_it_can() {
        let (old, now) = (revision("old", 3, 3, 3), Timestamp::from_second(100).unwrap());
        let again = Serving::PreviousFor(SETTLE);
        let stale = Revision { current: false, ..revision("new", 1, 1, 1) };
        for (case, previous, revisions, pods, expected) in [
            ("the first revision", None, vec![], vec![], Serving::Latest),
            ("it serves already", Some("new"), vec![old.clone()], vec![], Serving::Latest),
            (
                "the old Deployment is gone",
                Some("old"),
                vec![revision("new", 0, 0, 0)],
                vec![],
                Serving::Latest,
            ),
            (
                "not scaled up yet",
                Some("old"),
                vec![old.clone(), revision("new", 0, 0, 0)],
                vec![],
                Serving::Previous,
            ),
            ("starting", Some("old"), vec![old.clone(), revision("new", 2, 2, 1)], vec![], Serving::Previous),
            (
                "counts of an older spec",
                Some("old"),
                vec![old.clone(), stale],
                vec![pod("new", Some(1))],
                Serving::Previous,
            ),
            (
                "ready this second",
                Some("old"),
                vec![old.clone(), revision("new", 1, 1, 1)],
                vec![pod("new", Some(99))],
                again,
            ),
            (
                "its pod is not known yet",
                Some("old"),
                vec![old.clone(), revision("new", 1, 1, 1)],
                vec![pod("old", Some(1))],
                again,
            ),
            (
                "one of two has settled",
                Some("old"),
                vec![old.clone(), revision("new", 2, 2, 2)],
                vec![pod("new", Some(98)), pod("new", None)],
                again,
            ),
            (
                "ready and settled",
                Some("old"),
                vec![old.clone(), revision("new", 1, 1, 1)],
                vec![pod("new", Some(98))],
                Serving::Latest,
            ),
        ] {
            assert_eq!(serving(previous, "new", &revisions, &pods, now), expected, "{case}");
        }
    }

    #[test]
    fn only_what_is_drained_and_not_needed_is_removed() {
        let spent = |revision: &Revision| is_spent(revision, Some("a"), Some("b"));
        assert!(spent(&revision("c", 0, 0, 0)));
        assert!(!spent(&revision("c", 1, 0, 0)), "was given replicas");
        assert!(!spent(&revision("c", 0, 1, 0)), "a pod still runs");
        assert!(!spent(&Revision { current: false, ..revision("c", 0, 0, 0) }), "counts of an older spec");
        assert!(!spent(&revision("a", 0, 0, 0)), "serves");
        assert!(!spent(&revision("b", 0, 0, 0)), "is the latest");
    }

    #[test]
    fn a_deployment_is_read_as_kubernetes_means_it() {
        let read = |json| Revision::read(&serde_json::from_value(json).unwrap());
        let labels = serde_json::json!({names::REVISION_LABEL: "abc"});
        assert_eq!(read(serde_json::json!({"metadata": {}})), None);
        let fresh = read(
            serde_json::json!({"metadata": {"labels": labels, "generation": 1}, "spec": {"selector": {}, "template": {}}}),
        );
        assert_eq!(fresh, Some(Revision { current: false, ..revision("abc", 1, 0, 0) }));
        let failing = read(serde_json::json!({
            "metadata": {"labels": labels, "generation": 2},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"observedGeneration": 2, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"},
            ]},
        }));
        assert_eq!(failing.unwrap().failure.unwrap().reason, "FailedCreate");
    }
}
