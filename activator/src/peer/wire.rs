//! How two activators talk: JSON frames over one TCP connection, each signed.
//!
//! ```text
//! hello   length (u32) | JSON: version, id, nonce, secrets' fingerprints   the dialler's first, then the other's
//! frame   length (u32) | HMAC-SHA256 (32 bytes) | JSON                     from then on, both ways
//! ```
//! The key is made of a secret of the installation that both have and of both hellos, and each signature covers who sends and
//! the number of the frame: nothing can be forged, replayed, left out or sent back. It can be read by
//! whoever sees the network: there are only names and counts in it. Numbers are big-endian.

use std::{sync::Arc, time::Duration};

use pilotlight_crds::{ConnectionKey, Keys, keys::SIGNATURE};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{note::Frame, owner::MemberId};

/// Version of the hello. What a frame says may grow without a new one.
const VERSION: u32 = 1;
/// Nobody who is not known yet may send more at once.
const MAX_HELLO: usize = 1 << 10;
/// The longest frame.
const MAX_FRAME: usize = 1 << 20;
/// Time for both hellos and both first frames.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection cannot be used any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection broke off.
    #[error("the connection broke off")]
    Io(#[from] std::io::Error),
    /// The handshake took too long.
    #[error("no handshake within {HANDSHAKE_TIMEOUT:?}")]
    Slow,
    /// A frame is longer than may be.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// The other end has no secret of this installation.
    #[error("no secret in common (PILOTLIGHT_KEYS)")]
    OtherSecret,
    /// A frame is not what the peer has sent, or not its turn.
    #[error("not signed by the peer, or not its next frame")]
    BadSignature,
    /// What is said cannot be understood.
    #[error("cannot be understood")]
    Malformed(#[from] serde_json::Error),
    /// The other end speaks another version.
    #[error("speaks version {0} of the peers' protocol, and not {VERSION}")]
    OtherVersion(u32),
    /// Somebody else answers at the peer's address.
    #[error("somebody else answers: {0}")]
    SomebodyElse(MemberId),
    /// This side has ended the connection.
    #[error("ended by this side")]
    Ended,
}

impl WireError {
    /// Whether somebody has sent what no peer sends; as the label `reason` shows it.
    pub(super) fn refused(&self) -> Option<&'static str> {
        match self {
            Self::TooLong(_) => Some("too-long"),
            Self::OtherSecret => Some("other-secret"),
            Self::BadSignature => Some("bad-signature"),
            Self::Malformed(_) => Some("malformed"),
            Self::OtherVersion(_) => Some("other-version"),
            Self::Io(_) | Self::Slow | Self::SomebodyElse(_) | Self::Ended => None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u32,
    id: MemberId,
    /// Random, from each side: makes the connection's key its own.
    nonce: [u8; 16],
    /// Of the secrets that the sender has.
    fingerprints: Vec<String>,
}

impl Hello {
    fn new(id: &MemberId, keys: &Keys) -> Result<Self, WireError> {
        let mut nonce = [0; 16];
        let random = aws_lc_rs::rand::fill(&mut nonce);
        random.map_err(|_| std::io::Error::other("no random numbers"))?;
        Ok(Self { version: VERSION, id: id.clone(), nonce, fingerprints: keys.fingerprints() })
    }

    fn read(text: &[u8]) -> Result<Self, WireError> {
        let hello: Self = serde_json::from_slice(text)?;
        if hello.version == VERSION { Ok(hello) } else { Err(WireError::OtherVersion(hello.version)) }
    }
}

/// A connection to a peer that has proved that it knows a secret of this installation.
#[derive(Debug)]
pub(super) struct Connection {
    /// The peer.
    pub(super) peer: MemberId,
    /// What it says.
    pub(super) reader: Reader,
    /// What it is told.
    pub(super) writer: Writer,
}

/// Makes a connection that `me` has dialled to `peer` ready.
///
/// # Errors
/// When the other end is not that peer.
pub(super) async fn dial(
    stream: TcpStream,
    keys: &Keys,
    me: &MemberId,
    peer: &MemberId,
) -> Result<Connection, WireError> {
    in_time(async {
        let (mut read, mut write) = split(stream)?;
        let ours = serde_json::to_vec(&Hello::new(me, keys)?)?;
        write_text(&mut write, &ours).await?;
        let theirs = read_text(&mut read, MAX_HELLO).await?;
        let hello = Hello::read(&theirs)?;
        if hello.id != *peer {
            return Err(WireError::SomebodyElse(hello.id));
        }
        let key = keys.connection(&hello.fingerprints, &transcript(&ours, &theirs));
        prove(peer.clone(), read, write, key, [b'd', b'a']).await
    })
    .await
}

/// Makes a connection that somebody has dialled to `me` ready.
///
/// # Errors
/// When the other end is no peer.
pub(super) async fn accept(stream: TcpStream, keys: &Keys, me: &MemberId) -> Result<Connection, WireError> {
    in_time(async {
        let (mut read, mut write) = split(stream)?;
        let theirs = read_text(&mut read, MAX_HELLO).await?;
        let hello = Hello::read(&theirs)?;
        let ours = serde_json::to_vec(&Hello::new(me, keys)?)?;
        write_text(&mut write, &ours).await?;
        let key = keys.connection(&hello.fingerprints, &transcript(&theirs, &ours));
        prove(hello.id, read, write, key, [b'a', b'd']).await
    })
    .await
}

/// Both sides sign an empty frame: who cannot is no peer.
async fn prove(
    peer: MemberId,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    key: Option<ConnectionKey>,
    [ours, theirs]: [u8; 2],
) -> Result<Connection, WireError> {
    let key = Arc::new(key.ok_or(WireError::OtherSecret)?);
    let mut reader = Reader { stream: read, key: Arc::clone(&key), from: theirs, number: 0 };
    let mut writer = Writer { stream: write, key, from: ours, number: 0 };
    writer.write(&Frame::default()).await?;
    reader.read().await?;
    Ok(Connection { peer, reader, writer })
}

async fn in_time(
    handshake: impl Future<Output = Result<Connection, WireError>>,
) -> Result<Connection, WireError> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or(Err(WireError::Slow))
}

fn split(stream: TcpStream) -> Result<(OwnedReadHalf, OwnedWriteHalf), WireError> {
    // A lease that is waited for must not wait for more to be sent.
    stream.set_nodelay(true)?;
    Ok(stream.into_split())
}

/// Both hellos, each with its length, so that no other pair reads the same.
fn transcript(dialler: &[u8], other: &[u8]) -> Vec<u8> {
    let lengths = [dialler.len() as u64, other.len() as u64].map(u64::to_be_bytes);
    [&lengths[0], &lengths[1], dialler, other].concat()
}

async fn read_text(read: &mut (impl AsyncRead + Unpin), longest: usize) -> Result<Vec<u8>, WireError> {
    let length = read.read_u32().await? as usize;
    if length > longest {
        return Err(WireError::TooLong(length));
    }
    let mut text = vec![0; length];
    read.read_exact(&mut text).await?;
    Ok(text)
}

async fn write_text(write: &mut OwnedWriteHalf, text: &[u8]) -> Result<(), WireError> {
    let length = u32::try_from(text.len()).map_err(|_| WireError::TooLong(text.len()))?;
    let framed = [&length.to_be_bytes(), text].concat();
    Ok(write.write_all(&framed).await?)
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Reader {
    stream: OwnedReadHalf,
    key: Arc<ConnectionKey>,
    from: u8,
    number: u64,
}

impl Reader {
    /// The next frame.
    ///
    /// # Errors
    /// When the connection ends, or a frame is not the peer's next one.
    pub(super) async fn read(&mut self) -> Result<Frame, WireError> {
        let sealed = read_text(&mut self.stream, MAX_FRAME).await?;
        let text = opened(&self.key, self.from, self.number, &sealed)?;
        self.number += 1;
        Ok(serde_json::from_slice(text)?)
    }
}

/// What a frame says, if its sender has signed it as this frame.
fn opened<'a>(key: &ConnectionKey, from: u8, number: u64, sealed: &'a [u8]) -> Result<&'a [u8], WireError> {
    let (signature, text) = sealed.split_first_chunk::<SIGNATURE>().ok_or(WireError::BadSignature)?;
    let signed = [&[from][..], &number.to_be_bytes(), text];
    if key.verify(&signed, signature) { Ok(text) } else { Err(WireError::BadSignature) }
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Writer {
    stream: OwnedWriteHalf,
    key: Arc<ConnectionKey>,
    from: u8,
    number: u64,
}

impl Writer {
    /// Sends a frame.
    ///
    /// # Errors
    /// When the connection ends, or the frame is too long.
    pub(super) async fn write(&mut self, frame: &Frame) -> Result<(), WireError> {
        let text = serde_json::to_vec(frame)?;
        let signed = [&[self.from][..], &self.number.to_be_bytes(), &text];
        let sealed = [&self.key.sign(&signed)[..], &text].concat();
        if sealed.len() > MAX_FRAME {
            return Err(WireError::TooLong(sealed.len()));
        }
        self.number += 1;
        write_text(&mut self.stream, &sealed).await
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
