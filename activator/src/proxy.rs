//! START HERE (requests): route, take a slot or hold, forward, answer.
//!
//! A request is counted in flight by its [`Slot`](crate::function::Slot), which travels with the
//! response's body: whatever ends the body gives the slot back.
//!
//! - [`client`]: clients' connections: accepted, kept strict, bounded, and ended in order
//! - [`pod`]: a request is offered to pods until one takes it, over connections of ours
//! - here: what joins the two. Where to: [`route`]. What is asked: [`strict`], [`host`], [`path`], [`request`],
//!   [`headers`], [`origin`], [`sessions`], [`trace`], [`expect`], [`upgrade`]. What is answered: [`respond()`],
//!   [`grpc`], [`interim`], [`timing`]. What flows: [`body`], [`tunnel`], over [`tcp`] or streams of [`http2`]. How long:
//!   [`clock`]

mod body;
mod client;
mod clock;
mod expect;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod grpc;
mod headers;
mod host;
mod http2;
mod interim;
mod origin;
mod path;
mod pod;
mod request;
mod respond;
mod route;
mod sessions;
mod strict;
mod tcp;
mod timing;
mod trace;
mod tunnel;
mod upgrade;

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};

pub use self::{
    body::{RequestBody, ResponseBody},
    client::{Clients, Clocks, Connections, Front, Limits, MinRate, Port, serve, serve_with},
    origin::{Caller, Cidr, InvalidCidr, Peer},
    pod::Pool,
    sessions::Sessions,
    trace::TraceIds,
    tunnel::Tunnels,
};
pub(crate) use self::{
    client::broken_rule,
    pod::{DIAL_TIMEOUT, adopt},
};
use self::{
    grpc::Call,
    pod::{Terms, send},
    request::{in_memory, to_pod},
    respond::{Asked, Closes, ProxyError, respond},
    route::Routed,
    trace::Trace,
    upgrade::Upgrade,
};
use crate::{
    function::{FunctionState, Process, Timeouts, Wish},
    index::SharedRoutes,
    memory::{Shortage, cost},
    metrics::{Metrics, Source},
    tls::Redirect,
};

/// What every request needs.
#[derive(Debug)]
pub struct Proxy {
    /// Host and path to function.
    pub routes: Arc<SharedRoutes<FunctionState>>,
    /// The process's own bounds and whether it is about to end.
    pub process: Arc<Process>,
    /// Metrics.
    pub metrics: Metrics,
    /// Sessions.
    pub sessions: Sessions,
    /// Proxies in front whose word on where a request comes from is taken.
    pub trusted: Vec<Cidr>,
    /// Ids for requests that come without one.
    pub traces: TraceIds,
    /// How fast requests' bodies have to come.
    pub rate: MinRate,
    /// Where plain requests for hosts with a certificate are sent, if they are not to be served.
    pub redirect: Option<Redirect>,
    /// Upgraded connections.
    pub tunnels: Tunnels,
}

