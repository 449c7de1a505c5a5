//! The connection to Redis, and the breaker in front of it.
//!
//! One task, the keeper, connects, probes and reconnects; callers only ever look at what it last published:
//! a line that works, or that there is none. So a caller waits for Redis at most one budget, by default
//! [`DEFAULT_BUDGET`], and while Redis is away it does not wait at all.
//!
//! The redis crate's `ConnectionManager` cannot give that: it takes a timeout for a passing trouble and keeps
//! the connection (so a black hole lasts as long as TCP's patience), keeps it on `READONLY` too (so writes
//! fail for ever after a fail-over), and lets callers wait for its reconnects.
//!
//! Sentinel or Cluster would change [`connect`], which resolves the address anew each time, and nothing else.

use std::{fmt, sync::Arc, time::Duration};

use prometheus::IntGauge;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, RedisResult,
    ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// The most that one operation takes, whatever Redis does. A healthy Redis needs a hundredth of it.
pub const DEFAULT_BUDGET: Duration = Duration::from_millis(100);
/// Connecting takes several exchanges and may have to look up a name: it gets so many budgets.
const CONNECT_BUDGETS: u32 = 4;
/// Pause between attempts. With the time for connecting it bounds how late a recovery is noticed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How often an idle line is probed, so that it is known to be dead before a request needs it.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Commands that wait for the socket; beyond it callers wait in turn, inside their budget.
const PIPELINE: usize = 256;

/// A text that is not an address of Redis. It may hold a password, so it is not repeated.
#[derive(Debug, thiserror::Error)]
#[error("not an address of Redis such as redis://:password@host:6379/0 or unix:///run/redis.sock ({0})")]
pub struct InvalidRedisUrl(&'static str);

/// Why an operation was not done. For a write: Redis did not acknowledge it, and will not do it later than
/// one budget after this answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// Redis is known to be away; nothing was sent.
    #[error("Redis is away: {0}")]
    Away(Arc<str>),
    /// Redis did not answer in time.
    #[error("Redis did not answer in time")]
    TimedOut,
    /// The connection broke, or Redis cannot serve for now (loading, a replica after a fail-over).
    #[error("Redis went away: {0}")]
    Broken(Arc<str>),
    /// Redis works and does not do this (out of memory, no permission).
    #[error("Redis refused: {0}")]
    Refused(Arc<str>),
}

impl Unavailable {
    /// A word for metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::TimedOut => "timeout",
            Self::Broken(_) => "broken",
            Self::Refused(_) => "refused",
        }
    }
}

/// What the keeper last published.
#[derive(Clone)]
enum State {
    /// Before the first attempt to connect has ended.
    Starting,
    Up(Line),
    Down(Arc<str>),
}

/// A connection that answered its last probe.
#[derive(Clone)]
struct Line {
    /// Tells this line from its successors: trouble of an old line says nothing about a new one.
    number: u64,
    connection: MultiplexedConnection,
    clock: RedisClock,
}

/// What Redis' clock showed, and when. Never behind Redis' clock, and at most one answer's time ahead.
#[derive(Clone, Copy)]
struct RedisClock {
    shown: Duration,
    asked: Instant,
}

impl RedisClock {
    /// Redis' time at `when`, in ms.
    fn millis_at(self, when: Instant) -> u64 {
        let time = self.shown + when.saturating_duration_since(self.asked);
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The connection to Redis. Dropping it ends the keeper.
pub(super) struct Link {
    budget: Duration,
    state: watch::Sender<State>,
    _keeper: AbortOnDropHandle<()>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.state.borrow() {
            State::Starting => "starting",
            State::Up(_) => "up",
            State::Down(_) => "down",
        };
        f.debug_struct("Link").field("state", &state).finish_non_exhaustive()
    }
}

impl Link {
    /// Starts to connect, and does not wait for it: Redis may be away for now. `up` shows whether it answers.
    /// Needs a Tokio runtime.
    pub(super) fn open(url: &str, budget: Duration, up: IntGauge) -> Result<Self, InvalidRedisUrl> {
        let address = url.into_connection_info().map_err(|_| InvalidRedisUrl("it does not parse"))?;
        let address = address.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(address).map_err(|_| InvalidRedisUrl("this kind is not supported"))?;
        let (state, _) = watch::channel(State::Starting);
        let keeper = Keeper { client, budget, state: state.clone(), up };
        Ok(Self { budget, state, _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run())) })
    }

    /// Runs one script. `script` is given the time, by Redis' clock in ms, after which nobody waits for it.
    pub(super) async fn call<'a, T: FromRedisValue>(
        &self,
        script: impl FnOnce(u64) -> ScriptInvocation<'a>,
    ) -> Result<T, Unavailable> {
        let deadline = Instant::now() + self.budget;
        let mut line = self.line(deadline).await?;
        let script = script(line.clock.millis_at(deadline));
        let failure = match timeout_at(deadline, script.invoke_async(&mut line.connection)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => classify(&error),
            Err(_) => Unavailable::TimedOut,
        };
        if !matches!(failure, Unavailable::Refused(_)) {
            self.report(line.number, &failure);
        }
        Err(failure)
    }

    /// The line to use now. Only before the first attempt to connect has ended is it waited for.
    async fn line(&self, deadline: Instant) -> Result<Line, Unavailable> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Starting));
        match timeout_at(deadline, known).await.as_ref().map(|known| known.as_deref()) {
            Ok(Ok(State::Up(line))) => Ok(line.clone()),
            Ok(Ok(State::Down(why))) => Err(Unavailable::Away(why.clone())),
            Ok(Ok(State::Starting) | Err(_)) | Err(_) => Err(Unavailable::Away("still connecting".into())),
        }
    }

    /// Opens the breaker, unless a newer line is already up.
    fn report(&self, number: u64, failure: &Unavailable) {
        self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up(line) if line.number == number);
            if current {
                *state = State::Down(failure.to_string().into());
            }
            current
        });
    }
}

