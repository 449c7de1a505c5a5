//! WebSocket messages, to and fro.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    drive::Order,
    http1,
    tally::{Tally, Window},
    wire::Wire,
};

/// Each connection sends its next message when the last one has come back.
pub(crate) async fn messages(order: &Order) -> Result<Window> {
    let tally = Arc::new(Tally::new()?);
    let message = frame(order.bytes)?;
    let mut connections = JoinSet::new();
    for _ in 0..order.connections {
        let (mut wire, tally) = (upgraded(order).await?, Arc::clone(&tally));
        let message = message.clone();
        connections.spawn(async move {
            while !tally.ended() {
                let began = Instant::now();
                wire.send(&message).await?;
                wire.skip(message.len() as u64).await?;
                tally.done(began);
            }
            anyhow::Ok(())
        });
    }
    let window = tally.window(order.duration(), order.pid).await?;
    http1::finish(connections).await?;
    Ok(window)
}

async fn upgraded(order: &Order) -> Result<Wire> {
    let mut wire = Wire::new(TcpStream::connect(order.target).await?)?;
    // The key of RFC 6455's own example.
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        order.host
    );
    wire.send(request.as_bytes()).await?;
    let head = wire.head().await?.context("the connection ended instead of an answer")?;
    ensure!(head.second_word()? == "101", "not upgraded: {head:?}");
    Ok(wire)
}

/// A binary message from a client, masked with zeros.
fn frame(bytes: u64) -> Result<Vec<u8>> {
    let length =
        u8::try_from(bytes).ok().filter(|length| *length < 126).context("a message is below 126 bytes")?;
    let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0];
    frame.resize(frame.len() + usize::from(length), b'x');
    Ok(frame)
}
