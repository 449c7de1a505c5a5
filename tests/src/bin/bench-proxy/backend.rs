//! The backend: answers `GET /<bytes>` with a body of that length, takes any body, echoes after an upgrade.

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};

use crate::wire::Wire;

/// Largest piece of a body that is written at once.
const PIECE: usize = 256 * 1024;
/// The longest body that is answered.
const LONGEST: u64 = 1 << 30;

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // A peer that breaks a connection off shows in what the load reports.
        tokio::spawn(connection(stream));
    }
}

async fn connection(stream: TcpStream) -> Result<()> {
    let mut wire = Wire::new(stream)?;
    let (mut length, mut response) = (0, response(0));
    while let Some(head) = wire.head().await? {
        if head.field("upgrade").is_some() {
            wire.send(SWITCH).await?;
            return wire.echo().await;
        }
        let wanted = head.second_word()?.trim_start_matches('/').parse().unwrap_or(0).min(LONGEST);
        wire.skip(head.body()?).await?;
        if wanted != length {
            (length, response) = (wanted, self::response(wanted));
        }
        wire.send(&response).await?;
        let mut left = length.saturating_sub(PIECE as u64);
        while left > 0 {
            let piece = left.min(PIECE as u64);
            wire.send(&ZEROS[..piece as usize]).await.context("sending a body")?;
            left -= piece;
        }
    }
    Ok(())
}

/// What a client's `Sec-WebSocket-Key` of RFC 6455's own example is answered with.
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static ZEROS: [u8; PIECE] = [0; PIECE];

/// A response's head, with the first piece of its body.
fn response(length: u64) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\nserver: bench\r\n";
    let mut bytes = format!("{head}content-length: {length}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + length.min(PIECE as u64) as usize, 0);
    bytes
}
