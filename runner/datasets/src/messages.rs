//! The messages of Arrow IPC, in a stream or in a file. What they claim to be once unpacked is checked
//! before anything is unpacked: the decoder takes their word for it, and asks for that much memory.

use super::columnar::{BoxError, MAX_BLOCK_BYTES, TooLarge};
use super::unpack::CountedFile;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{read_dictionary, read_footer_length, read_record_batch};
use arrow_ipc::{Block, DictionaryBatch, MessageHeader, MetadataVersion};
use arrow_ipc::{root_as_footer, root_as_message};
use arrow_schema::SchemaRef;
use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

/// In front of the length of a message; only very old ones lack it.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The longest description of a message, which grows with the number of columns alone.
const MAX_METADATA_BYTES: u64 = 64 << 20;

/// The limit for what is read of a file that is not packed: there is no more than it has.
pub(super) const ANY_LENGTH: u64 = u64::MAX;

/// Length of the end of a file, behind its footer.
const TRAILER_BYTES: u64 = 10;

/// A message: its description, and the data that this describes.
pub(super) struct Message {
    metadata: Vec<u8>,
    body: Vec<u8>,
}

/// Messages in the order of their file.
pub(super) type Messages = Box<dyn Iterator<Item = Result<Message, BoxError>> + Send>;

/// The schema of a stream and the messages behind it.
///
/// A body of more than `max_body_bytes` is not read.
pub(super) fn of_stream(
    mut reader: impl Read + Send + 'static,
    max_body_bytes: u64,
) -> Result<(SchemaRef, Messages), BoxError> {
    let first = next_of_stream(&mut reader, max_body_bytes)?.ok_or("it has no schema")?;
    let schema = header(&first.metadata)?.header_as_schema();
    let schema = to_schema(schema.ok_or("it has no schema")?)?;
    let messages =
        std::iter::from_fn(move || next_of_stream(&mut reader, max_body_bytes).transpose());
    Ok((schema, Box::new(messages)))
}

/// The next message; `None` at the end mark. A stream has to have one, or one that is cut short between
/// two batches would go for a whole one.
fn next_of_stream(
    reader: &mut impl Read,
    max_body_bytes: u64,
) -> Result<Option<Message>, BoxError> {
    let mut n_metadata_bytes = [0; 4];
    reader.read_exact(&mut n_metadata_bytes)?;
    if n_metadata_bytes == CONTINUATION {
        reader.read_exact(&mut n_metadata_bytes)?;
    }
    let n_metadata_bytes = u64::from(u32::from_le_bytes(n_metadata_bytes));
    if n_metadata_bytes == 0 {
        return Ok(None);
    }
    let metadata = read_metadata(reader, n_metadata_bytes)?;
    let n_bytes = u64::try_from(header(&metadata)?.bodyLength())?;
    if n_bytes > max_body_bytes {
        return Err(TooLarge { n_bytes }.into());
    }
    let body = read_exactly(reader, n_bytes)?;
    Ok(Some(Message { metadata, body }))
}

/// The schema of a file, and its messages: dictionaries before batches.
pub(super) fn of_file(mut file: CountedFile) -> Result<(SchemaRef, Messages), BoxError> {
    let n_bytes = file.seek(SeekFrom::End(0))?;
    let footer = read_footer(&mut file, n_bytes)?;
    let footer = root_as_footer(&footer).map_err(|error| error.to_string())?;
    let schema = to_schema(footer.schema().ok_or("its footer has no schema")?)?;
    let batches = footer.recordBatches().ok_or("its footer has no batches")?;
    let blocks = footer.dictionaries().into_iter().flatten().chain(batches);
    let blocks: Vec<Block> = blocks.copied().collect();
    let messages = blocks.into_iter();
    let messages = messages.map(move |block| at_block(&mut file, &block));
    Ok((schema, Box::new(messages)))
}

fn read_footer(file: &mut CountedFile, n_bytes: u64) -> Result<Vec<u8>, BoxError> {
    let start = n_bytes
        .checked_sub(TRAILER_BYTES)
        .ok_or("it is cut short")?;
    file.seek(SeekFrom::Start(start))?;
    let mut trailer = [0; TRAILER_BYTES as usize];
    file.read_exact(&mut trailer)?;
    let n_footer_bytes = read_footer_length(trailer)? as u64;
    let start = start.checked_sub(n_footer_bytes).ok_or("it is cut short")?;
    file.seek(SeekFrom::Start(start))?;
    read_metadata(file, n_footer_bytes)
}

fn at_block(file: &mut CountedFile, block: &Block) -> Result<Message, BoxError> {
    let start = u64::try_from(block.offset())?;
    let n_metadata_bytes = u64::try_from(block.metaDataLength())?;
    let n_body_bytes = u64::try_from(block.bodyLength())?;
    file.seek(SeekFrom::Start(start))?;
    let mut metadata = read_metadata(file, n_metadata_bytes)?;
    let n_prefix_bytes = if metadata.starts_with(&CONTINUATION) {
        8
    } else {
        4
    };
    metadata.drain(..n_prefix_bytes.min(metadata.len()));
    let body = read_exactly(file, n_body_bytes)?;
    Ok(Message { metadata, body })
}

