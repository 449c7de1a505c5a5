//! One attempt to have one pod answer one request.

use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode, Version};
use pilotlight_crds::Protocol;

use super::{
    connect::{ConnectError, connect},
    connection::{Connection, Unanswered, Until},
};
use crate::{
    function::{Slot, Timeouts},
    probe,
    proxy::{
        body::{Bounds, Cut, Incoming, Progress, RequestBody, ResponseBody, Source},
        grpc::Call,
        respond::ProxyError,
        strict,
        tunnel::{Ends, Tunnels},
        upgrade::Upgrade,
    },
    time,
};

/// A pod that has answered nothing for as long as this while somebody waited, who has gone, is asked whether it
/// still lives.
const SILENCE: Duration = Duration::from_secs(1);

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing of the request was sent: it can go to another pod.
    NotSent(Box<Request<RequestBody>>, String),
    /// The same, and nobody refused anything: the pod did not answer the dial in time, or has just ended.
    NoContact(Box<Request<RequestBody>>, String),
    /// It was sent, and the pod says that it has not looked at it.
    Refused(String),
    /// The pod may have seen it, and no byte of an answer has come.
    Unanswered(String),
    /// The pod took it, and there was no answer in time.
    Overdue(ProxyError),
    /// There is nothing more to try.
    Final(ProxyError),
}

/// What an attempt has to keep to.
#[derive(Debug)]
pub(in crate::proxy) struct Terms<'a> {
    pub(in crate::proxy) timeouts: Timeouts,
    pub(in crate::proxy) protocol: Protocol,
    /// The gRPC call that the request is, if it is one.
    pub(in crate::proxy) call: Option<Call>,
    /// What the client's connection is to become, if not only a response is asked for.
    pub(in crate::proxy) upgrade: Option<Upgrade>,
    /// Where upgraded connections go.
    pub(in crate::proxy) tunnels: &'a Tunnels,
}

impl Terms<'_> {
    /// How long a response to what is forwarded at `now` may go on.
    fn bounds(&self, now: Instant) -> Bounds {
        let Timeouts { idle, total, .. } = self.timeouts;
        let (until, cut) = match self.call.and_then(|call| call.deadline) {
            Some(deadline) if deadline < now + total => (deadline, Cut::Deadline),
            _ => (now + total, Cut::Total(total)),
        };
        Bounds { idle, until, cut, call: self.call.is_some() }
    }

    /// Why there is no answer at `now`, when there ought to be one.
    fn overdue(&self, now: Instant) -> ProxyError {
        match self.call.and_then(|call| call.deadline) {
            Some(deadline) if deadline <= now => ProxyError::Deadline { reached_pod: true },
            _ => ProxyError::FirstByte(self.timeouts.first_byte.min(self.timeouts.total)),
        }
    }
}

/// A pod's answer, and what it took to get it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<ResponseBody>,
    /// Time to connect; `None`: there was a connection.
    pub(super) connect: Option<Duration>,
    /// When the response's head had come.
    pub(super) at: Instant,
    /// Until then, from the request's way to the pod.
    pub(super) first_byte: Duration,
    /// Whether the pod answered without having asked for the body that waits for that.
    pub(super) unasked: bool,
}

/// Sends a request to the pod of a slot and waits for the head of the response. The slot goes with the
/// response's body.
pub(super) async fn forward(
    slot: Slot,
    request: Box<Request<RequestBody>>,
    terms: &mut Terms<'_>,
) -> Result<Answer, Failure> {
    let began = time::now();
    let bounds = terms.bounds(began);
    let upload = request.body().progress();
    request.body().forwarded(began);
    let patience = terms.timeouts.first_byte.min(SILENCE);
    let mut wait = Wait {
        slot: &slot,
        upload: &upload,
        answers: slot.pod().pulse.answers(),
        began,
        patience,
        over: false,
    };
    let exchanged = exchange(&slot, request, terms, began, bounds.until).await;
    wait.ends_with(&exchanged);
    drop(wait);
    let Exchanged { mut response, mut connection, connect } = exchanged?;
    let at = time::now();
    let first_byte = at.duration_since(began).saturating_sub(connect.unwrap_or_default());
    let switched = match &terms.upgrade {
        Some(upgrade) => upgrade.settle(&mut response),
        None if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            Err(ProxyError::Upgrade("the pod switched protocols unasked"))
        }
        None => Ok(false),
    };
    if let (true, Some(upgrade)) = (switched.map_err(Failure::Final)?, terms.upgrade.take()) {
        let pod = connection.tunnel(&mut response);
        let websocket = upgrade.websocket();
        let ends = Ends { client: upgrade.client, pod, websocket, stream: upgrade.stream };
        terms.tunnels.join(ends, slot, terms.timeouts.idle, bounds.until);
        let response = response.map(|_| ResponseBody::empty());
        return Ok(Answer { response, connect, at, first_byte, unasked: false });
    }
    // On failure the connection goes with the body that nobody reads: it is closed.
    strict::check_answer(response.headers())
        .map_err(|why| Failure::Final(ProxyError::Malformed(why.to_owned())))?;
    let (mut parts, body) = response.into_parts();
    // RFC 9110, section 6.2: each hop says its own version, and hyper the client's if that is lower.
    parts.version = Version::HTTP_11;
    let unasked = upload.unasked();
    let body = ResponseBody::from_pod(body, Source { slot, connection, upload }, bounds);
    Ok(Answer { response: Response::from_parts(parts, body), connect, at, first_byte, unasked })
}

