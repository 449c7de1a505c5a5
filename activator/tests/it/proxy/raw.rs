//! Bytes on both sides: what a client sends as it is, and a pod that keeps what it gets as it came.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::bed::{PATIENCE, Pod};

/// What a pod answers unless it is told otherwise.
pub(super) const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
/// Silence after which a connection that stays open has said what it had to say.
const SILENCE: Duration = Duration::from_millis(150);

/// A request as a reader without mercy sees it. Bytes are code points below 256.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    /// Names in lower case.
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// How many values a header has.
    pub(super) fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|(known, _)| known == name).count()
    }
}

/// Reads one request, and how long it is; `None` if more must come. Knows one way to write each thing, and
/// shares no code with what it judges.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Seen, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head: String = bytes[..end].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = head.split("\r\n");
    let first: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = first[..] else { return Err(format!("first line {first:?}")) };
    let fields = lines.map(field).collect::<Result<_, _>>()?;
    let mut seen = Seen { method: method.into(), target: target.into(), fields, ..Default::default() };
    let rest = &bytes[end + 4..];
    let lengths = (seen.count("content-length"), seen.count("transfer-encoding"));
    let body = match lengths {
        (0, 0) => Some((Vec::new(), 0)),
        (1, 0) => {
            let length = seen.field("content-length").and_then(|length| length.parse().ok());
            let length: usize = length.ok_or_else(|| format!("length {seen:?}"))?;
            rest.get(..length).map(|body| (body.to_vec(), length))
        }
        (0, 1) if seen.field("transfer-encoding") == Some("chunked") => chunked(rest)?,
        _ => return Err(format!("lengths {seen:?}")),
    };
    let Some((body, length)) = body else { return Ok(None) };
    seen.body = body;
    Ok(Some((seen, end + 4 + length)))
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(": ").ok_or_else(|| format!("line {line:?}"))?;
    let in_name = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let in_value = |c: char| !c.is_ascii_control() || c == '\t';
    if name.is_empty() || !name.chars().all(in_name) || !value.chars().all(in_value) {
        return Err(format!("line {line:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.into()))
}

/// A chunked body without extensions and trailers, and how long it is on the wire.
fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let digits = String::from_utf8_lossy(&rest[..end]);
        let plain = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_hexdigit());
        let size = usize::from_str_radix(&digits, 16).ok().filter(|_| plain);
        let size = size.ok_or_else(|| format!("chunk {digits:?}"))?;
        let Some(data) = rest.get(end + 2..end + 2 + size + 2) else { return Ok(None) };
        if &data[size..] != b"\r\n" {
            return Err(format!("chunk of {size} ends {:?}", &data[size..]));
        }
        body.extend_from_slice(&data[..size]);
        at += end + 2 + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// What came to a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// Whole requests.
    pub(super) requests: Vec<Seen>,
    /// What was left of a connection when it ended, in the middle of a request.
    pub(super) pieces: Vec<Vec<u8>>,
    /// What nobody should send.
    pub(super) malformed: Vec<String>,
}

/// A pod that answers every request with the same bytes.
pub(super) struct RawPod {
    pub(super) pod: Pod,
    log: Arc<Mutex<Log>>,
    _server: JoinSet<()>,
}

impl RawPod {
    /// `closes`: whether it ends the connection after an answer.
    pub(super) async fn answering(name: &str, answer: impl Into<Vec<u8>>, closes: bool) -> Self {
        let pod = Pod::deaf(name).await;
        let listener = TcpListener::bind(("127.0.0.1", pod.observed.port.unwrap())).await.unwrap();
        let (log, answer): (Arc<Mutex<Log>>, Arc<[u8]>) = (Arc::default(), answer.into().into());
        let (mut server, kept) = (JoinSet::new(), Arc::clone(&log));
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(converse(stream, Arc::clone(&kept), Arc::clone(&answer), closes));
            }
        });
        Self { pod, log, _server: server }
    }

    pub(super) fn log(&self) -> Log {
        self.log.lock().unwrap().clone()
    }

    /// What has come since the last time.
    pub(super) fn take(&self) -> Log {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

async fn converse(mut stream: TcpStream, log: Arc<Mutex<Log>>, answer: Arc<[u8]>, closes: bool) {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        bytes.extend_from_slice(&buffer[..count]);
        match read(&bytes) {
            Ok(Some((seen, length))) => {
                bytes.drain(..length);
                log.lock().unwrap().requests.push(seen);
                if stream.write_all(&answer).await.is_err() || closes {
                    return;
                }
            }
            Ok(None) => {}
            Err(why) => return log.lock().unwrap().malformed.push(why),
        }
    }
    if !bytes.is_empty() {
        log.lock().unwrap().pieces.push(bytes);
    }
}

/// Sends bytes. What comes back, and whether the connection was closed.
pub(super) async fn exchange(addr: SocketAddr, bytes: Vec<u8>) -> (String, bool) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // A server that has refused may close before it has read everything.
    let _ = stream.write_all(&bytes).await;
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    let closed = loop {
        let patience = if answer.is_empty() { PATIENCE } else { SILENCE };
        match tokio::time::timeout(patience, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break true,
            Ok(Ok(count)) => answer.extend_from_slice(&buffer[..count]),
            Err(_) => break false,
        }
    };
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

/// The statuses of the answers that came back.
pub(super) fn statuses(answers: &str) -> Vec<u16> {
    answers.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)?.parse().ok()).collect()
}
