//! Data sets, tokenisation, shuffling and the memory-mapped token cache. No torch.
//!
//! A JSON lines file or a folder of them ([`Documents`]) becomes sequences of exactly `ctx_len`
//! tokens ([`chunk_and_tokenize`]), which are kept on disk ([`Tokens`]) under a digest of what
//! they are made from ([`TokenSpec`]), and are read in shuffled batches ([`Batches`]). Tokens and
//! order are those of sparsify 1.3.3 with one process.

mod batches;
mod cache;
mod chunk;
mod digest;
mod documents;
mod error;
mod header;
mod mapping;
mod permutation;
mod tokenizer;
mod tokens;
mod writer;

#[cfg(test)]
mod fixtures;

pub use batches::{BatchSpec, Batches};
pub use cache::BuildProgress;
pub use chunk::{DOCUMENTS_PER_BATCH, chunk_and_tokenize};
pub use digest::{DigestCache, TokenSpec};
pub use documents::Documents;
pub use error::DataError;
pub use permutation::permutation;
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
