//! New pods are dialled by ourselves every few milliseconds: the kubelet's readiness, and the endpoints
//! that follow from it, come up to a second later. So are pods that refused a connection or left a request
//! unanswered.

use std::{sync::Arc, time::Duration, time::Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_crds::Protocol;
use tokio::{net::TcpStream, runtime::Handle};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    function::{FunctionState, PodRef},
    proxy::{DIAL_TIMEOUT, adopt},
};

/// Time for the answer to a probe's GET.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before the next attempt, by how long the pod has been probed: a start that is quick is seen at
/// once, a slow one costs no CPU.
fn pause(probed_for: Duration) -> Duration {
    match probed_for {
        short if short < Duration::from_secs(2) => Duration::from_millis(5),
        medium if medium < Duration::from_secs(15) => Duration::from_millis(20),
        _ => Duration::from_millis(100),
    }
}

/// Time for a connection. A pod that has not been reached in this way may be on a slow network or a busy node.
fn dial_timeout(probed_for: Duration) -> Duration {
    if probed_for < Duration::from_secs(2) { DIAL_TIMEOUT } else { Duration::from_secs(1) }
}

/// Probes a pod in the background until it answers or is gone, and then opens it to requests.
pub fn start(function: &Arc<FunctionState>, pod: PodRef) {
    let function = Arc::clone(function);
    tokio::spawn(async move {
        let gone = pod.gone.clone();
        tokio::select! {
            () = until_answered(&function, &pod) => function.pod_answers(&pod, Instant::now()),
            () = gone.cancelled() => pod.pool.clear(),
        }
    });
}

/// Takes a pod that refused a connection out of use until it answers again.
pub fn set_aside(function: &Arc<FunctionState>, pod: &PodRef) {
    if function.pod_refused(pod, Instant::now()) {
        start(function, pod.clone());
    }
}

/// A pod took a request and left it without an answer: it is used last until it answers again.
pub fn doubt(function: &Arc<FunctionState>, pod: &PodRef) {
    // Without a runtime everything is about to end anyway.
    if Handle::try_current().is_ok() && function.pod_silent(pod, Instant::now()) {
        tracing::info!(function = %function.key, pod = pod.name, "a pod left a request unanswered and is set aside");
        start(function, pod.clone());
    }
}

async fn until_answered(function: &FunctionState, pod: &PodRef) {
    let began = Instant::now();
    loop {
        // Read anew: the path may be changed while the pod starts.
        let config = function.config();
        let stream = dial(pod, dial_timeout(began.elapsed())).await;
        if let Some(stream) = stream
            && answers(pod, stream, config.probe_path.as_deref(), config.protocol).await
        {
            return;
        }
        tokio::time::sleep(pause(began.elapsed())).await;
    }
}

async fn dial(pod: &PodRef, timeout: Duration) -> Option<TcpStream> {
    tokio::time::timeout(timeout, TcpStream::connect(pod.address)).await.ok()?.ok()
}

async fn answers(pod: &PodRef, stream: TcpStream, path: Option<&str>, protocol: Protocol) -> bool {
    let answered = async {
        match path {
            Some(path) => get(pod, stream, path).await,
            // The kernel takes connections for a program that hangs.
            None if pod.pulse.is_silent() => ping(pod, stream, protocol).await,
            None => {
                // The first request finds the connection open.
                if let Ok(connection) = adopt(pod.pool.stream(stream), protocol).await {
                    pod.pool.put(connection);
                }
                true
            }
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answered).await.unwrap_or(false)
}

/// Whether a GET is answered with a status from 200 to 299.
async fn get(pod: &PodRef, stream: TcpStream, path: &str) -> bool {
    let status = ask(pod, stream, Protocol::Http1, Method::GET, path).await;
    status.is_some_and(|status| status.is_success())
}

/// Whether there is any answer to `OPTIONS *`, which asks a server for nothing but a sign of life (RFC 9110,
/// section 9.3.7).
async fn ping(pod: &PodRef, stream: TcpStream, protocol: Protocol) -> bool {
    ask(pod, stream, protocol, Method::OPTIONS, "*").await.is_some()
}

/// The status of an answer; `None`: there was none.
async fn ask(
    pod: &PodRef,
    stream: TcpStream,
    protocol: Protocol,
    method: Method,
    target: &str,
) -> Option<StatusCode> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, pod.address.to_string())
        .header(header::USER_AGENT, "pilotlight-probe")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let stream = TokioIo::new(stream);
    let response = match protocol {
        Protocol::Http1 => {
            let (mut sender, connection) = http1::handshake(stream).await.ok()?;
            let _driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
            sender.send_request(request).await
        }
        Protocol::H2c => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.ok()?;
            let _driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
            sender.send_request(request).await
        }
    };
    Some(response.ok()?.status())
}
