//! START HERE (several activators): who is there, who owns which function, and what they tell each other.
//!
//! Each function has one owner among the activators: it alone decides on replicas, and where a hard limit
//! could be exceeded it lends the others the slots that they use. `docs/peers.md` has the whole story.
//!
//! - [`owner()`]: who owns a function, by rendezvous hashing (pure)
//! - [`members`]: who is there, from Kubernetes and from the connections (pure)
//! - [`ledger`], [`leases`]: the two sides of lent slots (pure)
//! - [`note`], [`wire`]: what is said, and how
//! - [`link`]: a connection to a peer, with what the functions have for it ([`Outbox`])
//! - [`watch`]: the activators' pods
//!
//! What becomes of a function when its owner changes is in `function/role.rs`.

mod event;
mod leases;
mod ledger;
mod link;
mod members;
mod note;
mod owner;
mod watch;
mod wire;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kube::Client;
use pilotlight_crds::Keys;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use self::link::Desk;
use self::wire::WireError;
#[cfg(feature = "fuzzing")]
pub(crate) use self::wire::fuzzing;
pub use self::{
    event::Event,
    leases::{Leases, Moment},
    ledger::{CLAIMS_WITHIN, Ledger, comes_before},
    link::BEAT,
    members::{Members, Owner, PeerPod, Seat, View},
    note::{ByPod, Down, Frame, Going, Load, Note, Up, Word},
    owner::{MemberId, owner},
    watch::PeerConfig,
};
use crate::{
    function::{Outbox, PeerView},
    index::Index,
    metrics::{Metrics, PeerMetrics},
};

/// A peer that is not heard for so long is no longer live.
pub const SILENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody has fallen silent, and peers without a connection are dialled.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at what has been waited for for too long.
const TICKS_A_LOOK: u32 = 10;
/// Time to reach a peer.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections whose other end has not proved yet that it is a peer.
const STRANGERS: usize = 64;

/// What keeps in touch with the peers.
#[derive(Debug)]
pub struct Peers {
    members: Members<Outbox>,
    keys: Arc<Keys>,
    metrics: PeerMetrics,
    desk: Desk,
    inbox: mpsc::UnboundedReceiver<Event>,
    sessions: Arc<AtomicU64>,
    dialling: HashSet<MemberId>,
    view: Arc<PeerView>,
}

impl Peers {
    /// The activator `me`, which knows of no peers yet. Whatever becomes of them is reported to what comes
    /// second.
    pub fn new(
        me: MemberId,
        keys: Arc<Keys>,
        index: Arc<Index>,
        metrics: PeerMetrics,
        silence: Duration,
    ) -> (Self, mpsc::UnboundedSender<Event>) {
        let (events, inbox) = mpsc::unbounded_channel();
        let desk = Desk { process: Arc::clone(index.process()), index, events: events.clone() };
        let mut members = Members::new(me, silence);
        let view = Arc::new(members.view(Instant::now()));
        desk.process.set_view(Arc::clone(&view));
        let (sessions, dialling) = (Arc::default(), HashSet::new());
        (Self { members, keys, metrics, desk, inbox, sessions, dialling, view }, events)
    }

    /// Keeps in touch with the activators' pods, as Kubernetes names them, until the process ends.
    pub fn start(self, listener: TcpListener, client: &Client, config: &PeerConfig, metrics: &Metrics) {
        watch::start(client, config, metrics, self.desk.events.clone());
        tokio::spawn(self.run(listener));
    }

    /// Keeps in touch with those whom the events name until the process ends.
    pub async fn run(mut self, listener: TcpListener) {
        tokio::spawn(listen(listener, self.caller()));
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticked = 0_u32;
        loop {
            tokio::select! {
                Some(event) = self.inbox.recv() => self.handle(event),
                _ = ticks.tick() => {
                    ticked = ticked.wrapping_add(1);
                    if ticked.is_multiple_of(TICKS_A_LOOK) {
                        self.look();
                    }
                }
            }
            if self.desk.process.leaving() {
                self.members.leave();
            }
            self.dial();
            self.publish();
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Pod(id, pod) => self.members.apply(id, pod),
            Event::Gone(id) => {
                if let Some(outbox) = self.members.delete(&id) {
                    outbox.close();
                }
            }
            Event::Listed => self.members.listed(now),
            Event::Connected { peer, session, outbox } => {
                tracing::info!(%peer, "in touch with a peer");
                if let Some(before) = self.members.connected(peer, session, outbox, now) {
                    before.close();
                }
            }
            Event::Heard { peer, session, leaving } => self.members.heard(&peer, session, leaving, now),
            Event::Closed { peer, session } => self.members.closed(&peer, session),
            Event::Unreachable(peer) => self.members.unreachable(&peer),
            Event::Dialled(peer) => {
                self.dialling.remove(&peer);
            }
        }
    }

