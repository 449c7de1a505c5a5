//! A connection's life: driven until it ends, by itself, by its clocks, or because it is asked to.

use std::{
    future::{poll_fn, ready},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{
    activity::{Activity, Clocks, Verdict},
    answers::Answers,
    connection::Connection,
};
use crate::{memory::Memory, time};

/// How long an idle client has to close its connection once it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself.
    Closed,
    /// It cannot go on.
    Broken,
    /// It was asked to close, or cut, because it did nothing.
    Idle,
    /// It was cut because a head took too long.
    SlowHead,
}

/// Drives a connection until it ends, by itself or by its clocks. It is asked to end when `leave` says so, or when it does
/// nothing and others need what it keeps.
pub(super) async fn drive<T: AsyncRead + AsyncWrite + Unpin + Send + 'static, S: Answers>(
    mut connection: Connection<T, S>,
    activity: &Arc<Activity>,
    clocks: &Clocks,
    memory: &Memory,
    leave: CancellationToken,
) -> End {
    let debt = memory.owe_when_idle(activity.client(), Arc::clone(activity) as _);
    // Polled only when they have something to say: a connection is woken for each request.
    let mut seldom = FuturesUnordered::new();
    seldom.push(leave.cancelled_owned().map(|()| Seldom::Leave).boxed());
    seldom.push(poll_fn(move |cx| debt.poll_ended(cx)).map(|()| Seldom::Idle).boxed());
    seldom.push(after(clocks.head / 4, Seldom::Time));
    let mut idle = false;
    loop {
        let what = tokio::select! {
            biased;
            ended = poll_fn(|cx| time::turn(|| connection.poll(cx))) => return match ended {
                _ if idle => End::Idle,
                Err(error) => {
                    tracing::debug!(%error, "a connection broke");
                    End::Broken
                }
                Ok(()) => End::Closed,
            },
            Some(what) = seldom.next() => what,
        };
        match what {
            Seldom::Leave => connection.leave(),
            Seldom::Time => match activity.verdict(clocks) {
                Verdict::Fine(next) => seldom.push(after(next, Seldom::Time)),
                Verdict::SlowHead => return End::SlowHead,
                Verdict::Idle => seldom.push(ready(Seldom::Idle).boxed()),
            },
            Seldom::Idle => {
                idle = true;
                connection.leave();
                seldom.push(after(FAREWELL, Seldom::Farewell));
            }
            Seldom::Farewell if activity.is_quiet() => return End::Idle,
            Seldom::Farewell => seldom.push(after(FAREWELL, Seldom::Farewell)),
        }
    }
}

/// What happens to a connection beside its requests.
enum Seldom {
    /// It is to end.
    Leave,
    /// It is time to look at its clocks.
    Time,
    /// It has done nothing for too long, or others need what it keeps.
    Idle,
    /// By now it has had time to end.
    Farewell,
}

fn after(pause: Duration, what: Seldom) -> BoxFuture<'static, Seldom> {
    tokio::time::sleep(pause).map(|()| what).boxed()
}