impl Proxy {
    /// Answers one request, that came when it `began`.
    async fn answer(
        &self,
        request: Box<Request<RequestBody>>,
        peer: &Peer,
        began: Instant,
    ) -> Response<ResponseBody> {
        let version = request.version();
        let asked =
            Asked { trace: Trace::of(request.headers(), &self.traces), call: Call::of(&request, began) };
        let routed = match self.admit(version, request.headers().capacity(), peer).await {
            true => self.route(&request, peer, asked, began),
            false => Err(ProxyError::MemoryFull),
        };
        let mut response = match routed {
            Ok(routed) => self.answer_routed(&routed, request).await,
            Err(error) => {
                self.metrics.unrouted.with_label_values(&[error.verdict().reason]).inc();
                respond(&error, &asked, None).map(Into::into)
            }
        };
        // A body that waits for its stream's window is memory.
        let memory = self.process.memory();
        if !memory.has_more() && version > Version::HTTP_11 && response.body().is_ours() {
            *response.body_mut() = ResponseBody::empty();
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let closes = response.extensions().get::<Closes>().is_some();
        let closes = closes || memory.shortage() == Shortage::Full || self.process.leaving();
        if closes && version <= Version::HTTP_11 && !upgraded {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Takes the memory that a request needs, with room for so many headers.
    async fn admit(&self, version: Version, headers: usize, peer: &Peer) -> bool {
        let memory = self.process.memory();
        // The headers of HTTP/2 may be much more than what was read.
        let http2 = version == Version::HTTP_2;
        let bytes = cost::REQUEST + if http2 { headers * cost::HEADER } else { 0 };
        if memory.take(bytes) {
            return true;
        }
        // Many streams that waited would themselves be what there is no memory for: of a connection one waits, as with
        // HTTP/1.
        let soon = async {
            let Ok(_turn) = peer.patient.try_lock() else { return false };
            memory.take_soon(bytes).await
        };
        Box::pin(soon).await
    }

    async fn answer_routed(
        &self,
        routed: &Routed<'_>,
        request: Box<Request<RequestBody>>,
    ) -> Response<ResponseBody> {
        let Routed { function, asked, began, .. } = routed;
        match self.forward_routed(routed, request).await {
            Ok((response, at)) => {
                let after = at.saturating_duration_since(*began);
                function.metrics.answered(response.status(), Source::Function, after);
                response
            }
            Err(error) => {
                // What is told in gRPC's way has another status than what it means.
                let status = error.verdict().status;
                function.metrics.answered(status, Source::Activator, began.elapsed());
                respond(&error, asked, Some(function.key.to_string())).map(Into::into)
            }
        }
    }

    /// The answer of a pod, and when its head had come.
    async fn forward_routed(
        &self,
        routed: &Routed<'_>,
        mut request: Box<Request<RequestBody>>,
    ) -> Result<(Response<ResponseBody>, Instant), ProxyError> {
        let Routed { function, .. } = routed;
        let (config, version) = (function.config(), request.version());
        let session = self.sessions.begin(&config, request.headers()).await;
        let mut upgrade = Upgrade::of(&mut request)?;
        let rate = rate_of(self.rate, request.headers(), &config.timeouts);
        to_pod(&mut request, routed, config.protocol, rate)?;
        if let Some(asked) = &mut upgrade
            && !asked.ask(&mut request, config.protocol)?
        {
            upgrade = None;
        }
        session.pass_on(request.headers_mut());
        let (timeouts, protocol, call) = (config.timeouts, config.protocol, routed.asked.call);
        let mut terms = Terms { timeouts, protocol, call, upgrade, tunnels: &self.tunnels };
        let wish = Wish { bytes: in_memory(&request), pod: session.pod(), until: None };
        let (mut response, acquired) = send(routed, wish, request, &mut terms).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            headers::to_client(response.headers_mut());
        }
        if acquired.unasked && version <= Version::HTTP_11 {
            // The client may send the body or not: nobody can be sure where the next request begins.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        acquired.annotate(response.headers_mut());
        self.sessions.end(session, &acquired.pod.uid, routed.scheme, response.headers_mut());
        Ok((response, acquired.at))
    }
}

/// How fast a body has to come. gRPC's clients stream messages when they have some (a client-streaming call is
/// answered at its end), so for them only the longest silence counts.
fn rate_of(rate: MinRate, headers: &HeaderMap, timeouts: &Timeouts) -> MinRate {
    let kind = headers.get(header::CONTENT_TYPE);
    let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let bytes_per_second = if grpc { 0 } else { rate.bytes_per_second };
    MinRate { bytes_per_second, stall: timeouts.idle, ..rate }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each connection has room for one, and each request moves one.
    #[test]
    fn the_future_of_a_request_is_small() {
        fn size<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let answer =
            |proxy: &'static Proxy, request, peer: &'static Peer| proxy.answer(request, peer, Instant::now());
        assert!(size(answer) < 3 * 1024, "{}", size(answer));
    }
}
