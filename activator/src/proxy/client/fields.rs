//! How many headers a header block of HTTP/2 has, before anybody has unpacked it: a byte of it may be a header, and in
//! memory that is a hundred bytes and more.

/// Follows a header block as it comes (RFC 7541, section 6), in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Fields {
    count: u32,
    next: Next,
    /// Strings that the header still has.
    strings: u8,
    /// Bytes that the current string still has.
    string: usize,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum Next {
    /// The first of a header.
    #[default]
    Field,
    /// One more of the number that it began with.
    Index,
    /// The first of a string's length.
    Length,
    /// One more of it, with so many bits below.
    MoreLength(u32),
    /// Part of a string.
    String,
}

impl Fields {
    /// How many have begun.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// More of the block has come.
    pub(super) fn received(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes {
            if let Next::String = self.next {
                let now = self.string.min(bytes.len());
                self.string -= now;
                bytes = &bytes[now..];
                self.end_of_string();
                continue;
            }
            bytes = rest;
            match self.next {
                Next::Field => self.begin(*byte),
                Next::Index if byte & 0x80 == 0 => self.go_on(),
                Next::Length => {
                    self.strings -= 1;
                    self.string = usize::from(byte & 0x7f);
                    self.next = if self.string == 0x7f { Next::MoreLength(0) } else { Next::String };
                    self.end_of_string();
                }
                Next::MoreLength(shift) => {
                    // Longer ones than any block end the connection: h2 does not take such numbers.
                    self.string = self.string.saturating_add(usize::from(byte & 0x7f) << shift.min(28));
                    self.next = if byte & 0x80 == 0 { Next::String } else { Next::MoreLength(shift + 7) };
                }
                Next::Index | Next::String => {}
            }
        }
    }

    /// The first byte of a header, or of a change of the table's size, which costs as much.
    fn begin(&mut self, byte: u8) {
        self.count += 1;
        // The bits of its number, and whether strings follow: a value, and a name that has no number.
        let (prefix, literal) = match byte {
            0x80.. => (0x7f, false),
            0x40.. => (0x3f, true),
            0x20.. => (0x1f, false),
            _ => (0x0f, true),
        };
        self.strings = u8::from(literal) + u8::from(literal && byte & prefix == 0);
        if byte & prefix == prefix { self.next = Next::Index } else { self.go_on() }
    }

    fn end_of_string(&mut self) {
        if self.string == 0 {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        self.next = if self.strings > 0 { Next::Length } else { Next::Field };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_counted_however_they_are_written_and_cut() {
        let long = [[0x00, 1, b'a', 0x7f, 0x80, 0x01].as_slice(), &[0xff; 127 + 128]].concat();
        let rows: [(&str, &[u8], u32); 9] = [
            ("nothing", &[], 0),
            ("indexed", &[0x82, 0x86, 0x84], 3),
            ("a large index", &[0xff, 0x80, 0x01, 0x82], 2),
            ("a value, into the table", &[0x41, 3, 0x82, 0x82, 0x82, 0x82], 2),
            ("a large index with a value", &[0x0f, 0x2f, 1, 0x82, 0x82], 2),
            ("a name and a value, never indexed", &[0x10, 2, 0x82, 0x82, 1, 0x82, 0x82], 2),
            ("nothing and nothing, with Huffman's mark", &[0x40, 0x80, 0x80, 0x82], 2),
            ("a new size of the table", &[0x3f, 0x80, 0x01, 0x20, 0x82], 3),
            ("a long value", &long, 1),
        ];
        for (what, block, expected) in rows {
            for cut in [1, 2, 3, 7, 1_000] {
                let mut fields = Fields::default();
                let twice = [block, block].concat();
                twice.chunks(cut).for_each(|chunk| fields.received(chunk));
                assert_eq!(fields.count(), 2 * expected, "{what}, cut into {cut}");
            }
        }
    }

    #[test]
    fn no_number_is_too_long() {
        let mut fields = Fields::default();
        fields.received(&[0x00, 0x7f]);
        fields.received(&[0xff; 1_000]);
        assert_eq!(fields.count(), 1);
    }
}
