//! Tokenisation, shuffling and the memory-mapped token cache. No torch.
//!
//! [`Documents`](datasets::Documents) become sequences of exactly `ctx_len` tokens ([`chunk_and_tokenize`]). These
//! are kept on disk ([`Tokens`]) under a digest of what they are made from ([`TokenSpec`]), and are read in
//! shuffled batches ([`Batches`]). Tokens and order are those of sparsify 1.3.3 with one process.
//!
//! # Memory
//!
//! Making tokens takes memory that does not depend on the size of the data set. With `T` threads (all
//! cores, at most [`MAX_THREADS`]) and a longest document of `D` bytes (at most
//! [`MAX_DOCUMENT_BYTES`](datasets::MAX_DOCUMENT_BYTES)), these are held at once, at most:
//!
//! - `4 T` pieces of text or their tokens, each of 256 KiB and one document: `4 T (256 KiB + D)` bytes of text, and
//!   as much for their tokens if a token has four bytes of text;
//! - what the tokenizers library needs for `T` documents: about 115 bytes for each byte of text, measured with a
//!   byte-level tokenizer of 49 000 tokens, so `115 T D`;
//! - the tokenizer and the program, about 0.2 GB with that tokenizer;
//! - of an Arrow file a batch; of a Parquet file two pages and 8 rows.
//!
//! What asks for more than the machine has left, such as a damaged file, ends the process with an error that names
//! the file.
//!
//! With two threads, documents of 1 MB took 421 MB, and a single one of 34 MB took 3.8 GB. For
//! tokenizers whose documents cannot be tokenised one by one, such as those of T5 and BERT, `D` is the
//! length of [`DOCUMENTS_PER_BATCH`] documents together.
//!
//! # Files
//!
//! - `chunk.rs`: sparsify's chunks, on all cores; `permutation.rs`: numpy's shuffle
//! - `tokenizer.rs`: text to tokens; `tokenizer_class.rs`: as the classes of transformers; `vocabulary.rs`: whether two
//!   are the same
//! - `sample.rs`: about how many tokens there will be
//! - `cache.rs`, `writer.rs`: the token cache
//! - `batches.rs`: training order, held-out sequences, ranks

mod batches;
mod build_progress;
mod cache;
mod chunk;
mod digest;
mod epochs;
mod error;
mod evaluation;
mod first_look;
mod header;
mod in_order;
mod json;
mod mapping;
mod memory_limit;
mod own_memory;
mod permutation;
mod rows;
mod sample;
mod spec;
mod special_tokens;
mod tokenizer;
mod tokenizer_class;
mod tokenizer_config;
mod tokens;
mod vocabulary;
mod writer;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod golden;

pub use batches::{
    BatchSpec, Batches, Shard, check_batch, held_out, included, n_selected, training_order,
};
pub use build_progress::BuildProgress;
pub use chunk::{DOCUMENTS_PER_BATCH, MAX_THREADS, chunk_and_tokenize};
pub use error::TokensError;
pub use evaluation::EvalSequences;
pub use first_look::TokenizerDifference;
pub use header::TokenCounts;
pub use own_memory::OwnMemory;
pub use permutation::permutation;
pub use sample::{BYTES_PER_TOKEN, Sample, has_tokenizer};
pub use spec::TokenSpec;
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
pub use vocabulary::tokenizer_conflict;
