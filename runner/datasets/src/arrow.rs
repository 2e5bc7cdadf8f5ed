//! Arrow IPC files, of the stream and of the file format.

use super::columnar::{BoxError, ColumnarRows, Progress, check_column, guarded};
use super::packing::Packing;
use super::rows::Column;
use super::unpack::{CountedFile, Source};
use crate::DatasetError;
use crate::error::packed_columns;
use arrow_array::RecordBatchReader;
use arrow_ipc::reader::{FileReader, StreamReader};
use plan::DataFile;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const FORMAT: &str = "Arrow";

/// What the file format begins with; the stream format has no magic bytes.
const FILE_MAGIC: &[u8] = b"ARROW1";

/// A file whose schema is read.
struct Opened {
    batches: Box<dyn RecordBatchReader + Send>,
    n_bytes_read: Arc<AtomicU64>,
}

/// Opens `file` for the rows of `column`.
pub(super) fn open(file: &DataFile, column: &Column) -> Result<ColumnarRows, DatasetError> {
    let schema = opened(file, None)?.batches.schema();
    let names = check_column(&file.path, schema.fields(), column)?;
    let root = schema.fields().find(&names[0]);
    let opened = opened(file, root.map(|(root_idx, _)| vec![root_idx]))?;
    let batches = opened.batches.map(|batch| batch.map_err(BoxError::from));
    let (batches, progress) = (Box::new(batches), Progress::Bytes(opened.n_bytes_read));
    Ok(ColumnarRows::new(
        &file.path, FORMAT, column, batches, progress,
    ))
}

/// The columns of `file`.
pub(super) fn columns(file: &DataFile) -> Result<Vec<String>, DatasetError> {
    let schema = opened(file, None)?.batches.schema();
    let fields = schema.fields().iter();
    Ok(fields.map(|field| field.name().clone()).collect())
}

/// `projection`: the columns that are decoded; `None`: all of them.
fn opened(file: &DataFile, projection: Option<Vec<usize>>) -> Result<Opened, DatasetError> {
    let mut source = Source::open(file)?;
    let head = source.take_head(FILE_MAGIC.len())?;
    if head == FILE_MAGIC && source.packing() != Packing::None {
        return Err(packed_columns(&file.path, FORMAT));
    }
    if head == FILE_MAGIC {
        let counted = CountedFile::open(&file.path)?;
        let n_bytes_read = counted.counter();
        let reader = || FileReader::try_new(counted, projection);
        let batches = Box::new(guarded(&file.path, FORMAT, reader)?);
        return Ok(Opened {
            batches,
            n_bytes_read,
        });
    }
    let n_bytes_read = source.counter();
    let stream = Stream(source.put_back(head).into_reader());
    let reader = || StreamReader::try_new(stream, projection);
    let batches = Box::new(guarded(&file.path, FORMAT, reader)?);
    Ok(Opened {
        batches,
        n_bytes_read,
    })
}

/// A stream has to have an end mark, or one that is cut short between two batches would go for a whole one:
/// the end of the file is an error.
struct Stream<R>(R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => {
                Err(io::Error::new(ErrorKind::InvalidData, "it is incomplete"))
            }
            n_bytes => Ok(n_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::samples::{
        Sample, as_arrow_file, as_arrow_stream, assert_damaged, assert_ends, batch_of, gzipped,
        text_batch,
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
        assert_ends(&sample.error(), "is a packed Arrow file");
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
        let message = "a.arrow:2: column `input_ids` has a list with -1";
        assert_ends(&sample.error(), message);
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
        let message = "a.arrow:1: column `meta.body` has null";
        assert_ends(&sample.error(), message);
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
            assert_damaged(&error, "a.arrow` is not a readable Arrow file");
        }
    }

    #[test]
    fn a_missing_column_always_fails() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let error = sample(vec![("body", numbers)]).skip().error();
        assert_ends(&error, "a.arrow` has no column `text`");
    }
}
