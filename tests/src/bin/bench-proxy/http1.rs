//! Requests over kept HTTP/1.1 connections: as many as go, or at a fixed rate.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::{
    drive::Order,
    tally::{Tally, Window},
    wire::Wire,
};

/// Requests that wait for a connection, at most: beyond that the load is far above what can be served.
const BACKLOG: usize = 1_000_000;

/// Each connection sends its next request when it has the answer to the last one.
pub(crate) async fn closed(order: &Order) -> Result<Window> {
    let tally = Arc::new(Tally::new()?);
    let mut connections = JoinSet::new();
    for _ in 0..order.connections {
        let (mut client, tally) = (Client::connect(order).await?, Arc::clone(&tally));
        connections.spawn(async move {
            while !tally.ended() {
                let began = Instant::now();
                client.exchange().await?;
                tally.done(began);
            }
            anyhow::Ok(())
        });
    }
    let window = tally.window(order.duration(), order.pid).await?;
    finish(connections).await?;
    Ok(window)
}

/// Each request has its time, and its latency is counted from then, whether or not a connection was free.
pub(crate) async fn open(order: &Order, per_second: f64) -> Result<Window> {
    let tally = Arc::new(Tally::new()?);
    let (sender, due) = mpsc::channel(BACKLOG);
    let due = Arc::new(Mutex::new(due));
    let mut connections = JoinSet::new();
    for _ in 0..order.connections {
        let (mut client, tally) = (Client::connect(order).await?, Arc::clone(&tally));
        let due = Arc::clone(&due);
        connections.spawn(async move {
            loop {
                let Some(due) = due.lock().await.recv().await else { return anyhow::Ok(()) };
                client.exchange().await?;
                tally.done(due);
            }
        });
    }
    let pacer = tokio::spawn(pace(sender, per_second, Arc::clone(&tally)));
    let window = tally.window(order.duration(), order.pid).await?;
    pacer.await??;
    finish(connections).await?;
    Ok(window)
}

/// Says when each request is due: a Poisson process. It spins: timers are too coarse for microseconds.
async fn pace(sender: mpsc::Sender<Instant>, per_second: f64, tally: Arc<Tally>) -> Result<()> {
    let mut due = Instant::now();
    let mut chance = Chance(0x2545_F491_4F6C_DD1D);
    while !tally.ended() {
        due += Duration::from_secs_f64(-chance.next().ln() / per_second);
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        ensure!(
            sender.try_send(due).is_ok(),
            "the requests that wait for a connection do not fit any longer"
        );
    }
    Ok(())
}

/// Numbers above 0 and up to 1, the same in every run (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        (bits + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// Waits for connections to end; the first failure is that of the load.
pub(crate) async fn finish(mut connections: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(())
}

/// One connection that repeats one request.
#[derive(Debug)]
pub(crate) struct Client {
    wire: Wire,
    request: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(order: &Order) -> Result<Self> {
        let wire = Wire::new(TcpStream::connect(order.target).await?)?;
        let request = format!(
            "GET /{} HTTP/1.1\r\nhost: {}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n",
            order.bytes, order.host
        );
        Ok(Self { wire, request: request.into_bytes() })
    }

    /// Sends the request and reads the whole answer, which has to be a 200.
    pub(crate) async fn exchange(&mut self) -> Result<()> {
        self.wire.send(&self.request).await?;
        let head = self.wire.head().await?;
        let Some(head) = head else { anyhow::bail!("the connection ended instead of an answer") };
        ensure!(head.second_word()? == "200", "answered with {head:?}");
        self.wire.skip(head.body()?).await
    }
}
