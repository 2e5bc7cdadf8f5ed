//! Which files a data set has, and the documents in them, as Python's `datasets` has both. No tokens.
//!
//! Files of this machine or the Hub ([`DataFiles`](plan::DataFiles)) hold documents ([`Documents`]).
//!
//! - `find.rs`, `choose.rs`: the files of a data set; `conventions.rs`, `patterns.rs`: by their names; `card.rs`: by
//!   its README.md; `listing.rs`: all that there are
//! - `documents.rs`: rows of all files; `rows.rs`: what the readers share; a file per format, such as `csv.rs`
//! - `unpack.rs`, `packing.rs`: packed files

mod arrow;
mod bin;
mod card;
mod choose;
mod columnar;
mod conventions;
mod csv;
mod document;
mod documents;
mod endings;
mod error;
mod find;
mod json;
mod json_field;
mod json_values;
mod listing;
mod packing;
mod parquet;
mod parquet_copy;
mod patterns;
mod rows;
mod slice;
mod text;
mod unpack;

#[cfg(test)]
mod any_bytes;
#[cfg(test)]
mod bombs;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod samples;

pub use choose::{ChosenFile, choose_files};
pub use document::Document;
pub use documents::Documents;
pub use endings::is_data_file_name;
pub use error::DatasetError;
pub use find::{files_of_hub, find_files};
pub use parquet_copy::{ParquetCopy, choose_parquet_copy};
pub use patterns::is_pattern;
pub use rows::MAX_DOCUMENT_BYTES;
