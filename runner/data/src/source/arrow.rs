//! Arrow IPC files, of the stream and of the file format.

use super::columnar::{Batches, ColumnarRows, Progress, check_column, guarded};
use super::rows::Column;
use super::unpack::{CountedFile, Source};
use super::{Compression, DataFile};
use crate::DataError;
use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, SchemaRef};
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const FORMAT: &str = "Arrow";

/// What the file format begins with; the stream format has no magic bytes.
const FILE_MAGIC: &[u8] = b"ARROW1";

type Stream = StreamReader<Watched<Box<dyn Read + Send>>>;

/// Opens `file` for the rows of `column`.
pub(super) fn open(file: &DataFile, column: &Column) -> Result<ColumnarRows, DataError> {
    let schema = schema(file)?;
    let names = check_column(&file.path, schema.fields(), column)?;
    let root_idx = schema
        .fields()
        .find(&names[0])
        .map(|(root_idx, _)| root_idx);
    let (batches, n_bytes_read) = if is_file_format(file)? {
        file_batches(file, root_idx)?
    } else {
        stream_batches(file, root_idx)?
    };
    let progress = Progress::Bytes(n_bytes_read);
    Ok(ColumnarRows::new(
        &file.path, FORMAT, column, batches, progress,
    ))
}

/// The columns of `file`.
pub(super) fn columns(file: &DataFile) -> Result<Vec<String>, DataError> {
    let schema = schema(file)?;
    let fields = schema.fields().iter();
    Ok(fields.map(|field| field.name().clone()).collect())
}

fn schema(file: &DataFile) -> Result<SchemaRef, DataError> {
    if is_file_format(file)? {
        Ok(file_reader(file, None)?.0.schema())
    } else {
        Ok(stream_reader(file, None)?.0.schema())
    }
}

fn is_file_format(file: &DataFile) -> Result<bool, DataError> {
    let is_file = Source::open(file)?.take_head(FILE_MAGIC.len())? == FILE_MAGIC;
    if is_file && file.compression != Compression::None {
        return Err(DataError::PackedColumns {
            path: file.path.clone(),
            format: FORMAT,
        });
    }
    Ok(is_file)
}

type Counter = Arc<AtomicU64>;

fn file_batches(file: &DataFile, root_idx: Option<usize>) -> Result<(Batches, Counter), DataError> {
    let (reader, counter) = file_reader(file, root_idx)?;
    Ok((Box::new(reader), counter))
}

fn file_reader(
    file: &DataFile,
    root_idx: Option<usize>,
) -> Result<(FileReader<BufReader<CountedFile>>, Counter), DataError> {
    let counted = CountedFile::open(&file.path)?;
    let counter = counted.counter();
    let projection = root_idx.map(|root_idx| vec![root_idx]);
    let reader = guarded(&file.path, FORMAT, || {
        FileReader::try_new(BufReader::new(counted), projection)
    })?;
    Ok((reader, counter))
}

fn stream_batches(
    file: &DataFile,
    root_idx: Option<usize>,
) -> Result<(Batches, Counter), DataError> {
    let (reader, counter) = stream_reader(file, root_idx)?;
    Ok((Box::new(StreamBatches { reader }), counter))
}

fn stream_reader(file: &DataFile, root_idx: Option<usize>) -> Result<(Stream, Counter), DataError> {
    let source = Source::open(file)?;
    let counter = source.counter();
    let watched = Watched {
        reader: Box::new(source.into_reader()) as Box<dyn Read + Send>,
        is_at_end: false,
    };
    let projection = root_idx.map(|root_idx| vec![root_idx]);
    let reader = guarded(&file.path, FORMAT, || {
        StreamReader::try_new(watched, projection)
    })?;
    Ok((reader, counter))
}

/// The batches of a stream. It has to say where it ends, or one that is cut short between two
/// batches would go for a whole one.
struct StreamBatches {
    reader: Stream,
}

impl Iterator for StreamBatches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.reader.next();
        if batch.is_none() && self.reader.get_ref().is_at_end {
            let message = "the stream has no end mark".to_string();
            return Some(Err(ArrowError::IpcError(message)));
        }
        batch
    }
}

