//! Clients that want more memory than is theirs.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// How long an attacker keeps a connection. Then it makes a new one.
const STAY: Duration = Duration::from_secs(2);
/// A program that is not optimised needs seconds to look at 120 MB of heads, and would never come to anything else.
const STAY_OF_HEADS: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 2 });
/// Streams that a connection opens: as many as it may.
const STREAMS: u32 = 100;

/// What a client of HTTP/2 says before it has heard anything: empty SETTINGS, too.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Reads until the server has said how much may be sent: a WINDOW_UPDATE.
async fn until_window(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut header = [0; 9];
    while header[3] != 8 {
        stream.read_exact(&mut header).await?;
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        stream.read_exact(&mut payload).await?;
    }
    Ok(())
}

/// What they do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attack {
    /// Ask for much on many streams whose windows stay shut (SETTINGS_INITIAL_WINDOW_SIZE 0).
    ShutWindows,
    /// Ask for much on many streams, open all windows, and read nothing.
    UnreadStreams,
    /// Ask for much, and read nothing.
    UnreadConnections,
    /// Send bodies to a function that has no pod.
    HeldBodies,
    /// The same on many streams of each connection.
    HeldStreams,
    /// Send large heads to a function that has no pod.
    HeldHeads,
    /// Send headers of HTTP/2 that are a byte on the wire, and much more in memory.
    HeaderBombs,
    /// Nothing at all.
    Idle,
}

impl Attack {
    /// Begins, and goes on until it is dropped.
    pub(crate) fn begin(self, addr: SocketAddr) -> JoinSet<()> {
        let (connections, opening) = self.plan();
        let stay = if matches!(self, Self::HeldHeads) { STAY_OF_HEADS } else { STAY };
        let opening = Arc::new(opening);
        let mut attackers = JoinSet::new();
        for _ in 0..connections {
            let opening = Arc::clone(&opening);
            attackers.spawn(async move {
                loop {
                    let stay = tokio::time::sleep(stay);
                    let attack = async {
                        let mut stream = TcpStream::connect(addr).await?;
                        if opening.starts_with(PREFACE) {
                            let (preface, rest) = opening.split_at(PREFACE.len());
                            stream.write_all(preface).await?;
                            until_window(&mut stream).await?;
                            stream.write_all(rest).await?;
                        } else {
                            stream.write_all(&opening).await?;
                        }
                        std::future::pending::<std::io::Result<()>>().await
                    };
                    tokio::select! {
                        () = stay => {}
                        // It was cut: at most so often.
                        _ = attack => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
            });
        }
        attackers
    }

    /// How many connections, and what each sends.
    fn plan(self) -> (usize, Vec<u8>) {
        const MAX_WINDOW: u32 = (1 << 31) - 1;
        let streams = |settings: &[u8], window: u32, stream: &dyn Fn(u32) -> Vec<u8>| {
            let mut opening = PREFACE.to_vec();
            opening.extend(frame(4, 0, 0, settings));
            opening.extend(frame(8, 0, 0, &window.to_be_bytes()));
            opening.extend((0..STREAMS).flat_map(|n| stream(2 * n + 1)));
            opening
        };
        let shut = [0, 4, 0, 0, 0, 0];
        let open = [[0, 4].as_slice(), &MAX_WINDOW.to_be_bytes()].concat();
        let http1 = |head: &str, fill: usize| [head.as_bytes(), &vec![b'x'; fill]].concat();
        let post = "POST / HTTP/1.1\r\nHost: zero.demo\r\nContent-Length: 9999999\r\n\r\n";
        match self {
            Self::ShutWindows => (100, streams(&shut, 1, &|n| frame(1, 5, n, &head("hello", &[])))),
            Self::UnreadStreams => {
                (100, streams(&open, MAX_WINDOW - 65_535, &|n| frame(1, 5, n, &head("hello", &[]))))
            }
            Self::UnreadConnections => (2_000, http1("GET / HTTP/1.1\r\nHost: hello.demo\r\n\r\n", 0)),
            Self::HeldBodies => (1_000, http1(post, 256 * 1024)),
            Self::HeldStreams => {
                let body = |n| [frame(1, 4, n, &head("zero", &[])), frame(0, 0, n, &[b'x'; 10_000])].concat();
                (200, streams(&[], 1, &body))
            }
            Self::HeldHeads => {
                let name = "GET / HTTP/1.1\r\nHost: zero.demo\r\nX: ";
                (2_000, [http1(name, 60_000), b"\r\n\r\n".to_vec()].concat())
            }
            // `accept: ` of the static table, 38 bytes of a header list: 64 KiB of that.
            Self::HeaderBombs => (200, streams(&[], 1, &|n| frame(1, 5, n, &head("zero", &[0x93; 1_700])))),
            Self::Idle => (4_000, Vec::new()),
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// GET / at a function, over http, with the authority as a literal (RFC 7541), and more headers.
fn head(function: &str, more: &[u8]) -> Vec<u8> {
    let authority = format!("{function}.demo");
    [&[0x82, 0x86, 0x84, 0x01, authority.len() as u8], authority.as_bytes(), more].concat()
}