    /// Tells the functions who is there, if that has changed.
    fn publish(&mut self) {
        let view = self.members.view(Instant::now());
        if view == *self.view {
            return;
        }
        let live = view.peers.values().filter(|seat| seat.live).count();
        tracing::info!(live, settled = view.settled, "the peers have changed");
        self.metrics.live.set(live as i64);
        self.view = Arc::new(view);
        self.desk.process.set_view(Arc::clone(&self.view));
        follow_all(&self.desk.index);
        let index = Arc::clone(&self.desk.index);
        tokio::spawn(async move {
            tokio::time::sleep(CLAIMS_WITHIN).await;
            let now = Instant::now();
            index.functions().iter().for_each(|function| function.overdue(now));
        });
    }

    /// What only time changes.
    fn look(&self) {
        let now = Instant::now();
        let (mut leased, mut lent) = (0, 0);
        for function in self.desk.index.functions() {
            function.overdue(now);
            let share = function.share();
            leased += i64::from(share.leased);
            lent += i64::from(share.lent);
        }
        self.metrics.leased.set(leased);
        self.metrics.lent.set(lent);
    }

    fn dial(&mut self) {
        let to_dial: Vec<_> = self.members.to_dial().map(|(id, address)| (id.clone(), address)).collect();
        for (peer, address) in to_dial {
            if self.dialling.insert(peer.clone()) {
                let caller = self.caller();
                tokio::spawn(async move { caller.dial(peer, address).await });
            }
        }
    }

    fn caller(&self) -> Caller {
        Caller {
            me: self.members.me().clone(),
            keys: Arc::clone(&self.keys),
            refused: self.metrics.refused.clone(),
            sessions: Arc::clone(&self.sessions),
            desk: self.desk.clone(),
        }
    }
}

/// Tells every function who is there.
fn follow_all(index: &Index) {
    let now = Instant::now();
    index.functions().iter().for_each(|function| function.follow(now));
}

/// What makes connections.
#[derive(Clone, Debug)]
struct Caller {
    me: MemberId,
    keys: Arc<Keys>,
    refused: prometheus::IntCounterVec,
    sessions: Arc<AtomicU64>,
    desk: Desk,
}

impl Caller {
    async fn dial(self, peer: MemberId, address: SocketAddr) {
        let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await;
        let connection = match stream {
            Ok(Ok(stream)) => wire::dial(stream, &self.keys, &self.me, &peer).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(WireError::Slow),
        };
        match connection {
            Ok(connection) => self.serve(connection, address).await,
            Err(error) => {
                self.note(&error, address);
                self.desk.report(Event::Unreachable(peer.clone()));
                tokio::time::sleep(TICK).await;
            }
        }
        self.desk.report(Event::Dialled(peer));
    }

    async fn accept(self, stream: TcpStream, from: SocketAddr, stranger: OwnedSemaphorePermit) {
        match wire::accept(stream, &self.keys, &self.me).await {
            Ok(connection) => {
                drop(stranger);
                self.serve(connection, from).await;
            }
            Err(error) => self.note(&error, from),
        }
    }

    async fn serve(&self, connection: wire::Connection, address: SocketAddr) {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let peer = connection.peer.clone();
        let error = link::serve(connection, session, &self.desk).await;
        tracing::info!(%peer, %error, "no longer in touch with a peer");
        self.note(&error, address);
    }

    /// Counts what no peer sends, and says so once.
    fn note(&self, error: &WireError, from: SocketAddr) {
        static TOLD: Once = Once::new();
        let Some(reason) = error.refused() else { return };
        self.refused.with_label_values(&[reason]).inc();
        TOLD.call_once(
            || tracing::warn!(%from, %error, "refused on the peers' port; further ones are only counted"),
        );
    }
}

async fn listen(listener: TcpListener, caller: Caller) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    loop {
        let Ok(stranger) = Arc::clone(&strangers).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                tokio::spawn(caller.clone().accept(stream, from, stranger));
            }
            // Such as too many open files: it passes, and an accept loop that spins does not help.
            Err(_) => tokio::time::sleep(TICK).await,
        }
    }
}