fn header(metadata: &[u8]) -> Result<arrow_ipc::Message<'_>, BoxError> {
    Ok(root_as_message(metadata).map_err(|error| error.to_string())?)
}

fn to_schema(schema: arrow_ipc::Schema<'_>) -> Result<SchemaRef, BoxError> {
    if !schema.endianness().equals_to_target_endianness() {
        return Err("its bytes are in the order of another kind of machine".into());
    }
    Ok(Arc::new(try_fb_to_schema(schema)?))
}

fn read_metadata(reader: &mut impl Read, n_bytes: u64) -> Result<Vec<u8>, BoxError> {
    match n_bytes > MAX_METADATA_BYTES {
        true => Err("a message has a description of more than 64 MiB".into()),
        false => Ok(read_exactly(reader, n_bytes)?),
    }
}

/// The next `n_bytes`. Memory is taken as they come, as there may be fewer.
fn read_exactly(reader: &mut impl Read, n_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if reader.take(n_bytes).read_to_end(&mut bytes)? as u64 == n_bytes {
        return Ok(bytes);
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Makes batches of messages.
pub(super) struct Decoder {
    schema: SchemaRef,
    /// Columns that are decoded.
    projection: Option<Vec<usize>>,
    dictionaries: HashMap<i64, ArrayRef>,
}

impl Decoder {
    pub(super) fn new(schema: SchemaRef, projection: Option<Vec<usize>>) -> Self {
        Self {
            schema,
            projection,
            dictionaries: HashMap::new(),
        }
    }

    /// The batch of a message; `None` for one that holds a dictionary.
    pub(super) fn decode(&mut self, message: Message) -> Result<Option<RecordBatch>, BoxError> {
        let Message { metadata, body } = message;
        let header = header(&metadata)?;
        match header.header_type() {
            MessageHeader::RecordBatch => {
                let batch = header
                    .header_as_record_batch()
                    .ok_or("a batch is missing")?;
                self.batch(batch, body, header.version()).map(Some)
            }
            MessageHeader::DictionaryBatch => {
                let batch = header.header_as_dictionary_batch();
                let batch = batch.ok_or("a dictionary is missing")?;
                self.keep_dictionary(batch, body, header.version())?;
                Ok(None)
            }
            other => Err(format!("it has a message of type {other:?}").into()),
        }
    }

    fn batch(
        &self,
        batch: arrow_ipc::RecordBatch<'_>,
        body: Vec<u8>,
        version: MetadataVersion,
    ) -> Result<RecordBatch, BoxError> {
        check_claims(batch, &body, MAX_BLOCK_BYTES)?;
        let schema = Arc::clone(&self.schema);
        let projection = self.projection.as_deref();
        let dictionaries = &self.dictionaries;
        let batch = read_record_batch(
            &body.into(),
            batch,
            schema,
            dictionaries,
            projection,
            &version,
        );
        Ok(batch?)
    }

    fn keep_dictionary(
        &mut self,
        batch: DictionaryBatch<'_>,
        body: Vec<u8>,
        version: MetadataVersion,
    ) -> Result<(), BoxError> {
        let data = batch.data().ok_or("a dictionary is missing")?;
        check_claims(data, &body, self.n_free_dictionary_bytes())?;
        let dictionaries = &mut self.dictionaries;
        read_dictionary(&body.into(), batch, &self.schema, dictionaries, &version)?;
        Ok(())
    }

    /// Dictionaries stay in memory, and may grow from message to message.
    fn n_free_dictionary_bytes(&self) -> u64 {
        let held = self.dictionaries.values();
        let n_held: usize = held.map(Array::get_buffer_memory_size).sum();
        MAX_BLOCK_BYTES.saturating_sub(n_held as u64)
    }
}

/// Checks what the packed buffers of a message claim to be once unpacked.
fn check_claims(
    batch: arrow_ipc::RecordBatch<'_>,
    body: &[u8],
    limit: u64,
) -> Result<(), TooLarge> {
    if batch.compression().is_none() {
        return Ok(());
    }
    let buffers = batch.buffers().into_iter().flatten();
    let n_bytes = buffers.fold(0, |sum: u64, buffer| {
        sum.saturating_add(claim(body, buffer).unwrap_or_default())
    });
    match n_bytes > limit {
        true => Err(TooLarge { n_bytes }),
        false => Ok(()),
    }
}

/// The length in front of a packed buffer. A negative one says that it is not packed.
fn claim(body: &[u8], buffer: &arrow_ipc::Buffer) -> Option<u64> {
    let start = usize::try_from(buffer.offset()).ok()?;
    let prefix = body.get(start..)?.first_chunk()?;
    let is_there = buffer.length() > 0;
    u64::try_from(i64::from_le_bytes(*prefix))
        .ok()
        .filter(|_| is_there)
}