/// The task that keeps the line up.
struct Keeper {
    client: Client,
    budget: Duration,
    state: watch::Sender<State>,
    up: IntGauge,
}

impl Keeper {
    async fn run(self) {
        // The first failure after something else is worth a line in the log, the others are not.
        let mut already_down = false;
        for number in 0.. {
            let began = Instant::now();
            let why = match connect(&self.client, self.budget).await {
                Ok((connection, clock)) => {
                    already_down = false;
                    self.serve(Line { number, connection, clock }).await
                }
                Err(why) => why,
            };
            if !std::mem::replace(&mut already_down, true) {
                warn!(%why, "Redis is away: sessions answer 503 until it is back");
            }
            self.up.set(0);
            self.state.send_replace(State::Down(why));
            // A line that has served for a while is replaced at once; one that broke at birth is not
            // hammered (a replica accepts connections and refuses work).
            if began.elapsed() < self.budget * CONNECT_BUDGETS + RETRY_PAUSE {
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Publishes the line and probes it until it breaks. Says why it broke.
    async fn serve(&self, mut line: Line) -> Arc<str> {
        let number = line.number;
        info!(number, "connected to Redis");
        self.up.set(1);
        self.state.send_replace(State::Up(line.clone()));
        let mut state = self.state.subscribe();
        loop {
            let broken = state.wait_for(|state| !matches!(state, State::Up(_)));
            if let Ok(Ok(reported)) = timeout(PROBE_INTERVAL, broken).await {
                return match &*reported {
                    State::Down(why) => why.clone(),
                    State::Starting | State::Up(_) => "unknown".into(),
                };
            }
            match probe(&mut line.connection, self.budget).await {
                Ok(clock) => line.clock = clock,
                Err(why) => return why,
            }
            self.state.send_if_modified(|state| {
                let up = matches!(state, State::Up(_));
                if up {
                    *state = State::Up(line.clone());
                }
                up
            });
        }
    }
}

/// A new connection that has answered a probe.
async fn connect(client: &Client, budget: Duration) -> Result<(MultiplexedConnection, RedisClock), Arc<str>> {
    let all = budget * CONNECT_BUDGETS;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(all))
        // Every command has its own deadline; this one only frees what those leave behind.
        .set_response_timeout(Some(all))
        .set_pipeline_buffer_size(PIPELINE);
    let connected = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| text(&error))?;
        let clock = probe(&mut connection, budget).await?;
        Ok((connection, clock))
    };
    timeout(all, connected).await.unwrap_or_else(|_| Err("it cannot be connected to in time".into()))
}

/// Asks for Redis' time by a script, because scripts are what operations are: a Redis that is loading, or
/// forbids scripts, fails the probe as it would fail them.
async fn probe(connection: &mut MultiplexedConnection, budget: Duration) -> Result<RedisClock, Arc<str>> {
    let asked = Instant::now();
    let mut command = redis::cmd("EVAL");
    command.arg("return redis.call('TIME')").arg(0);
    let answer: RedisResult<(u64, u32)> = timeout(budget, command.query_async(connection))
        .await
        .map_err(|_| Arc::from(Unavailable::TimedOut.to_string()))?;
    let (seconds, micros) = answer.map_err(|error| text(&error))?;
    Ok(RedisClock { shown: Duration::from_secs(seconds) + Duration::from_micros(micros.into()), asked })
}

fn classify(error: &RedisError) -> Unavailable {
    if error.is_timeout() {
        return Unavailable::TimedOut;
    }
    let broken = error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::BusyLoading
                    | ServerErrorKind::ClusterDown
            )
        );
    if broken { Unavailable::Broken(text(error)) } else { Unavailable::Refused(text(error)) }
}

fn text(error: &RedisError) -> Arc<str> {
    error.to_string().into()
}
