//! Data sets, tokenisation, shuffling and the memory-mapped token cache. No torch.
//!
//! Files of this machine or the Hub ([`DataFiles`]) hold documents ([`Documents`]), which become
//! sequences of exactly `ctx_len` tokens ([`chunk_and_tokenize`]). These are kept on disk
//! ([`Tokens`]) under a digest of what they are made from ([`TokenSpec`]), and are read in shuffled
//! batches ([`Batches`]). Files, tokens and order are those of Python's `datasets` and of sparsify
//! 1.3.3 with one process.

mod batches;
mod build_progress;
mod cache;
mod chunk;
mod digest;
mod error;
mod evaluation;
mod header;
mod hint;
mod in_order;
mod mapping;
mod permutation;
mod rows;
mod source;
mod special_tokens;
mod tokenizer;
mod tokens;
mod writer;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod golden;

pub use batches::{BatchSpec, Batches, Shard, held_out, included, training_order};
pub use build_progress::BuildProgress;
pub use chunk::{DOCUMENTS_PER_BATCH, MAX_THREADS, chunk_and_tokenize};
pub use digest::{DigestCache, TokenSpec};
pub use error::DataError;
pub use evaluation::EvalSequences;
pub use header::TokenCounts;
pub use permutation::permutation;
pub use source::{
    ChosenFile, Compression, DataFile, DataFiles, Document, Documents, Format, MAX_DOCUMENT_BYTES,
    ParquetCopy, RowSpec, choose_files, choose_parquet_copy, is_data_file_name, is_pattern,
};
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
