//! As much of protobuf's wire format as TensorBoard's events need.

/// A message that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(Vec<u8>);

/// How a field is written: the low bits of its tag.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

impl Message {
    pub(super) fn varint(mut self, field: u64, value: u64) -> Self {
        self.tag(field, VARINT);
        self.push_varint(value);
        self
    }

    pub(super) fn double(mut self, field: u64, value: f64) -> Self {
        self.tag(field, FIXED_64);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn float(mut self, field: u64, value: f32) -> Self {
        self.tag(field, FIXED_32);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.tag(field, BYTES);
        self.push_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    pub(super) fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn tag(&mut self, field: u64, kind: u64) {
        self.push_varint(field << 3 | kind);
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field that was read. Numbers of a fixed width are of no use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of a message, with their numbers; ends before what is damaged.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            VARINT => Field::Varint(self.varint()?),
            BYTES => {
                let n_bytes = self.varint()?;
                Field::Bytes(self.take(usize::try_from(n_bytes).ok()?)?)
            }
            FIXED_64 => self.take(8).map(|_| Field::Fixed)?,
            FIXED_32 => self.take(4).map(|_| Field::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n_bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n_bytes)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().bytes(1, "text");
        let message = Message::default()
            .varint(1, 300)
            .double(2, 0.5)
            .float(3, 0.5)
            .message(4, &inner);
        let bytes = message.finish();
        // As the encoding's description has it: 300 is AC 02.
        assert_eq!(bytes[..3], [0x08, 0xac, 0x02]);
        let fields: Vec<_> = Fields(&bytes).collect();
        assert_eq!(fields[0], (1, Field::Varint(300)));
        assert_eq!(fields[1..3], [(2, Field::Fixed), (3, Field::Fixed)]);
        assert_eq!(fields[3], (4, Field::Bytes(b"\x0a\x04text")));
        assert_eq!(Fields(&bytes[..bytes.len() - 1]).count(), 3);
    }
}
