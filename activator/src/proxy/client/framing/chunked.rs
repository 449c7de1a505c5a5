//! A chunked body (RFC 9112, section 7.1), byte by byte where it is framing and in one step where it is data.

use super::{
    grammar::{TCHAR, is_control},
    refusal::Refusal,
};

/// As many hexadecimal digits as 64 bits have.
const MAX_DIGITS: u8 = 16;

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chunked {
    at: At,
    /// Of the chunk whose size has begun.
    size: u64,
    digits: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// White space behind the size, which only an extension may follow.
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer, or of the empty line that ends the body.
    Line,
    Name,
    Value,
    ValueLf,
    LastLf,
    End,
}

impl Chunked {
    /// Whether the body is over.
    pub(super) fn has_ended(self) -> bool {
        self.at == At::End
    }

    /// How many of `bytes` belong to the body: all, unless it ends before.
    ///
    /// # Errors
    /// The rule that is broken, and the place of the byte that breaks it.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<usize, (usize, Refusal)> {
        let mut passed = 0;
        while passed < bytes.len() && self.at != At::End {
            if self.at == At::Data {
                let now = self.size.min((bytes.len() - passed) as u64);
                self.size -= now;
                passed += now as usize;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
            } else {
                self.at = self.step(bytes[passed]).map_err(|rule| (passed, rule))?;
                passed += 1;
            }
        }
        Ok(passed)
    }

    fn step(&mut self, byte: u8) -> Result<At, Refusal> {
        match (self.at, byte) {
            (At::Size, _) => self.size(byte),
            (At::Space, b' ' | b'\t') => Ok(At::Space),
            (At::Space, b';') => Ok(At::Extension),
            (At::Space, _) => Err(Refusal::ChunkSize),
            (At::Extension, b'\r') => Ok(At::SizeLf),
            (At::Extension, _) if is_control(byte) => Err(Refusal::ChunkExtension),
            (At::Extension, _) => Ok(At::Extension),
            (At::SizeLf, b'\n') => Ok(self.begin()),
            (At::SizeLf, _) => Err(Refusal::BareCr),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => Ok(At::Size),
            (At::DataCr | At::DataLf, _) => Err(Refusal::ChunkEnd),
            (At::Line, b'\r') => Ok(At::LastLf),
            (At::Line | At::Name, _) if TCHAR[byte as usize] => Ok(At::Name),
            (At::Name, b':') => Ok(At::Value),
            (At::Line | At::Name, _) => Err(Refusal::FieldName),
            (At::Value, b'\r') => Ok(At::ValueLf),
            (At::Value, b'\n') => Err(Refusal::BareLf),
            (At::Value, _) if is_control(byte) => Err(Refusal::FieldValue),
            (At::Value, _) => Ok(At::Value),
            (At::ValueLf, b'\n') => Ok(At::Line),
            (At::LastLf, b'\n') => Ok(At::End),
            (At::ValueLf | At::LastLf, _) => Err(Refusal::BareCr),
            (At::Data | At::End, _) => Ok(self.at),
        }
    }

    fn size(&mut self, byte: u8) -> Result<At, Refusal> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if self.digits == 0 => return Err(Refusal::ChunkSize),
            b' ' | b'\t' => return Ok(At::Space),
            b';' => return Ok(At::Extension),
            b'\r' => return Ok(At::SizeLf),
            _ => return Err(Refusal::ChunkSize),
        };
        self.digits += 1;
        if self.digits > MAX_DIGITS {
            return Err(Refusal::ChunkSize);
        }
        self.size = self.size << 4 | u64::from(digit);
        Ok(At::Size)
    }

    fn begin(&mut self) -> At {
        self.digits = 0;
        if self.size == 0 { At::Line } else { At::Data }
    }
}
