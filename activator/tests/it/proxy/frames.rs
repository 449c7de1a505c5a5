//! HTTP/2 written by hand: frames that no client library would send.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{Bed, bed::PATIENCE};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;

/// Error code of RFC 9113, section 7.
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;
pub(super) const REFUSED_STREAM: u32 = 7;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of HPACK (RFC 7541) for `GET /` or `POST /` at our Function, without the dynamic table.
pub(super) fn head(method: &str) -> Vec<u8> {
    let mut block = vec![if method == "GET" { 0x82 } else { 0x83 }, 0x86, 0x84, 0x01, 10];
    block.extend(b"hello.demo");
    block
}

/// A GET, whole.
pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET"))
}

/// A POST whose body is still to come.
pub(super) fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST"))
}

/// The streams that a client opens, in order.
pub(super) fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

/// What came back on a connection.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Error code of a GOAWAY.
    pub(super) goaway: Option<u32>,
    /// Error codes of reset streams.
    pub(super) resets: BTreeMap<u32, u32>,
    /// Streams whose response has begun.
    pub(super) answered: Vec<u32>,
    /// Bytes of bodies.
    pub(super) data: usize,
}

/// A client's connection.
pub(super) struct Raw {
    pub(super) reader: Reader,
    pub(super) writer: OwnedWriteHalf,
}

pub(super) struct Reader {
    half: OwnedReadHalf,
    pub(super) heard: Heard,
}

impl Raw {
    /// A connection on which both sides have said their SETTINGS, as pairs of identifier and value.
    pub(super) async fn connect(bed: &Bed, settings: &[(u16, u32)]) -> Self {
        let (half, mut writer) = TcpStream::connect(bed.addr).await.unwrap().into_split();
        let settings: Vec<_> = settings
            .iter()
            .flat_map(|(id, value)| [id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat())
            .collect();
        let mut opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        opening.extend(frame(SETTINGS, 0, 0, &settings));
        writer.write_all(&opening).await.unwrap();
        let mut reader = Reader { half, heard: Heard::default() };
        while reader.next().await.expect("the server says SETTINGS") != SETTINGS {}
        writer.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
        Self { reader, writer }
    }
}

impl Reader {
    /// Hears the next frame; its kind. `None`: the connection has ended.
    pub(super) async fn next(&mut self) -> Option<u8> {
        let mut header = [0; 9];
        self.half.read_exact(&mut header).await.ok()?;
        let [a, b, c, kind, _flags, stream @ ..] = header;
        let stream = u32::from_be_bytes(stream);
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.half.read_exact(&mut payload).await.ok()?;
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            GOAWAY => self.heard.goaway = Some(code(4)),
            RST_STREAM => drop(self.heard.resets.insert(stream, code(0))),
            HEADERS => self.heard.answered.push(stream),
            DATA => self.heard.data += payload.len(),
            _ => {}
        }
        Some(kind)
    }

    /// Reads until the connection ends.
    pub(super) async fn until_end(&mut self) {
        let end = async { while self.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, end).await.expect("the connection is ended");
    }
}
