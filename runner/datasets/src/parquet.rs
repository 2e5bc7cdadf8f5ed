//! Parquet files.

use super::columnar::{BoxError, ColumnarRows, Progress, check_column, guarded};
use super::packing::Packing;
use super::rows::Column;
use super::unpack::Source;
use crate::DatasetError;
use crate::error::packed_columns;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use plan::DataFile;
use std::fs::File;

const FORMAT: &str = "Parquet";

/// Rows decoded at once: few, as a row may be a book.
const BATCH_ROWS: usize = 8;

type Builder = ParquetRecordBatchReaderBuilder<File>;

/// Opens `file` for the rows of `column`; nothing else of it is decoded.
pub(super) fn open(file: &DataFile, column: &Column) -> Result<ColumnarRows, DatasetError> {
    let builder = builder(file)?;
    let names = check_column(&file.path, builder.schema().fields(), column)?;
    let leaves = builder.parquet_schema().columns().iter().enumerate();
    let wanted = leaves.filter(|(_, leaf)| leaf.path().parts().starts_with(&names));
    let wanted = wanted.map(|(leaf_idx, _)| leaf_idx);
    let mask = ProjectionMask::leaves(builder.parquet_schema(), wanted);
    let progress = Progress::Rows {
        n_rows: builder.metadata().file_metadata().num_rows().unsigned_abs(),
        n_file_bytes: std::fs::metadata(&file.path)
            .map_err(DatasetError::io("read", &file.path))?
            .len(),
    };
    let reader = guarded(&file.path, FORMAT, || {
        let builder = builder.with_projection(mask);
        builder.with_batch_size(BATCH_ROWS).build()
    })?;
    let batches = Box::new(reader.map(|batch| batch.map_err(BoxError::from)));
    Ok(ColumnarRows::new(
        &file.path, FORMAT, column, batches, progress,
    ))
}

/// The columns of `file`.
pub(super) fn columns(file: &DataFile) -> Result<Vec<String>, DatasetError> {
    let builder = builder(file)?;
    let fields = builder.schema().fields().iter();
    Ok(fields.map(|field| field.name().clone()).collect())
}

/// Reads the footer. The Arrow schema that may be stored in it is left aside: the types of Parquet
/// itself say all there is to know of text and integers.
fn builder(file: &DataFile) -> Result<Builder, DatasetError> {
    if Source::open(file)?.packing() != Packing::None {
        return Err(packed_columns(&file.path, FORMAT));
    }
    let opened = files::open(&file.path).map_err(DatasetError::io("open", &file.path))?;
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    guarded(&file.path, FORMAT, || {
        Builder::try_new_with_options(opened, options)
    })
}

#[cfg(test)]
mod tests {
    use crate::samples::{Sample, as_parquet, assert_ends, batch_of, gzipped, text_batch};
    use arrow_array::types::{Int32Type, Int64Type};
    use arrow_array::{
        ArrayRef, BinaryArray, DictionaryArray, Int32Array, LargeStringArray, ListArray,
        StringArray, StringViewArray, StructArray,
    };
    use arrow_schema::{DataType, Field};
    use fault::Remedy;
    use parquet::basic::{Compression, ZstdLevel};
    use std::sync::Arc;

    fn sample(columns: Vec<(&str, ArrayRef)>) -> Sample {
        let content = as_parquet(&batch_of(columns), Compression::SNAPPY);
        Sample::new(&[("a.parquet", &content)])
    }

