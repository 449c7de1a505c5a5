//! The truth table of the status, and what must not change when nothing does.

use std::collections::BTreeSet;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn revision(name: &str, ready: i32) -> Revision {
    Revision { name: name.into(), wanted: 1, running: 1, ready, current: true, failure: None }
}

fn trouble(reason: &str) -> PodTrouble {
    PodTrouble { reason: reason.into(), message: format!("because of {reason}") }
}

fn failing(revision: &str, reason: &str) -> PodView {
    PodView { revision: revision.into(), trouble: Some(trouble(reason)), ready_since: None }
}

fn applied(refusals: &[&str]) -> Outcome {
    Outcome::Applied {
        revision: "new".into(),
        exists: true,
        refusals: refusals.iter().map(|text| Refusal((*text).into())).collect(),
        url: "http://hello".into(),
        warnings: vec![],
    }
}

/// A Function whose `serving` revision served before the latest, `new`, came.
fn seen(serving: &str, pods: Vec<PodView>) -> Observed {
    let replicas = Some(pilotlight_crds::ReplicaStatus::default());
    let status = FunctionStatus { revision: Some(serving.into()), replicas, ..Default::default() };
    Observed { generation: Some(2), status, pods, ..Default::default() }
}

/// What was computed is now what there is, beside the activator's part.
fn adopt(seen: &mut Observed, status: FunctionStatus) {
    seen.status = FunctionStatus { replicas: seen.status.replicas.clone(), ..status };
}

