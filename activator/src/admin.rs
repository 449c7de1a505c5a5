//! `/livez`, `/readyz`, `/metrics`, and what the activator knows of each function at `/debug/functions`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;

use crate::{
    function::{FunctionState, Process},
    index::Index,
    watch::Synced,
};

/// What the admin pages show.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where the metrics are.
    pub registry: Registry,
    /// What is known of the cluster.
    pub index: Arc<Index>,
    /// How far the watches are.
    pub synced: Synced,
    /// Whether the process is about to end.
    pub process: Arc<Process>,
}

/// The admin pages.
pub fn router(admin: Admin) -> Router {
    Router::new()
        // Alive says only that the process serves: restarting it would bring no API server back.
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/debug/functions", get(functions))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    let not_yet = |why| (StatusCode::SERVICE_UNAVAILABLE, why);
    if admin.process.leaving() {
        return not_yet("about to end");
    }
    match (admin.synced.all(), admin.process.view().settled) {
        (false, _) => not_yet("waiting for the first list from the API server"),
        // Until its peers know it they cannot know what it uses.
        (true, false) => not_yet("waiting for its peers"),
        (true, true) => (StatusCode::OK, "ok"),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match TextEncoder::new().encode_to_string(&admin.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    function: String,
    serving: Option<String>,
    latest: Option<String>,
    replicas: BTreeMap<String, u32>,
    ready: u32,
    in_flight: u32,
    held: u32,
    set_aside: u32,
    /// The activator that decides, if it is another one.
    owner: Option<String>,
    leased: u32,
    lent: u32,
    decision: Option<u32>,
    reason: Option<&'static str>,
}

async fn functions(State(admin): State<Admin>) -> Json<Vec<Shown>> {
    let mut shown: Vec<_> = admin.index.functions().iter().map(|function| show(function)).collect();
    shown.sort_by(|a, b| a.function.cmp(&b.function));
    Json(shown)
}

fn show(function: &FunctionState) -> Shown {
    let (config, report, share) = (function.config(), function.report(), function.share());
    Shown {
        function: function.key.to_string(),
        serving: config.serving.clone(),
        latest: config.latest.clone(),
        replicas: report.replicas,
        ready: report.ready,
        in_flight: report.in_flight,
        held: report.held,
        set_aside: report.set_aside,
        owner: share.owner.map(String::from),
        leased: share.leased,
        lent: share.lent,
        decision: report.decision.map(|(decision, _)| decision.replicas),
        reason: report.decision.map(|(decision, _)| decision.reason.as_str()),
    }
}