    #[test]
    fn rows_of_all_groups_become_documents() {
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            let content = as_parquet(&text_batch(250), compression);
            let sample = Sample::new(&[("a.parquet", &content)]);
            let texts = sample.texts().unwrap();
            assert_eq!(texts.len(), 250);
            assert_eq!(texts[249], "document 4 of the sample");
            let mut documents = sample.open().unwrap();
            assert_eq!(documents.by_ref().take(125).count(), 125);
            assert_eq!(documents.n_bytes_read(), content.len() as u64 / 2);
        }
    }

    #[test]
    fn text_has_several_types() {
        let texts = ["a", "b", "a"];
        let dictionary: DictionaryArray<Int32Type> = texts.into_iter().collect();
        let arrays: [ArrayRef; 4] = [
            Arc::new(StringArray::from_iter_values(texts)),
            Arc::new(LargeStringArray::from_iter_values(texts)),
            Arc::new(StringViewArray::from_iter_values(texts)),
            Arc::new(dictionary),
        ];
        for array in arrays {
            assert_eq!(sample(vec![("text", array)]).texts().unwrap(), texts);
        }
    }

    #[test]
    fn fields_of_structs_are_found() {
        let body: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let id: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let meta = StructArray::from(vec![
            (Arc::new(Field::new("id", DataType::Int32, true)), id),
            (Arc::new(Field::new("body", DataType::Utf8, true)), body),
        ]);
        let meta: ArrayRef = Arc::new(meta);
        let nested = sample(vec![("meta", meta.clone())]).text_column("meta.body");
        assert_eq!(nested.texts().unwrap(), ["a", "b"]);
        let flat: ArrayRef = Arc::new(StringArray::from(vec!["c", "d"]));
        let both = sample(vec![("meta", meta.clone()), ("meta.body", flat)]);
        assert_eq!(both.text_column("meta.body").texts().unwrap(), ["c", "d"]);
        let error = sample(vec![("meta", meta)]).skip().error();
        assert_ends(&error, "a.parquet` has no column `text`");
        assert_eq!(
            error.hint().unwrap(),
            "set `text_column` to one of `meta.body`"
        );
    }

    #[test]
    fn ids_win_over_text() {
        let rows = [Some(vec![Some(7), Some(0)]), Some(vec![])];
        let ids = ListArray::from_iter_primitive::<Int64Type, _, _>(rows);
        let sample = sample(vec![
            ("text", Arc::new(StringArray::from(vec!["a", "b"]))),
            ("input_ids", Arc::new(ids)),
        ]);
        assert!(sample.open().unwrap().are_tokenised());
        assert_eq!(sample.token_ids().unwrap(), [vec![7, 0], vec![]]);
    }

    #[test]
    fn a_later_file_without_ids_is_an_error() {
        let rows = [Some(vec![Some(7)])];
        let ids = ListArray::from_iter_primitive::<Int64Type, _, _>(rows);
        let first = as_parquet(
            &batch_of(vec![("input_ids", Arc::new(ids))]),
            Compression::SNAPPY,
        );
        let second = as_parquet(&text_batch(1), Compression::SNAPPY);
        let sample = Sample::new(&[("a.parquet", &first), ("b.parquet", &second)]);
        assert_ends(&sample.error(), "b.parquet` has no column `input_ids`");
    }

    #[test]
    fn null_is_a_bad_row() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b")]));
        let sample = sample(vec![("text", texts)]);
        let message = "a.parquet:2: column `text` has null, not a text";
        assert_ends(&sample.error(), message);
        assert_eq!(sample.skip().texts().unwrap(), ["a", "b"]);
    }

    #[test]
    fn columns_of_other_types_are_an_error() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let message = "column `text` of `";
        let error = sample(vec![("text", numbers.clone())]).skip().error();
        assert_ends(&error, message);
        assert!(
            error.to_string().ends_with("has Int32, not text"),
            "{error}"
        );
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![b"a".as_slice()]));
        assert_ends(&sample(vec![("text", bytes)]).error(), message);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let columns = vec![("body", texts.clone()), ("input_ids", numbers.clone())];
        let error = sample(columns).error();
        assert_ends(&error, "has Int32");
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("rename it") && !hint.contains("text_column"),
            "{hint}"
        );
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(7)])]);
        let list: ArrayRef = Arc::new(list);
        let hint = |columns| sample(columns).error().hint().unwrap();
        let with_text = vec![("text", list.clone()), ("body", texts), ("n", numbers)];
        assert_eq!(hint(with_text), "set `text_column` to one of `body`");
        let none = "text is read from a column of strings, and this file has no such column";
        for name in ["text", "messages"] {
            assert_eq!(hint(vec![(name, list.clone())]), none);
        }
    }

    #[test]
    fn a_packed_file_is_not_read() {
        let content = gzipped(&as_parquet(&text_batch(1), Compression::SNAPPY));
        let sample = Sample::new(&[("a.parquet.gz", &content)]);
        assert_ends(&sample.error(), "is a packed Parquet file");
    }
}
