//! /livez, /readyz and /metrics.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use crate::{metrics::Metrics, watch::Stores};

/// What this process is doing.
#[derive(Clone)]
pub(crate) enum Phase {
    /// The API server has not answered yet.
    Starting,
    /// Another process leads; this one waits for the Lease.
    Standby,
    /// This process leads, with these watches.
    Leading(Arc<Stores>),
}

/// What the handlers look at.
#[derive(Clone)]
pub(crate) struct Admin {
    pub phase: watch::Receiver<Phase>,
    pub metrics: Arc<Metrics>,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    admin: Admin,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        // Alive is whoever can answer: restarting a process does not bring the API server back.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match &*admin.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet\n"),
        Phase::Standby => (StatusCode::OK, "standby\n"),
        Phase::Leading(stores) if stores.are_ready() => (StatusCode::OK, "leading\n"),
        Phase::Leading(_) => (StatusCode::SERVICE_UNAVAILABLE, "leading, watches have not synced\n"),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let functions = match &*admin.phase.borrow() {
        Phase::Leading(stores) => stores.functions.state(),
        Phase::Starting | Phase::Standby => Vec::new(),
    };
    admin.metrics.count_functions(functions.iter().map(AsRef::as_ref));
    match admin.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