/// A reader that notes whether more was asked of it than it had.
struct Watched<R> {
    reader: R,
    is_at_end: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.reader.read(buffer)?;
        self.is_at_end |= n_bytes == 0 && !buffer.is_empty();
        Ok(n_bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::source::samples::{
        Sample, as_arrow_file, as_arrow_stream, assert_ends, batch_of, gzipped, text_batch,
    };
    use arrow_array::types::{Int8Type, Int32Type, UInt64Type};
    use arrow_array::{
        ArrayRef, DictionaryArray, FixedSizeListArray, Int32Array, LargeListArray,
        LargeStringArray, ListArray, StringArray, StringViewArray, StructArray,
    };
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::IpcWriteOptions;
    use arrow_schema::{DataType, Field};
    use std::sync::Arc;

    fn sample(columns: Vec<(&str, ArrayRef)>) -> Sample {
        Sample::new(&[("a.arrow", &as_arrow_stream(&batch_of(columns)))])
    }

    fn packed_by(compression: Option<CompressionType>) -> IpcWriteOptions {
        IpcWriteOptions::default()
            .try_with_compression(compression)
            .unwrap()
    }

    #[test]
    fn both_formats_are_told_apart() {
        let batch = text_batch(9);
        let stream = as_arrow_stream(&batch);
        let file = as_arrow_file(&batch, packed_by(None));
        let lz4 = as_arrow_file(&batch, packed_by(Some(CompressionType::LZ4_FRAME)));
        let zstd = as_arrow_file(&batch, packed_by(Some(CompressionType::ZSTD)));
        for content in [stream, file, lz4, zstd] {
            let sample = Sample::new(&[("a.arrow", &content)]);
            let texts = sample.texts().unwrap();
            assert_eq!(texts.len(), 9);
            assert_eq!(texts[8], "document 1 of the sample");
        }
    }

    #[test]
    fn a_packed_stream_is_read_but_no_packed_file() {
        let batch = text_batch(9);
        let stream = gzipped(&as_arrow_stream(&batch));
        let sample = Sample::new(&[("a.arrow.gz", &stream)]);
        assert_eq!(sample.texts().unwrap().len(), 9);
        let file = gzipped(&as_arrow_file(&batch, packed_by(None)));
        let sample = Sample::new(&[("a.arrow.gz", &file)]);
        assert_ends(&sample.error(), "PackedColumns", "is a packed Arrow file");
    }

    #[test]
    fn text_has_several_types() {
        let texts = ["a", "b", "a"];
        let dictionary: DictionaryArray<Int8Type> = texts.into_iter().collect();
        let arrays: [ArrayRef; 4] = [
            Arc::new(StringArray::from_iter_values(texts)),
            Arc::new(LargeStringArray::from_iter_values(texts)),
            Arc::new(StringViewArray::from_iter_values(texts)),
            Arc::new(dictionary),
        ];
        for array in arrays {
            // One batch, as the stream's dictionary would differ between two.
            let batch = batch_of(vec![("text", array)]);
            let content = as_arrow_file(&batch, packed_by(None));
            let sample = Sample::new(&[("a.arrow", &content)]);
            assert_eq!(sample.texts().unwrap(), texts);
        }
    }

    #[test]
    fn ids_have_several_types() {
        let rows = || [Some(vec![Some(7), Some(0)]), Some(vec![Some(1), Some(2)])];
        let ids = |rows: [Option<Vec<Option<u64>>>; 2]| {
            LargeListArray::from_iter_primitive::<UInt64Type, _, _>(rows)
        };
        let large = ids([Some(vec![Some(7), Some(0)]), Some(vec![Some(1), Some(2)])]);
        let arrays: [ArrayRef; 3] = [
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(rows())),
            Arc::new(FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
                rows(),
                2,
            )),
            Arc::new(large),
        ];
        for array in arrays {
            let sample = sample(vec![("input_ids", array)]);
            assert_eq!(sample.token_ids().unwrap(), [[7, 0], [1, 2]]);
        }
    }

    #[test]
    fn what_is_no_list_of_ids_is_named() {
        let rows = [
            Some(vec![Some(7)]),
            Some(vec![Some(-1)]),
            Some(vec![None]),
            None,
        ];
        let ids = ListArray::from_iter_primitive::<Int32Type, _, _>(rows);
        let sample = sample(vec![("input_ids", Arc::new(ids))]);
        let message = "a.arrow:2: column `input_ids` holds a list with -1";
        assert_ends(&sample.error(), "NotTokenIds", message);
        let sample = sample.skip();
        let mut documents = sample.open().unwrap();
        assert_eq!(documents.by_ref().filter(Result::is_ok).count(), 1);
        assert_eq!(documents.n_skipped(), 3);
    }

    #[test]
    fn nulls_of_structs_and_dictionaries_are_bad_rows() {
        let body: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let field = Field::new("body", DataType::Utf8, true);
        let meta = StructArray::new(
            vec![field].into(),
            vec![body],
            Some(vec![false, true].into()),
        );
        let sample = sample(vec![("meta", Arc::new(meta))]).text_column("meta.body");
        let message = "a.arrow:1: column `meta.body` holds null";
        assert_ends(&sample.error(), "NotText", message);
        assert_eq!(sample.skip().texts().unwrap(), ["b"]);

        let values = Arc::new(StringArray::from(vec![None, Some("a")]));
        let keys = Int32Array::from(vec![1, 0]);
        let dictionary = DictionaryArray::<Int32Type>::new(keys, values);
        let batch = batch_of(vec![("text", Arc::new(dictionary))]);
        let content = as_arrow_file(&batch, packed_by(None));
        let sample = Sample::new(&[("a.arrow", &content)]).skip();
        assert_eq!(sample.texts().unwrap(), ["a"]);
    }

    #[test]
    fn a_stream_without_its_end_mark_is_cut_short() {
        let content = as_arrow_stream(&text_batch(9));
        for n_missing in [1, 4, 8] {
            let cut = &content[..content.len() - n_missing];
            let error = Sample::new(&[("a.arrow", cut)]).skip().error();
            assert_ends(&error, "Damaged", "a.arrow` is no readable Arrow file");
        }
    }

    #[test]
    fn a_missing_column_always_fails() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let error = sample(vec![("body", numbers)]).skip().error();
        assert_ends(&error, "NoColumn", "a.arrow` has no column `text`");
    }
}
