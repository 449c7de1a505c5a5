//! Large bodies, one after another on each connection.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    drive::{Direction, Order},
    tally::{Tally, Window},
    wire::Wire,
};

/// Sent at once, and counted when sent.
const PIECE: u64 = 256 * 1024;
static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];

/// Bodies of `order.bytes` in one direction.
pub(crate) async fn bodies(order: &Order, direction: Direction) -> Result<Window> {
    let tally = Arc::new(Tally::new()?);
    let mut connections = JoinSet::new();
    for _ in 0..order.connections {
        let wire = Wire::new(TcpStream::connect(order.target).await?)?;
        let (tally, host, bytes) = (Arc::clone(&tally), order.host.clone(), order.bytes);
        connections.spawn(async move {
            match direction {
                Direction::Down => download(wire, &host, bytes, &tally).await,
                Direction::Up => upload(wire, &host, bytes, &tally).await,
            }
        });
    }
    let window = tally.window(order.duration(), order.pid).await?;
    // A body takes longer than the window may be off: it is cut.
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        match ended {
            Err(error) if error.is_cancelled() => {}
            ended => ended??,
        }
    }
    Ok(window)
}

async fn download(mut wire: Wire, host: &str, bytes: u64, tally: &Tally) -> Result<()> {
    let request = format!("GET /{bytes} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    while !tally.ended() {
        let began = Instant::now();
        wire.send(request.as_bytes()).await?;
        let mut left = answer(&mut wire).await?;
        ensure!(left == bytes, "{left} bytes instead of {bytes}");
        while left > 0 {
            let piece = left.min(PIECE);
            wire.skip(piece).await?;
            tally.moved(piece);
            left -= piece;
        }
        tally.done(began);
    }
    Ok(())
}

async fn upload(mut wire: Wire, host: &str, bytes: u64, tally: &Tally) -> Result<()> {
    let request = format!("POST /0 HTTP/1.1\r\nhost: {host}\r\ncontent-length: {bytes}\r\n\r\n");
    while !tally.ended() {
        let began = Instant::now();
        wire.send(request.as_bytes()).await?;
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(PIECE);
            wire.send(&ZEROS[..piece as usize]).await?;
            tally.moved(piece);
            left -= piece;
        }
        let body = answer(&mut wire).await?;
        wire.skip(body).await?;
        tally.done(began);
    }
    Ok(())
}

/// Length of the body that the answer announces.
async fn answer(wire: &mut Wire) -> Result<u64> {
    let head = wire.head().await?.context("the connection ended instead of an answer")?;
    ensure!(head.second_word()? == "200", "answered with {head:?}");
    head.body()
}
