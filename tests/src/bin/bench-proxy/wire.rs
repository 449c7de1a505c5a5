//! Just enough HTTP/1.1 to cost less than what is measured: well-formed peers, bodies with a length.

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Read at once. Enough that large bodies are not limited by the number of reads.
const CHUNK: usize = 256 * 1024;
/// What a head begins with here; it grows if bodies need more.
const SMALL: usize = 4 * 1024;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    /// Read and not yet used.
    buffer: BytesMut,
}

/// What matters of the head of a message.
#[derive(Debug)]
pub(crate) struct Head {
    /// Without the empty line at its end.
    text: BytesMut,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(SMALL) })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next head; `None` if the other side has ended the connection before it.
    pub(crate) async fn head(&mut self) -> Result<Option<Head>> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.buffer[searched..], b"\r\n\r\n") {
                let text = self.buffer.split_to(searched + at);
                self.buffer.advance(4);
                return Ok(Some(Head { text }));
            }
            searched = self.buffer.len().saturating_sub(3);
            self.buffer.reserve(SMALL);
            match self.stream.read_buf(&mut self.buffer).await? {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => bail!("ended inside a head"),
                _ => {}
            }
        }
    }

    /// Reads `length` bytes and forgets them.
    pub(crate) async fn skip(&mut self, length: u64) -> Result<()> {
        let mut left = length;
        loop {
            let known = left.min(self.buffer.len() as u64);
            self.buffer.advance(known as usize);
            left -= known;
            if left == 0 {
                return Ok(());
            }
            self.buffer.clear();
            self.buffer.reserve(if left > SMALL as u64 { CHUNK } else { SMALL });
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("ended {left} bytes before the end of a body");
            }
        }
    }

    /// Sends back whatever comes, until the other side ends the connection.
    pub(crate) async fn echo(&mut self) -> Result<()> {
        loop {
            let Self { stream, buffer } = self;
            stream.write_all(buffer).await?;
            buffer.clear();
            buffer.reserve(SMALL);
            if stream.read_buf(buffer).await? == 0 {
                return Ok(());
            }
        }
    }
}

impl Head {
    /// The second word of the first line: a request's target, a response's status.
    pub(crate) fn second_word(&self) -> Result<&str> {
        let line = self.text[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
        std::str::from_utf8(line)?.split(' ').nth(1).context("a first line of one word")
    }

    /// Length of the body; 0 if it is not said.
    pub(crate) fn body(&self) -> Result<u64> {
        self.field("content-length").map_or(Ok(0), |length| Ok(length.parse()?))
    }

    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let value = self.text[..].split(|byte| *byte == b'\n').find_map(|line| {
            let (found, value) = line.split_at_checked(name.len())?;
            found.eq_ignore_ascii_case(name.as_bytes()).then_some(value)?.strip_prefix(b":")
        })?;
        std::str::from_utf8(value).ok().map(str::trim)
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_fields() {
        let head = Head { text: BytesMut::from("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length:  12\r\nx: y") };
        assert_eq!(head.second_word().unwrap(), "200");
        assert_eq!(head.body().unwrap(), 12);
        assert_eq!((head.field("x"), head.field("content")), (Some("y"), None));
    }
}
