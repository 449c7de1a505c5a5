//! Whole reconciliations against a pretended API server: which calls are made, and which are not.

use std::sync::Mutex;

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Client,
    runtime::{
        reflector::{Lookup, store, store::Writer},
        watcher::Event,
    },
};
use serde_json::{Value, json};

use super::{build::tests::function, *};
use crate::{config::Config, metrics::Metrics, watch::Stores};

/// A call, as `PATCH deployments/hello-abc`, and its body.
type Call = (String, Value);

/// An API server that has `objects` (by path as in a [`Call`]), accepts all that is written, and refuses
/// paths that contain `refuse` with a status.
#[derive(Default)]
struct Api {
    objects: Vec<(&'static str, Value)>,
    refuse: Option<(&'static str, u16)>,
    calls: Mutex<Vec<Call>>,
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = parts.uri.path().rsplit("/demo/").next().unwrap_or_default();
    let status = |code: u16| {
        let reason = if code == 404 { "NotFound" } else { "Test" };
        let status =
            json!({"kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code});
        (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
    };
    if parts.method == Method::GET {
        let object = api.objects.iter().find(|(known, _)| *known == path);
        return object.map_or_else(|| status(404), |(_, object)| axum::Json(object).into_response());
    }
    api.calls.lock().unwrap().push((format!("{} {path}", parts.method), body.clone()));
    match api.refuse {
        Some((part, code)) if path.contains(part) => status(code),
        _ if parts.method == Method::DELETE => status(200),
        _ if path.ends_with("/status") => {
            axum::Json(json!(function("hello", json!({"image": "x"})))).into_response()
        }
        _ => axum::Json(body).into_response(),
    }
}

fn filled<K>(objects: Vec<K>) -> (kube::runtime::reflector::Store<K>, Writer<K>)
where
    K: Lookup<DynamicType = ()> + Clone + 'static,
{
    let (reader, mut writer) = store();
    writer.apply_watcher_event(&Event::Init);
    for object in objects {
        writer.apply_watcher_event(&Event::InitApply(object));
    }
    writer.apply_watcher_event(&Event::InitDone);
    (reader, writer)
}

/// Reconciles with these children known to the watches; returns the result and the calls that it took.
async fn reconciled(
    function: &Function,
    deployments: Vec<Deployment>,
    services: Vec<Service>,
    api: Api,
) -> (Result<&'static str, Error>, Vec<Call>) {
    let api = Arc::new(api);
    let router = Router::new().fallback(answer).with_state(Arc::clone(&api));
    let client = Client::new(router, "demo");
    let functions = filled(vec![function.clone()]);
    let (deployments, services, pods) = (filled(deployments), filled(services), filled(vec![]));
    let stores = Stores::new(functions.0.clone(), deployments.0.clone(), services.0.clone(), pods.0.clone());
    let metrics = Arc::new(Metrics::new().unwrap());
    let context = Context::new(client, Arc::new(Config::test()), metrics, Arc::new(stores));
    let result = steps(function, &context).await.map(|done| done.label);
    let calls = std::mem::take(&mut *api.calls.lock().unwrap());
    (result, calls)
}

fn names(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|(name, _)| name.as_str()).collect()
}

/// What the operator applies for this Function.
fn desired(function: &Function) -> (String, Deployment, Service) {
    let valid = validate(function, &Identity::of(function).unwrap()).unwrap();
    let children = build(&valid, &Config::test()).unwrap();
    (children.revision, children.deployment, children.service)
}

fn condition<'a>(calls: &'a [Call], type_: &str) -> &'a Value {
    let (_, body) = calls.iter().find(|(name, _)| name.ends_with("hello/status")).unwrap();
    body["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == type_).unwrap()
}

#[tokio::test]
async fn a_new_function_gets_all_its_children_and_begins_at_zero() {
    let function = function("hello", json!({"image": "x", "session": {}}));
    let (revision, ..) = desired(&function);
    let (result, calls) = reconciled(&function, vec![], vec![], Api::default()).await;
    assert_eq!(result.unwrap(), "ok");
    let patch = format!("PATCH deployments/hello-{revision}");
    assert_eq!(
        names(&calls),
        [
            "PATCH secrets/hello-state",
            "POST deployments",
            &patch,
            "PATCH services/hello",
            "PATCH functions/hello/status"
        ]
    );
    assert_eq!(calls[1].1["spec"]["replicas"], 0, "created at zero");
    assert_eq!(calls[2].1["spec"].get("replicas"), None, "applied without replicas");
    assert_eq!(calls[4].1["status"]["revision"], json!(revision));
    assert_eq!(condition(&calls, "Ready")["reason"], "WaitingForActivator");
}

#[tokio::test]
async fn what_is_as_it_should_be_costs_no_call() {
    let mut function = function("hello", json!({"image": "x"}));
    let (_, deployment, service) = desired(&function);
    let (_, calls) =
        reconciled(&function, vec![deployment.clone()], vec![service.clone()], Api::default()).await;
    assert_eq!(names(&calls), ["PATCH functions/hello/status"]);
    function.status = Some(serde_json::from_value(calls[0].1["status"].clone()).unwrap());
    let (_, calls) =
        reconciled(&function, vec![deployment.clone()], vec![service.clone()], Api::default()).await;
    assert!(calls.is_empty(), "{calls:?}");
    let mut changed = service;
    changed.spec.as_mut().unwrap().external_name = Some("elsewhere".into());
    let (_, calls) = reconciled(&function, vec![deployment], vec![changed], Api::default()).await;
    assert_eq!(names(&calls), ["PATCH services/hello"], "drift is repaired");
}

#[tokio::test]
async fn a_service_of_somebody_else_is_left_alone() {
    let function = function("hello", json!({"image": "x"}));
    let (_, deployment, _) = desired(&function);
    let foreign =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello", "namespace": "demo"}});
    let api = Api { objects: vec![("services/hello", foreign)], ..Default::default() };
    let (result, calls) = reconciled(&function, vec![deployment.clone()], vec![], api).await;
    assert_eq!(result.unwrap(), "ok");
    assert_eq!(names(&calls), ["PATCH functions/hello/status", "POST events"]);
    assert_eq!(condition(&calls, "Routable")["reason"], "ChildRefused");
    let mut predecessor = desired(&function).2;
    predecessor.metadata.owner_references.as_mut().unwrap()[0].uid = "uid-0".into();
    let api = Api { objects: vec![("services/hello", json!(predecessor))], ..Default::default() };
    let (result, calls) = reconciled(&function, vec![deployment], vec![], api).await;
    assert!(matches!(result, Err(Error::Predecessor { .. })), "it will be gone soon");
    assert!(calls.is_empty());
}

#[tokio::test]
async fn an_invalid_spec_touches_nothing_but_the_status() {
    let function = function("2fa", json!({"image": "x"}));
    let (result, calls) = reconciled(&function, vec![], vec![], Api::default()).await;
    assert_eq!(result.unwrap(), "invalid_spec");
    assert_eq!(names(&calls), ["PATCH functions/2fa/status", "POST events"]);
}

#[tokio::test]
async fn a_refused_deployment_is_the_users_to_solve_and_an_ailing_api_server_is_not() {
    let function = function("hello", json!({"image": "x"}));
    let api = Api { refuse: Some(("deployments", 403)), ..Default::default() };
    let (result, calls) = reconciled(&function, vec![], vec![], api).await;
    assert_eq!(result.unwrap(), "ok");
    assert_eq!(names(&calls)[..2], ["POST deployments", "PATCH services/hello"], "everything else goes on");
    assert_eq!(condition(&calls, "Routable")["reason"], "ChildRefused");
    let api = Api { refuse: Some(("deployments", 500)), ..Default::default() };
    let (result, calls) = reconciled(&function, vec![], vec![], api).await;
    assert_eq!(result.unwrap_err().retry(), Retry::Backoff);
    assert_eq!(names(&calls), ["POST deployments"]);
}

#[tokio::test]
async fn a_drained_revision_goes_and_its_secret_with_the_last_that_needs_it() {
    let before = function("hello", json!({"image": "x", "session": {}}));
    let mut after = function("hello", json!({"image": "x"}));
    let (_, mut old, _) = desired(&before);
    let (revision, latest, service) = desired(&after);
    after.status = serde_json::from_value(json!({"revision": revision, "latestRevision": revision})).unwrap();
    old.metadata.uid = Some("old-uid".into());
    old.metadata.resource_version = Some("7".into());
    old.spec.as_mut().unwrap().replicas = Some(1);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
        "name": "hello-state", "namespace": "demo", "uid": "secret-uid", "resourceVersion": "3",
        "ownerReferences": latest.metadata.owner_references,
    }});
    let api = || Api { objects: vec![("secrets/hello-state", secret.clone())], ..Default::default() };
    let run = async |old: &Deployment| {
        reconciled(&after, vec![old.clone(), latest.clone()], vec![service.clone()], api()).await.1
    };
    assert_eq!(names(&run(&old).await), ["PATCH functions/hello/status"], "it still has a replica");
    old.spec.as_mut().unwrap().replicas = Some(0);
    let calls = run(&old).await;
    let delete = format!("DELETE deployments/{}", old.metadata.name.as_deref().unwrap());
    assert_eq!(names(&calls), ["PATCH functions/hello/status", "DELETE secrets/hello-state", &delete]);
    assert_eq!(calls[2].1["preconditions"], json!({"resourceVersion": "7", "uid": "old-uid"}));
}

#[tokio::test]
async fn a_function_that_is_being_deleted_is_left_alone() {
    let mut function = function("hello", json!({"image": "x"}));
    function.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let (result, calls) = reconciled(&function, vec![], vec![], Api::default()).await;
    assert_eq!((result.unwrap(), calls.len()), ("ok", 0));
}