/// Somebody who waits for an answer. If he leaves without one, be it that the time is over or that the client has
/// gone, and the pod has answered nobody else meanwhile, it is doubted. Others are told of free slots only afterwards.
struct Wait<'a> {
    slot: &'a Slot,
    upload: &'a Progress,
    /// What the pod's pulse was when the wait began.
    answers: u32,
    began: Instant,
    /// A shorter wait says nothing.
    patience: Duration,
    over: bool,
}

impl Wait<'_> {
    /// There is an answer, or an error that says something else of the pod.
    fn ends_with(&mut self, exchanged: &Result<Exchanged, Failure>) {
        self.over = !matches!(exchanged, Err(Failure::Overdue(_)));
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let Self { slot, upload, answers, began, patience, over } = self;
        let pod = slot.pod();
        // As long as the request's body goes on, the pod may be waiting for the rest of it.
        let silent = || upload.ended() && pod.pulse.answers() == *answers && began.elapsed() >= *patience;
        if !*over && silent() {
            probe::doubt(slot.function(), pod);
        }
    }
}

/// A response's head, the connection that it came on, and the time to make that if it is new.
struct Exchanged {
    response: Response<Incoming>,
    connection: Connection,
    connect: Option<Duration>,
}

/// Tries a connection that was used before; if the pod has just closed that one, a new one.
async fn exchange(
    slot: &Slot,
    mut request: Box<Request<RequestBody>>,
    terms: &Terms<'_>,
    began: Instant,
    until: Instant,
) -> Result<Exchanged, Failure> {
    let protocol = terms.protocol;
    let tunnel = terms.upgrade.is_some() && protocol == Protocol::H2c;
    if !tunnel && let Some(connection) = slot.pod().pool.take(protocol, began).await {
        match send(connection, request, terms, until).await {
            Err(Failure::NotSent(unsent, _)) => request = unsent,
            done => {
                let (response, connection) = done?;
                return Ok(Exchanged { response, connection, connect: None });
            }
        }
    }
    let began = Instant::now();
    // On the heap: most requests find a connection, and all would have room for this.
    let connected = Box::pin(connect(slot.pod(), protocol, tunnel)).await;
    let connection = match connected {
        Ok(connection) => connection,
        Err(ConnectError::NoTunnels) => return Err(Failure::Final(ProxyError::NoTunnels)),
        Err(error @ (ConnectError::Timeout | ConnectError::Ended)) => {
            return Err(Failure::NoContact(request, error.to_string()));
        }
        Err(error) => return Err(Failure::NotSent(request, error.to_string())),
    };
    let connect = Some(began.elapsed());
    let (response, connection) = send(connection, request, terms, until).await?;
    Ok(Exchanged { response, connection, connect })
}

async fn send(
    mut connection: Connection,
    request: Box<Request<RequestBody>>,
    terms: &Terms<'_>,
    until: Instant,
) -> Result<(Response<Incoming>, Connection), Failure> {
    let timeouts = &terms.timeouts;
    let progress = request.body().progress();
    // It moves with the body, which this task sends.
    let deadline = || progress.overdue(timeouts).min(until);
    let Some(answered) = connection.send(request, deadline).await else {
        let now = Instant::now();
        let slow_body = progress.waits_for_client() && progress.overdue(timeouts) <= now;
        return Err(match slow_body {
            true => Failure::Final(ProxyError::SlowBody),
            false => Failure::Overdue(terms.overdue(now)),
        });
    };
    match answered {
        Ok(response) => {
            progress.answered();
            // What is left of the request, or of an upgrade, goes on whether or not the client reads.
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                connection.drive_itself(Until::Closed);
            } else if !progress.ended() {
                connection.drive_itself(Until::Dropped);
            }
            Ok((response, connection))
        }
        Err(_) if progress.slow() => Err(Failure::Final(ProxyError::SlowBody)),
        Err(_) if progress.broken() => {
            Err(Failure::Final(ProxyError::BadRequest("the body is malformed, or broke off")))
        }
        Err(Unanswered::NotSent(unsent, why)) => Err(Failure::NotSent(unsent, why)),
        Err(Unanswered::Refused(why)) => Err(Failure::Refused(why)),
        // Another pod of the same image would say the same.
        Err(Unanswered::Malformed(why)) => Err(Failure::Final(ProxyError::Malformed(why))),
        Err(Unanswered::Silent(why)) => Err(Failure::Unanswered(why)),
    }
}
