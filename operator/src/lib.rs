//! The operator: one `Function` becomes a Deployment per revision, a Service, and a status.
//!
//! It sees no request and sets no number of replicas; the activator does both. Any number of operators
//! may run; the one that holds the Lease works, the others wait.
//!
//! ```text
//!   Function ──► observe ──► validate ──► build ──► apply ──► status ──► retire old revisions
//!                stores       pure        pure       API       pure, then one patch
//! ```
//!
//! Reading order: `function.rs` (START HERE: the five steps), the files in `function/` in the order of
//! the steps, `watch.rs` (what wakes a reconciliation), `error.rs` (when it is tried again), `leader.rs`.
//!
//! # Rights that it needs
//!
//! In the whole cluster (ClusterRole):
//!
//! | API group | resource | verbs | for |
//! | --- | --- | --- | --- |
//! | pilotlight.dev | functions | list, watch | the specs |
//! | pilotlight.dev | functions/status | patch | the operator's part of the status |
//! | pilotlight.dev | functions/finalizers | update | `blockOwnerDeletion`, where the cluster checks it (OpenShift) |
//! | apps | deployments | get, list, watch, create, patch, delete | one per revision |
//! | "" | services | get, list, watch, create, patch | one per Function |
//! | "" | secrets | get, create, patch, delete | the state token; neither list nor watch |
//! | "" | pods | list, watch | why a revision does not start |
//! | events.k8s.io | events | create, patch | Warnings on Functions |
//!
//! In its own namespace (Role): coordination.k8s.io leases: get, create, update.

mod admin;
pub mod config;
mod context;
mod error;
mod function;
mod leader;
pub mod metrics;
pub mod telemetry;
mod watch;

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, signal::unix, sync::watch as channel};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, Phase},
    config::Config,
    context::{Clients, Context},
    leader::Role,
    metrics::Metrics,
};

/// How long reconciliations may take to finish once the process is told to end. Together with giving up
/// the Lease it stays well inside Kubernetes' default of 30 s.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the operator could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is neither a kubeconfig nor a service account.
    #[error("no way to reach the Kubernetes API")]
    Client(#[from] kube::Error),
    /// The admin address is taken, or a signal handler could not be set.
    #[error("could not listen")]
    Listen(#[from] std::io::Error),
    /// Two metrics have one name.
    #[error("could not register the metrics")]
    Metrics(#[from] prometheus::Error),
}

/// Runs until SIGTERM or SIGINT: leads when it holds the Lease, waits otherwise.
///
/// # Errors
/// The process cannot start. Once it runs, nothing ends it but a signal.
pub async fn run(config: Config) -> Result<(), StartError> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new()?);
    let clients = Clients::connect().await?;
    let listener = TcpListener::bind(config.admin_addr).await?;
    let stop = stop_on_signal()?;
    let done = CancellationToken::new();

    let (phase, phases) = channel::channel(Phase::Starting);
    let admin = Admin { phase: phases, metrics: Arc::clone(&metrics) };
    let admin = tokio::spawn(admin::serve(listener, admin, done.clone().cancelled_owned()));

    let (role, mut roles) = channel::channel(Role::Unknown);
    let campaign = {
        let (client, config, done) = (clients.calls.clone(), Arc::clone(&config), done.clone());
        tokio::spawn(async move {
            leader::campaign(client, &config.namespace, &config.identity, role, done).await;
        })
    };
    tracing::info!(namespace = config.namespace, domain = config.domain, "started");

    while stop.run_until_cancelled(roles.changed()).await.is_some_and(|changed| changed.is_ok()) {
        let now = *roles.borrow_and_update();
        metrics.leader.set(i64::from(now == Role::Leader));
        match now {
            Role::Unknown => {}
            Role::Standby => _ = phase.send_replace(Phase::Standby),
            Role::Leader => {
                let (stores, watches) = watch::all(&clients.watches, &metrics);
                phase.send_replace(Phase::Leading(Arc::clone(&stores)));
                let context =
                    Context::new(clients.calls.clone(), Arc::clone(&config), Arc::clone(&metrics), stores);
                lead(context, watches, &stop, roles.clone()).await;
            }
        }
    }
    // In this order: the Lease is given up only when no reconciliation can write any more.
    done.cancel();
    let _ = campaign.await;
    let _ = admin.await;
    tracing::info!("ended");
    Ok(())
}

/// One term as leader: until the Lease is lost (then at once, another may already write) or the process
/// is told to end (then what has begun is finished).
async fn lead(
    context: Context,
    watches: watch::Watches,
    stop: &CancellationToken,
    mut roles: channel::Receiver<Role>,
) {
    let work = function::control(Arc::new(context), watches, stop.clone());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        () = work => if !stop.is_cancelled() {
            tracing::error!("the controller ended by itself, ending the process to begin anew");
            stop.cancel();
        },
        _ = roles.wait_for(|role| *role != Role::Leader) => tracing::warn!("lost the Lease"),
        () = overdue => tracing::warn!("reconciliations did not end in time"),
    }
}

/// A token that SIGTERM or SIGINT cancels.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let mut term = unix::signal(unix::SignalKind::terminate())?;
    let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end");
        token.cancel();
    });
    Ok(stop)
}
