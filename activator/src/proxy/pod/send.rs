//! A request is offered to pods until one takes it: each time with a slot, which it may have to wait for.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Request, Response};

use super::{
    forward::{Answer, Failure, Terms, forward},
    repeat::{self, Spare},
};
use crate::{
    function::{Acquired, FunctionState, PodRef, Wish},
    probe,
    proxy::{
        body::{RequestBody, ResponseBody},
        grpc::Call,
        headers,
        respond::ProxyError,
        route::Routed,
        timing::Timing,
    },
};

/// How many pods a request is offered to before we say that none could be connected to.
const ATTEMPTS: usize = 3;

/// What is left to say of a slot once it has gone with the response.
pub(in crate::proxy) struct Served {
    pub(in crate::proxy) timing: Timing,
    pub(in crate::proxy) at: Instant,
    pub(in crate::proxy) cold: bool,
    pub(in crate::proxy) unasked: bool,
    pub(in crate::proxy) pod: PodRef,
}

impl Served {
    /// Tells the client where its time went.
    pub(in crate::proxy) fn annotate(&self, headers: &mut HeaderMap) {
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
pub(in crate::proxy) async fn send(
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
            Err(Failure::Refused(why)) => {
                let error = ProxyError::Connect(why);
                let Some(again) = spare.and_then(Spare::request) else { return Err(error) };
                request = Box::new(again);
                error
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
    let spare = spare.filter(Spare::idempotent)?;
    spare.request().filter(|_| function.retries.spend()).map(Box::new)
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
