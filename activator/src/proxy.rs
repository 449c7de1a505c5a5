//! START HERE (requests): route, take a slot or hold, forward, answer.
//!
//! A request is counted in flight by its [`Slot`](crate::function::Slot), which travels with the
//! response's body: whatever ends the body gives the slot back.
//!
//! - [`client`]: clients' connections: accepted, kept strict, bounded, and ended in order
//! - [`pod`]: connections to pods, and one attempt to have one of them answer
//! - here: what joins the two. What is asked: [`strict`], [`host`], [`path`], [`request`], [`headers`], [`origin`],
//!   [`sessions`], [`trace`], [`expect`], [`upgrade`]. What is answered: [`respond()`], [`grpc`], [`interim`],
//!   [`timing`]. What flows: [`body`], [`tunnel`], over [`tcp`]

mod body;
mod client;
mod expect;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod grpc;
mod headers;
mod host;
mod interim;
mod origin;
mod path;
mod pod;
mod request;
mod respond;
mod sessions;
mod strict;
mod tcp;
mod timing;
mod trace;
mod tunnel;
mod upgrade;

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, uri::PathAndQuery};
use pilotlight_crds::UrlScheme;

use self::{
    body::RequestBody,
    grpc::Call,
    pod::{
        Answer, Failure, Terms, forward,
        repeat::{self, Spare},
    },
    request::{in_memory, to_pod},
    respond::{Asked, ProxyError, respond},
    timing::Timing,
    trace::Trace,
    upgrade::Upgrade,
};
pub use self::{
    body::ResponseBody,
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
use crate::{
    function::{Acquired, FunctionState, PodRef, Process, Timeouts, Wish},
    index::SharedRoutes,
    memory::{Shortage, cost},
    metrics::{Metrics, Source},
    probe,
    tls::Redirect,
};

/// How many pods a request is offered to before we say that none could be connected to.
const ATTEMPTS: usize = 3;

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

/// A request whose function is known.
struct Routed<'a> {
    function: Arc<FunctionState>,
    host: Option<HeaderValue>,
    peer: &'a Peer,
    /// How the client has come to us, or to a proxy in front that we trust.
    scheme: UrlScheme,
    asked: Asked,
    strip: usize,
    began: Instant,
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
        let routed = match self.admit(version, request.headers().capacity()).await {
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
        // After a request that breaks the rules nobody can be sure where the next one begins; after one whose
        // body came too slowly the rest of it would.
        let unfinished = matches!(response.status(), StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT)
            && response.body().is_ours();
        // An open connection is memory too, and so is a body that waits for its stream's window.
        let memory = self.process.memory();
        if !memory.has_more() && version > Version::HTTP_11 && response.body().is_ours() {
            *response.body_mut() = ResponseBody::empty();
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let full = memory.shortage() == Shortage::Full;
        if (unfinished || full || self.process.leaving()) && version <= Version::HTTP_11 && !upgraded {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Takes the memory that a request needs, with room for so many headers.
    async fn admit(&self, version: Version, headers: usize) -> bool {
        let memory = self.process.memory();
        // The headers of HTTP/2 may be much more than what was read.
        let http2 = version == Version::HTTP_2;
        let bytes = cost::REQUEST + if http2 { headers * cost::HEADER } else { 0 };
        // A stream that waited would itself be what there is no memory for.
        memory.take(bytes) || !http2 && Box::pin(memory.take_soon(bytes)).await
    }

    fn route<'a>(
        &self,
        request: &Request<RequestBody>,
        peer: &'a Peer,
        asked: Asked,
        began: Instant,
    ) -> Result<Routed<'a>, ProxyError> {
        let host = strict::check(request)?;
        let path = request.uri().path();
        let name = host.as_ref().map(host::name).unwrap_or_default();
        let scheme = peer.scheme(request.headers());
        self.check_connection(request, peer, scheme, &name)?;
        let routes = self.routes.load();
        let found = routes.find(&name, path);
        let (function, strip) = match found {
            Some(routed) => (Arc::clone(routed.target), routed.strip),
            None => return Err(ProxyError::NotFound { host: name.into_owned(), path: path.to_owned() }),
        };
        Ok(Routed { function, host, peer, scheme, asked, strip, began })
    }

    /// Whether a request for this host may come on this connection.
    fn check_connection(
        &self,
        request: &Request<RequestBody>,
        peer: &Peer,
        scheme: UrlScheme,
        host: &str,
    ) -> Result<(), ProxyError> {
        if let Some(tls) = &peer.tls {
            return Ok(tls.check(request.version() == Version::HTTP_2, host)?);
        }
        let Some(redirect) = self.redirect.as_ref().filter(|_| scheme == UrlScheme::Http) else {
            return Ok(());
        };
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        redirect.location(host, target).map_or(Ok(()), |to| Err(ProxyError::HttpsOnly(to)))
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

/// What is left to say of a slot once it has gone with the response.
struct Served {
    timing: Timing,
    at: Instant,
    cold: bool,
    unasked: bool,
    pod: PodRef,
}

impl Served {
    /// Tells the client where its time went.
    fn annotate(&self, headers: &mut HeaderMap) {
        self.timing.tell(headers);
        let Some(held) = self.timing.hold else { return };
        let millis = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
        headers.insert(headers::HELD_MS, HeaderValue::from(millis));
        if self.cold {
            headers.insert(headers::COLD_START, HeaderValue::from_static("true"));
        }
    }
}

/// Offers a request to pods until one takes it.
async fn send(
    routed: &Routed<'_>,
    mut wish: Wish<'_>,
    mut request: Box<Request<RequestBody>>,
    terms: &mut Terms<'_>,
) -> Result<(Response<ResponseBody>, Served), ProxyError> {
    let Routed { function, began, .. } = routed;
    let mut last = None;
    let until = || *began + function.config().hold_timeout;
    let mut left = ATTEMPTS;
    loop {
        let acquired = acquire(function, wish, terms.call).await;
        let Acquired { slot, held, cold } = acquired.map_err(|error| graver(last.take(), error))?;
        if let Some(held) = held {
            function.metrics.hold.observe(held.as_secs_f64());
            if let Some(call) = terms.call {
                call.shorten(request.headers_mut(), Instant::now());
            }
        }
        let pod = slot.pod().clone();
        left -= 1;
        let spare = if left > 0 { repeat::keep(&mut request) } else { None };
        let error = match forward(slot, request, terms).await {
            Ok(Answer { response, connect, at, first_byte, unasked }) => {
                function.first_byte(&pod, at);
                function.retries.pay_in();
                let timing = Timing { hold: held, connect, first_byte };
                return Ok((response, Served { timing, at, cold, unasked, pod }));
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Overdue(error)) => {
                // It is used no longer if it has answered nobody else, and there is another pod.
                let elsewhere = !function.uses(&pod) && Instant::now() < *began + terms.timeouts.total;
                let Some(again) = again(function, spare.filter(|_| elsewhere)) else { return Err(error) };
                (request, last) = (again, Some(error));
                wish = Wish { pod: None, until: Some(until()), ..wish };
                function.metrics.retries.inc();
                continue;
            }
            Err(Failure::NoContact(unsent, why)) => {
                // Costs no attempt: with one pod on a busy node there is nothing better to do.
                (request, left) = (unsent, left + 1);
                ProxyError::Connect(why)
            }
            Err(Failure::NotSent(unsent, why)) => {
                request = unsent;
                ProxyError::Connect(why)
            }
            Err(Failure::Unanswered(why)) => {
                let error = ProxyError::Broken(why);
                let Some(again) = again(function, spare) else { return Err(error) };
                request = again;
                error
            }
        };
        let (error, until) = (graver(last.take(), error), until());
        if left == 0 || Instant::now() >= until {
            return Err(error);
        }
        function.metrics.retries.inc();
        probe::set_aside(function, &pod);
        tracing::debug!(function = %function.key, pod = pod.name, %error, "a request goes to another pod");
        last = Some(error);
        wish = Wish { pod: None, until: Some(until), ..wish };
    }
}

/// What is said of a request in the end: if a pod has seen it, what that made of it.
fn graver(before: Option<ProxyError>, error: ProxyError) -> ProxyError {
    before.filter(|before| before.verdict().reached_pod).unwrap_or(error)
}

/// A request again that a pod may have seen, if that is allowed and within the function's budget.
fn again(function: &FunctionState, spare: Option<Spare>) -> Option<Box<Request<RequestBody>>> {
    spare.and_then(Spare::request).filter(|_| function.retries.spend()).map(Box::new)
}

/// Takes a slot or waits for one; a gRPC call no longer than its client does.
async fn acquire(
    function: &Arc<FunctionState>,
    wish: Wish<'_>,
    call: Option<Call>,
) -> Result<Acquired, ProxyError> {
    match call.and_then(|call| call.deadline) {
        None => Ok(function.acquire(wish).await?),
        // On the heap: every request's future would have room for it.
        Some(deadline) => {
            match Box::pin(tokio::time::timeout_at(deadline.into(), function.acquire(wish))).await {
                Ok(acquired) => Ok(acquired?),
                Err(_) => Err(ProxyError::Deadline { reached_pod: false }),
            }
        }
    }
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
