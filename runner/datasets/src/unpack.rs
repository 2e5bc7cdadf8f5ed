//! The bytes of a file, unpacked as they are read.

use super::endings::is_packed;
use super::packing::{N_HEAD_BYTES, Packing};
use super::rows::MAX_DOCUMENT_BYTES;
use crate::DatasetError;
use crate::error::damaged;
use fault::Fault;
use plan::{DataFile, Format};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER_BYTES: usize = 1 << 16;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

type ByteReader = Box<dyn Read + Send>;

/// The unpacked bytes of a file.
pub(super) struct Source {
    path: PathBuf,
    packing: Packing,
    reader: BufReader<ByteReader>,
    n_bytes_read: Arc<AtomicU64>,
    line: u64,
}

/// A line, element or record as it is gathered, never longer than [`MAX_DOCUMENT_BYTES`].
#[derive(Debug, Default)]
pub(super) struct RowBytes {
    bytes: Vec<u8>,
    is_too_long: bool,
}

/// Where a piece of a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At this byte, which is not part of the piece.
    Byte(u8),
    /// With the file.
    File,
}

impl Source {
    /// Opens `file` at its first byte.
    pub(super) fn open(file: &DataFile) -> Result<Self, DatasetError> {
        let counted = CountedFile::open(&file.path)?;
        let n_bytes_read = counted.counter();
        let mut packed = BufReader::with_capacity(BUFFER_BYTES, counted);
        let packing = packing_of(file, &mut packed)?;
        let reader = packing
            .unpacked(packed)
            .map_err(|error| unreadable(&file.path, packing, error))?;
        Ok(Self {
            path: file.path.clone(),
            packing,
            reader: BufReader::with_capacity(BUFFER_BYTES, reader),
            n_bytes_read,
            line: 1,
        })
    }

    /// Opens `file` after its byte order mark, if it has one.
    pub(super) fn open_after_mark(file: &DataFile) -> Result<Self, DatasetError> {
        let mut source = Self::open(file)?;
        let head = source.take_head(BYTE_ORDER_MARK.len())?;
        if head == BYTE_ORDER_MARK {
            return Ok(source);
        }
        Ok(source.put_back(head))
    }

    /// The next `n_bytes`, or fewer at the end of the file.
    pub(super) fn take_head(&mut self, n_bytes: usize) -> Result<Vec<u8>, DatasetError> {
        let mut head = Vec::with_capacity(n_bytes);
        self.read_up_to(n_bytes, &mut head)?;
        Ok(head)
    }

    /// Puts bytes that were taken in front of those to come.
    pub(super) fn put_back(self, head: Vec<u8>) -> Self {
        let reader: ByteReader = Box::new(Cursor::new(head).chain(self.reader));
        Self {
            reader: BufReader::with_capacity(BUFFER_BYTES, reader),
            ..self
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file is packed with.
    pub(super) fn packing(&self) -> Packing {
        self.packing
    }

    /// The line of the next byte, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Bytes read of the file as stored on disk.
    pub(super) fn n_bytes_read(&self) -> u64 {
        self.n_bytes_read.load(Ordering::Relaxed)
    }

    /// The count of [`Self::n_bytes_read`], for a reader that takes the bytes over.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        self.n_bytes_read.clone()
    }

    /// The bytes to come.
    pub(super) fn into_reader(self) -> impl Read + Send {
        self.reader
    }

    /// The next byte that is not blank, which is left where it is; `None` at the end.
    pub(super) fn skip_blanks(&mut self) -> Result<Option<u8>, DatasetError> {
        loop {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let n_blanks = chunk.iter().take_while(|byte| is_blank(**byte)).count();
            let first = chunk.get(n_blanks).copied();
            self.consume(n_blanks);
            if first.is_some() {
                return Ok(first);
            }
        }
    }

    /// Reads the next line with its `\n` into `row`; false at the end of the file.
    pub(super) fn read_line(&mut self, row: &mut RowBytes) -> Result<bool, DatasetError> {
        row.clear();
        let limit = MAX_DOCUMENT_BYTES as u64 + 1;
        let n_bytes = (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut row.bytes)
            .map_err(|error| unreadable(&self.path, self.packing, error))?;
        self.line += 1;
        if n_bytes as u64 == limit && !row.bytes.ends_with(b"\n") {
            row.is_too_long = true;
            self.reader
                .skip_until(b'\n')
                .map_err(|error| unreadable(&self.path, self.packing, error))?;
        }
        Ok(n_bytes > 0)
    }

    /// Reads into `row` up to the byte for which `is_end` is true first; it is asked about every
    /// byte once, in order.
    pub(super) fn read_piece(
        &mut self,
        row: &mut RowBytes,
        mut is_end: impl FnMut(u8) -> bool,
    ) -> Result<End, DatasetError> {
        row.clear();
        loop {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                return Ok(End::File);
            }
            if let Some(n_bytes) = chunk.iter().position(|byte| is_end(*byte)) {
                let end = chunk[n_bytes];
                row.push(&chunk[..n_bytes]);
                self.consume(n_bytes + 1);
                return Ok(End::Byte(end));
            }
            row.push(chunk);
            let n_bytes = chunk.len();
            self.consume(n_bytes);
        }
    }

