//! The header of a Parquet page, in Thrift's compact protocol: the library does not show it.

use std::io::{self, ErrorKind, Read};

/// Structs in structs, at most; a header has two levels.
const MAX_DEPTH: usize = 16;

/// What the header of a page says of its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) n_header_bytes: u64,
    pub(super) n_packed_bytes: u64,
    pub(super) n_unpacked_bytes: u64,
    /// Values, nulls included.
    pub(super) n_values: u64,
    pub(super) is_dictionary: bool,
}

/// Types of fields, by their number in the protocol.
mod kind {
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I32: u8 = 5;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const SET: u8 = 10;
    pub(super) const MAP: u8 = 11;
    pub(super) const STRUCT: u8 = 12;
    pub(super) const UUID: u8 = 13;
}

impl PageHeader {
    /// Reads the header that begins at the next byte of `reader`.
    ///
    /// # Errors
    /// The bytes are not a header, or are cut short.
    pub(super) fn read(reader: impl Read) -> io::Result<Self> {
        let mut thrift = Thrift {
            reader,
            n_bytes_read: 0,
        };
        let mut header = Self::default();
        let mut field_id = 0;
        while let Some(kind) = thrift.next_field(&mut field_id)? {
            match (field_id, kind) {
                (2, kind::I32) => header.n_unpacked_bytes = thrift.count()?,
                (3, kind::I32) => header.n_packed_bytes = thrift.count()?,
                // The headers of data pages, dictionaries, and data pages of version 2.
                (5 | 7 | 8, kind::STRUCT) => {
                    header.n_values = thrift.n_values()?;
                    header.is_dictionary = field_id == 7;
                }
                _ => thrift.skip(kind, 0)?,
            }
        }
        header.n_header_bytes = thrift.n_bytes_read;
        Ok(header)
    }
}

struct Thrift<R> {
    reader: R,
    n_bytes_read: u64,
}

impl<R: Read> Thrift<R> {
    /// The type of the struct's next field, whose id replaces that of the one before; `None` at its
    /// end.
    fn next_field(&mut self, field_id: &mut i64) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        *field_id = match byte >> 4 {
            0 => self.integer()?,
            step => field_id.wrapping_add(step.into()),
        };
        Ok(Some(byte & 0x0f))
    }

    /// The first field of the header of a page's contents.
    fn n_values(&mut self) -> io::Result<u64> {
        let (mut field_id, mut n_values) = (0, 0);
        while let Some(kind) = self.next_field(&mut field_id)? {
            match (field_id, kind) {
                (1, kind::I32) => n_values = self.count()?,
                _ => self.skip(kind, 1)?,
            }
        }
        Ok(n_values)
    }

    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(bad("it is nested too deep"));
        }
        match kind {
            kind::TRUE | kind::FALSE => Ok(()),
            kind::BYTE => self.skip_bytes(1),
            kind::I16 | kind::I32 | kind::I64 => self.varint().map(drop),
            kind::DOUBLE => self.skip_bytes(8),
            kind::UUID => self.skip_bytes(16),
            kind::BINARY => {
                let n_bytes = self.varint()?;
                self.skip_bytes(n_bytes)
            }
            kind::LIST | kind::SET => {
                let byte = self.byte()?;
                let n_items = match byte >> 4 {
                    15 => self.varint()?,
                    n_items => n_items.into(),
                };
                (0..n_items).try_for_each(|_| self.skip_item(byte & 0x0f, depth))
            }
            kind::MAP => self.skip_map(depth),
            kind::STRUCT => {
                let mut field_id = 0;
                while let Some(kind) = self.next_field(&mut field_id)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(bad("it has a field of an unknown type")),
        }
    }

    fn skip_map(&mut self, depth: usize) -> io::Result<()> {
        let n_items = self.varint()?;
        if n_items == 0 {
            return Ok(());
        }
        let kinds = self.byte()?;
        (0..n_items).try_for_each(|_| {
            self.skip_item(kinds >> 4, depth)?;
            self.skip_item(kinds & 0x0f, depth)
        })
    }

    /// A truth value has a byte of its own in a list, and none as a field.
    fn skip_item(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        match kind {
            kind::TRUE | kind::FALSE => self.skip_bytes(1),
            kind => self.skip(kind, depth + 1),
        }
    }

    fn skip_bytes(&mut self, n_bytes: u64) -> io::Result<()> {
        let n_skipped = io::copy(&mut (&mut self.reader).take(n_bytes), &mut io::sink())?;
        self.n_bytes_read += n_skipped;
        match n_skipped == n_bytes {
            true => Ok(()),
            false => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        self.n_bytes_read += 1;
        Ok(byte[0])
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(bad("it has a number of more than 64 bits"))
    }

    fn integer(&mut self) -> io::Result<i64> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    /// An integer that cannot be negative.
    fn count(&mut self) -> io::Result<u64> {
        let integer = self.integer()?;
        u64::try_from(integer).map_err(|_| bad("a length in it is negative"))
    }
}

fn bad(problem: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("a page's header is damaged: {problem}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data page: type, two sizes, a checksum, 3 values with their encodings and statistics.
    const HEADER: [u8; 26] = [
        0x15, 0, 0x15, 200, 1, 0x15, 40, 0x15, 2, 0x1c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6, 0x1c,
        0x18, 1, b'a', 0x11, 0, 0, 0,
    ];

    #[test]
    fn sizes_are_read_and_all_else_is_skipped() {
        let behind = [&HEADER[..], b"the page"].concat();
        let header = PageHeader::read(&behind[..]).unwrap();
        let expected = PageHeader {
            n_header_bytes: 26,
            n_packed_bytes: 20,
            n_unpacked_bytes: 100,
            n_values: 3,
            is_dictionary: false,
        };
        assert_eq!(header, expected);
    }

    #[test]
    fn a_header_cut_short_is_an_error() {
        for n_bytes in 0..HEADER.len() {
            assert!(PageHeader::read(&HEADER[..n_bytes]).is_err(), "{n_bytes}");
        }
    }

    #[test]
    fn hostile_headers_are_errors() {
        let deep = [0x1c; 100];
        let negative = [0x25, 1, 0];
        let unknown = [0x1e, 0];
        let long = [0x15, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0];
        let many = [0x19, 0xf5, 255, 255, 255, 255, 15];
        for header in [&deep[..], &negative, &unknown, &long, &many] {
            assert!(PageHeader::read(header).is_err(), "{header:?}");
        }
    }
}
