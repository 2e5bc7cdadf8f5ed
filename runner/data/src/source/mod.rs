//! Data sets on this machine: which files they have, and the documents in them.

mod arrow;
mod bin;
mod card;
mod choose;
mod columnar;
mod conventions;
mod csv;
mod documents;
mod endings;
mod find;
mod json;
mod json_field;
mod json_values;
mod listing;
mod messages;
mod packing;
mod page_header;
mod pages;
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
pub use documents::{Document, Documents};
pub use endings::is_data_file_name;
pub use find::{files_of_hub, find_files};
pub use parquet_copy::{ParquetCopy, choose_parquet_copy};
pub use patterns::is_pattern;
pub(crate) use rows::ID_COLUMN;
pub use rows::MAX_DOCUMENT_BYTES;