    /// Appends the next `n_bytes` to `bytes`, fewer at the end of the file.
    pub(super) fn read_up_to(
        &mut self,
        n_bytes: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<usize, DatasetError> {
        (&mut self.reader)
            .take(n_bytes as u64)
            .read_to_end(bytes)
            .map_err(|error| unreadable(&self.path, self.packing, error))
    }

    fn fill(&mut self) -> Result<&[u8], DatasetError> {
        match self.reader.fill_buf() {
            Ok(chunk) => Ok(chunk),
            Err(error) => Err(unreadable(&self.path, self.packing, error)),
        }
    }

    fn consume(&mut self, n_bytes: usize) {
        let consumed = self.reader.buffer().iter().take(n_bytes);
        self.line += consumed.filter(|byte| **byte == b'\n').count() as u64;
        self.reader.consume(n_bytes);
    }
}

impl RowBytes {
    /// What was gathered; `None` if it was too long.
    pub(super) fn get(&self) -> Option<&[u8]> {
        (!self.is_too_long).then_some(&self.bytes)
    }

    /// Takes what was gathered; to be used only if it was not too long.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.is_too_long
    }

    /// Whether it is white space.
    pub(super) fn is_blank(&self) -> bool {
        !self.is_too_long && self.bytes.iter().copied().all(is_blank)
    }

    /// Adds what another gathered; false if it is too much by now, and not added.
    pub(super) fn append(&mut self, other: &Self) -> bool {
        let is_short = self.bytes.len() + other.bytes.len() <= MAX_DOCUMENT_BYTES;
        if is_short && !other.is_too_long {
            self.bytes.extend_from_slice(&other.bytes);
        }
        is_short && !other.is_too_long
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.is_too_long = false;
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.is_too_long || self.bytes.len() + bytes.len() > MAX_DOCUMENT_BYTES {
            self.is_too_long = true;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// Whether JSON takes `byte` for white space.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// A file that counts the bytes that are read from it.
#[derive(Debug)]
pub(super) struct CountedFile {
    file: File,
    n_bytes_read: Arc<AtomicU64>,
}

impl CountedFile {
    pub(super) fn open(path: &Path) -> Result<Self, DatasetError> {
        Ok(Self {
            file: files::open(path).map_err(DatasetError::io("open", path))?,
            n_bytes_read: Arc::default(),
        })
    }

    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        self.n_bytes_read.clone()
    }
}

impl Read for CountedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(n_bytes) => {
                    self.n_bytes_read
                        .fetch_add(n_bytes as u64, Ordering::Relaxed);
                    return Ok(n_bytes);
                }
            }
        }
    }
}

impl Seek for CountedFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// What `file` is packed with, by the first bytes of `packed`, which stay where they are.
fn packing_of(
    file: &DataFile,
    packed: &mut BufReader<CountedFile>,
) -> Result<Packing, DatasetError> {
    // Of token ids, any bytes may be the first.
    if file.format == Format::Bin {
        return Ok(Packing::None);
    }
    let head = packed
        .fill_buf()
        .map_err(DatasetError::io("read", &file.path))?;
    let name = file.path.to_string_lossy();
    if head.is_empty() && is_packed(&name) {
        let cut = io::Error::new(ErrorKind::UnexpectedEof, "it is empty");
        return Err(damaged(&file.path, "packed", cut));
    }
    match Packing::of(&head[..head.len().min(N_HEAD_BYTES)]) {
        Packing::Foreign(packing) => {
            let path = file.path.display();
            let message = format!("`{path}` is packed with {packing}, which is not read");
            let hint = "unpack it, or pack it with gzip, Zstandard, bzip2 or xz";
            Err(Fault::input(message).with_hint(hint).into())
        }
        packing => Ok(packing),
    }
}

/// An error of the disk, or else of what is in the file.
fn unreadable(path: &Path, packing: Packing, error: io::Error) -> DatasetError {
    match packing.name() {
        Some(format) if error.raw_os_error().is_none() => damaged(path, format, error),
        _ => DatasetError::io("read", path)(error),
    }
}