fn shown(verdict: &Verdict) -> Vec<String> {
    let conditions = verdict.status.conditions.iter();
    conditions.map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

#[test]
fn a_function_is_not_routable_before_an_activator_has_it() {
    let fresh = Observed { generation: Some(1), ..Default::default() };
    let verdict = compute(&fresh, &[], applied(&[]), at(1));
    assert_eq!(
        shown(&verdict),
        ["Ready=False/WaitingForActivator", "Routable=False/WaitingForActivator", "Healthy=True/Healthy"]
    );
}

#[test]
fn the_truth_table_holds() {
    let (x, y) = ("ErrImagePull", "Unschedulable");
    let refused = applied(&["Service hello exists"]);
    let invalid = Outcome::Invalid("a rule is broken".into());
    // serving revision and its ready pods, ready pods of the latest, failing pods, outcome -> Ready, Routable, Healthy
    for (serving, old_ready, new_ready, pods, outcome, expected) in [
        ("new", 0, 0, vec![], applied(&[]), ["True/Ready", "True/Routable", "True/Healthy"]),
        ("old", 1, 0, vec![], applied(&[]), ["True/Ready", "True/Routable", "True/RollingOut"]),
        (
            "old",
            0,
            0,
            vec![failing("old", y)],
            applied(&[]),
            ["True/Ready", "True/Routable", "True/RollingOut"],
        ),
        (
            "new",
            0,
            0,
            vec![failing("new", x)],
            applied(&[]),
            ["False/ErrImagePull", "True/Routable", "False/ErrImagePull"],
        ),
        (
            "new",
            0,
            1,
            vec![failing("new", y)],
            applied(&[]),
            ["True/Ready", "True/Routable", "False/Unschedulable"],
        ),
        (
            "old",
            0,
            0,
            vec![failing("new", x)],
            applied(&[]),
            ["True/Ready", "True/Routable", "False/ErrImagePull"],
        ),
        (
            "old",
            1,
            0,
            vec![failing("old", y), failing("new", x)],
            applied(&[]),
            ["True/Ready", "True/Routable", "False/ErrImagePull"],
        ),
        (
            "old",
            0,
            0,
            vec![failing("old", y), failing("new", x)],
            applied(&[]),
            ["False/ErrImagePull", "True/Routable", "False/ErrImagePull"],
        ),
        ("new", 1, 1, vec![], refused.clone(), ["False/ChildRefused", "False/ChildRefused", "True/Healthy"]),
        (
            "new",
            1,
            0,
            vec![failing("new", x)],
            refused,
            ["False/ChildRefused", "False/ChildRefused", "False/ErrImagePull"],
        ),
        ("new", 1, 1, vec![], invalid, ["False/InvalidSpec", "False/InvalidSpec", "True/Healthy"]),
    ] {
        let mut seen = seen(serving, pods);
        seen.status.latest_revision = Some("new".into());
        let revisions = [revision("old", old_ready), Revision { wanted: 2, ..revision("new", new_ready) }];
        let verdict = compute(&seen, &revisions, outcome.clone(), at(100));
        let expected: Vec<_> =
            ["Ready", "Routable", "Healthy"].iter().zip(expected).map(|(t, e)| format!("{t}={e}")).collect();
        assert_eq!(shown(&verdict), expected, "{serving} serves, {:?}, {outcome:?}", seen.pods);
    }
}

#[test]
fn pods_that_cannot_be_made_are_trouble_too() {
    let latest = Revision { failure: Some(trouble("FailedCreate")), ..revision("new", 0) };
    let verdict = compute(&seen("new", vec![]), &[latest], applied(&[]), at(100));
    assert!(shown(&verdict).contains(&"Healthy=False/FailedCreate".to_owned()));
}

#[test]
fn of_several_troubles_the_reported_one_stays() {
    let pods = vec![failing("new", "Unschedulable"), failing("new", "CrashLoopBackOff")];
    let mut seen = seen("new", pods);
    let first = compute(&seen, &[], applied(&[]), at(100));
    assert_eq!(shown(&first)[2], "Healthy=False/CrashLoopBackOff", "the first by name");
    seen.status.conditions = first.status.conditions;
    seen.status.conditions[2].reason = "Unschedulable".into();
    assert_eq!(shown(&compute(&seen, &[], applied(&[]), at(101)))[2], "Healthy=False/Unschedulable");
}

#[test]
fn nothing_new_changes_nothing_and_a_new_reason_is_no_transition() {
    let mut seen = seen("new", vec![failing("new", "ErrImagePull")]);
    let first = compute(&seen, &[], applied(&[]), at(100)).status;
    adopt(&mut seen, first.clone());
    assert_eq!(compute(&seen, &[], applied(&[]), at(200)).status, first);
    seen.pods = vec![failing("new", "ImagePullBackOff")];
    let second = compute(&seen, &[], applied(&[]), at(300)).status;
    assert_eq!(second.conditions[2].last_transition_time, Time(at(100)));
    adopt(&mut seen, second);
    seen.pods = vec![];
    let third = compute(&seen, &[], applied(&[]), at(400)).status;
    assert_eq!(third.conditions[2].last_transition_time, Time(at(400)));
    assert_eq!(third.conditions[1].last_transition_time, Time(at(100)));
}

#[test]
fn the_revision_moves_when_the_latest_can_serve() {
    let revisions = |status: &FunctionStatus| (status.revision.clone(), status.latest_revision.clone());
    let some = |serving: &str| (Some(serving.to_owned()), Some("new".to_owned()));
    let (old, new) = (revision("old", 1), revision("new", 1));
    let first = compute(&Observed::default(), &[revision("new", 0)], applied(&[]), at(100));
    assert_eq!(revisions(&first.status), some("new"), "the first one serves at once");
    let ready = PodView { revision: "new".into(), trouble: None, ready_since: Some(at(99)) };
    let seen = seen("old", vec![ready]);
    let starting = compute(&seen, &[old.clone(), new.clone()], applied(&[]), at(100));
    assert_eq!(revisions(&starting.status), some("old"));
    assert!(starting.look_again.is_some(), "no event will come when the pod has settled");
    let settled = compute(&seen, &[old, new], applied(&[]), at(101));
    assert_eq!((revisions(&settled.status), settled.look_again), (some("new"), None));
}

#[test]
fn what_was_not_applied_leaves_the_revisions_alone() {
    let mut seen = seen("old", vec![]);
    seen.status.latest_revision = Some("old".into());
    seen.status.url = Some("http://before".into());
    let missing = Outcome::Applied {
        revision: "new".into(),
        exists: false,
        refusals: vec![Refusal("Deployment hello-new was refused: exceeded quota".into())],
        url: "http://hello".into(),
        warnings: vec![],
    };
    for (outcome, url) in [(missing, "http://hello"), (Outcome::Invalid("no".into()), "http://before")] {
        let status = compute(&seen, &[revision("old", 1)], outcome, at(100)).status;
        assert_eq!(
            (status.revision.as_deref(), status.latest_revision.as_deref()),
            (Some("old"), Some("old"))
        );
        assert_eq!((status.url.as_deref(), status.observed_generation), (Some(url), Some(2)));
    }
}

#[test]
fn the_activators_part_is_not_written() {
    let mut seen = seen("new", vec![]);
    seen.status.replicas = Some(pilotlight_crds::ReplicaStatus { desired: 3, ready: 3 });
    let verdict = compute(&seen, &[], applied(&[]), at(100));
    let written = serde_json::to_value(verdict.status).unwrap();
    let fields: BTreeSet<_> = written.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["conditions", "latestRevision", "observedGeneration", "revision", "url"];
    assert_eq!(fields, expected.into());
}

#[test]
fn an_event_tells_each_reason_once() {
    let mut seen = seen("new", vec![]);
    let told = |before: &Observed, outcome| {
        let status = compute(before, &[], outcome, at(100)).status;
        let reasons: Vec<_> = news(&before.status, &status).iter().map(|c| c.reason.clone()).collect();
        (status, reasons)
    };
    let (status, reasons) = told(&seen, applied(&[]));
    assert!(reasons.is_empty());
    adopt(&mut seen, status);
    seen.pods = vec![failing("new", "ErrImagePull")];
    let (status, reasons) = told(&seen, applied(&[]));
    assert_eq!(reasons, ["ErrImagePull"]);
    adopt(&mut seen, status);
    seen.pods[0].trouble = Some(PodTrouble { message: "other words".into(), ..trouble("ErrImagePull") });
    assert!(told(&seen, applied(&[])).1.is_empty(), "the same reason");
    let (status, reasons) = told(&seen, Outcome::Invalid("one rule".into()));
    assert_eq!(reasons, ["InvalidSpec"]);
    adopt(&mut seen, status);
    assert!(told(&seen, Outcome::Invalid("one rule".into())).1.is_empty());
    assert_eq!(told(&seen, Outcome::Invalid("another rule".into())).1, ["InvalidSpec"]);
}
