//! The head of a request: its first line and its headers, judged line by line as they come.

use memchr::{memchr, memchr2};

use super::{
    grammar::{is_control, is_token},
    refusal::{LONGEST_METHOD, MAX_FIELDS, MAX_HEAD, Refusal},
};
use crate::proxy::host::well_formed;

/// The longest body that hyper can count.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// A head, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Bytes of whole lines, which have been judged.
    judged: usize,
    /// Bytes in which no further end of a line is to be sought.
    searched: usize,
    /// `None` until the first line has come.
    version: Option<Version>,
    fields: usize,
    length: Option<u64>,
    chunked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// How the body behind a head is framed (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Sized(u64),
    Chunked,
}

impl Head {
    /// Looks at a head, which begins where `bytes` do. Its length and what follows it, once it is whole.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<Option<(usize, Body)>, Refusal> {
        while let Some(at) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + at;
            let line = &bytes[self.judged..end];
            (self.judged, self.searched) = (end + 1, end + 1);
            if end >= MAX_HEAD {
                return Err(self.too_long());
            }
            let line = line.strip_suffix(b"\r").ok_or(Refusal::BareLf)?;
            match self.version {
                // RFC 9112, section 2.2: empty lines before a request are ignored.
                None if line.is_empty() => {}
                None => self.version = Some(request_line(line)?),
                Some(_) if line.is_empty() => return Ok(Some((self.judged, self.body()?))),
                Some(version) => self.field(line, version)?,
            }
        }
        self.searched = bytes.len();
        if bytes.len() >= MAX_HEAD {
            return Err(self.too_long());
        }
        self.begins_well(&bytes[self.judged..])?;
        Ok(None)
    }

    /// Who speaks another protocol, such as TLS, is told at once: its lines may never end.
    fn begins_well(&self, line: &[u8]) -> Result<(), Refusal> {
        match (self.version, line.first()) {
            (None, Some(first)) if *first != b'\r' && !is_token(&[*first]) => Err(Refusal::Method),
            _ => Ok(()),
        }
    }

    fn too_long(&self) -> Refusal {
        match self.version {
            None => Refusal::TargetTooLong,
            Some(_) => Refusal::HeadTooLong,
        }
    }

    fn field(&mut self, line: &[u8], version: Version) -> Result<(), Refusal> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Refusal::TooManyFields);
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(Refusal::Folded);
        }
        let colon = memchr(b':', line).ok_or(Refusal::NoColon)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) {
            return Err(Refusal::FieldName);
        }
        // All bytes, not up to the first: without a way out the compiler looks at many at once.
        if value.iter().fold(false, |any, byte| any | is_control(*byte)) {
            let cr = memchr(b'\r', value).is_some();
            return Err(if cr { Refusal::BareCr } else { Refusal::FieldValue });
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = content_length(trim(value)).ok_or(Refusal::ContentLength)?;
            if self.length.replace(length).is_some() {
                return Err(Refusal::RepeatedContentLength);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if version == Version::Http10 {
                return Err(Refusal::OldTransferEncoding);
            }
            if self.chunked || !trim(value).eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::TransferEncoding);
            }
            self.chunked = true;
        }
        Ok(())
    }

    /// RFC 9112, section 6.3, without what it leaves to the recipient.
    fn body(&self) -> Result<Body, Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::TwoLengths),
            (true, None) => Ok(Body::Chunked),
            (false, length) => Ok(Body::Sized(length.unwrap_or(0))),
        }
    }
}

/// `method SP request-target SP HTTP-version`: RFC 9112, section 3.
fn request_line(line: &[u8]) -> Result<Version, Refusal> {
    let (method, rest) = split(line).ok_or(Refusal::RequestLine)?;
    let (target, version) = split(rest).ok_or(Refusal::RequestLine)?;
    if !is_token(method) || method.len() > LONGEST_METHOD {
        return Err(Refusal::Method);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Refusal::UnknownVersion);
        }
        // Something between the target and the version belongs to neither.
        other if other.contains(&b' ') => return Err(Refusal::RequestLine),
        _ => return Err(Refusal::Version),
    };
    check_target(method, target)?;
    Ok(version)
}

fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memchr(b' ', line)?;
    Some((&line[..space], &line[space + 1..]))
}

/// RFC 9112, section 3.2, with the characters that RFC 3986 has, and those that browsers send besides.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), Refusal> {
    let is_bad = |byte: u8| !(0x21..=0x7e).contains(&byte) || matches!(byte, b'#' | b'<' | b'>');
    if target.iter().fold(false, |any, byte| any | is_bad(*byte)) {
        let fragment = memchr(b'#', target).is_some();
        return Err(if fragment { Refusal::Fragment } else { Refusal::TargetCharacter });
    }
    // Two more that the `http` crate takes in one part only.
    let (path, query) = target.split_at(memchr(b'?', target).unwrap_or(target.len()));
    if memchr(b'`', path).is_some() || memchr(b'"', query).is_some() {
        return Err(Refusal::TargetCharacter);
    }
    if method == b"CONNECT" {
        return Err(Refusal::Connect);
    }
    match target {
        [b'/', ..] => Ok(()),
        b"*" if method == b"OPTIONS" => Ok(()),
        b"*" => Err(Refusal::Asterisk),
        _ => after_scheme(target).filter(|rest| begins_with_host(rest)).map(|_| ()).ok_or(Refusal::Target),
    }
}

fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    [b"http://".as_slice(), b"https://"].into_iter().find_map(|scheme| {
        let (begin, rest) = target.split_at_checked(scheme.len())?;
        begin.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

fn begins_with_host(rest: &[u8]) -> bool {
    let end = memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    well_formed(&rest[..end])
}

/// Digits and nothing else; the most that hyper can count.
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    let value = std::str::from_utf8(value).ok().filter(|_| digits)?;
    value.parse().ok().filter(|length| *length <= MAX_LENGTH)
}

/// Without optional white space (RFC 9110, section 5.6.3).
fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}
