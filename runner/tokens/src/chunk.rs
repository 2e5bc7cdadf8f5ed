//! Cutting documents into sequences of tokens, as sparsify does with one process.

use crate::in_order::map_in_order;
use crate::{Tokenizer, TokensError};
use datasets::{Document, Documents};
use fault::Fault;
use plan::count;

/// Documents that are tokenised as one text.
pub const DOCUMENTS_PER_BATCH: u64 = 2048;

/// Text that a thread takes at a time, at least, except for the last piece of a batch.
const PIECE_BYTES: usize = 1 << 18;

/// Threads that tokenise at most: the library shares its cache of words among them.
pub const MAX_THREADS: usize = 32;

/// The whole data set as sequences of exactly `ctx_len` tokens, one after the other.
///
/// Every [`DOCUMENTS_PER_BATCH`] documents become one text, with the EOS token in front of each
/// document. The text's tokens are cut into pieces of `ctx_len`, counting what the tokenizer's
/// post-processor adds to each, and the last piece is dropped. This is sparsify 1.3.3's
/// `chunk_and_tokenize` with `num_proc=1`; the result depends neither on the machine nor on the
/// number of threads. One difference: a batch that gives no sequence adds nothing, and only a data
/// set that gives no sequence at all is an error.
///
/// # Errors
/// A document that cannot be read or is not text, a `ctx_len` the tokenizer does not allow, or a data
/// set without documents or with too few for one sequence.
pub fn chunk_and_tokenize(
    documents: Documents,
    tokenizer: &Tokenizer,
    ctx_len: usize,
) -> Result<Vec<Vec<u32>>, TokensError> {
    let name = documents.name().to_owned();
    let mut sequences = Vec::new();
    let visit = &mut |ids: &[u32], _: &Totals| {
        sequences.extend(ids.chunks_exact(ctx_len).map(<[u32]>::to_vec));
        Ok(())
    };
    let cutting = Cutting::new(tokenizer, ctx_len);
    let totals = cutting.visit(documents, Totals::default(), visit)?;
    totals.check(&name, ctx_len)?;
    Ok(sequences)
}

/// How far a data set has been tokenised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) n_documents: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_sequences: u64,
    pub(crate) n_dropped_tokens: u64,
    pub(crate) n_skipped: u64,
    pub(crate) first_skipped: Option<String>,
    pub(crate) n_bytes_read: u64,
    /// Whether a batch is complete, so that the work can be taken up here.
    pub(crate) is_resumable: bool,
}

/// Receives sequences one after the other, and the totals with these included.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u32], &Totals) -> Result<(), TokensError>;

impl Totals {
    /// Fails if a data set gives no sequence.
    pub(crate) fn check(&self, name: &str, ctx_len: usize) -> Result<(), TokensError> {
        let Self {
            n_documents,
            n_tokens,
            n_skipped,
            first_skipped,
            ..
        } = self;
        let (message, hint) = match (n_documents, self.n_sequences, first_skipped) {
            (0, _, Some(first)) => (
                format!(
                    "data set `{name}` has no documents, but {}, the first one because {first}",
                    count(*n_skipped as usize, "bad row")
                ),
                "add text, or select more rows with `split`",
            ),
            (0, _, None) => (
                format!("data set `{name}` has no documents"),
                "add text, or select more rows with `split`",
            ),
            (_, 0, _) => (
                format!(
                    "`{name}` has {} with {}, too few for one sequence of ctx_len = {ctx_len}",
                    count(*n_documents as usize, "document"),
                    count(*n_tokens as usize, "token")
                ),
                "add text, or lower ctx_len",
            ),
            _ => return Ok(()),
        };
        Err(Fault::input(message).with_hint(hint).into())
    }
}

/// How text is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cutting<'a> {
    tokenizer: &'a Tokenizer,
    ctx_len: usize,
    n_threads: usize,
}

impl<'a> Cutting<'a> {
    /// On all cores, up to [`MAX_THREADS`].
    pub(crate) fn new(tokenizer: &'a Tokenizer, ctx_len: usize) -> Self {
        let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            tokenizer,
            ctx_len,
            n_threads: n_cores.min(MAX_THREADS),
        }
    }

    /// [`chunk_and_tokenize`] from `start` on, piece by piece. Memory depends on the longest document
    /// and the number of threads, not on the data set, except for tokenizers whose batches cannot be
    /// split, which need the text of a batch for each thread.
    pub(crate) fn visit(
        self,
        documents: Documents,
        start: Totals,
        visit: Visit<'_>,
    ) -> Result<Totals, TokensError> {
        let Self {
            tokenizer, ctx_len, ..
        } = self;
        tokenizer.check_ctx_len(ctx_len)?;
        let pieces = Pieces::new(documents, tokenizer, start.n_documents);
        let encode = |piece: Result<Piece, TokensError>| piece?.encode(tokenizer);
        let mut cutter = tokenizer.cutter(ctx_len);
        let mut totals = start;
        let mut sequences = Vec::new();
        map_in_order(pieces, self.n_threads, encode, |piece| {
            let piece = piece?;
            sequences.clear();
            cutter.push(&piece.token_ids, &mut sequences);
            totals.is_resumable = piece.ends_batch;
            if piece.ends_batch {
                totals.n_dropped_tokens += cutter.finish(&mut sequences) as u64;
            }
            totals.n_documents += piece.read.n_documents;
            totals.n_tokens += piece.token_ids.len() as u64;
            totals.n_sequences += (sequences.len() / ctx_len) as u64;
            totals.n_bytes_read = piece.read.n_bytes_read;
            totals.n_skipped = piece.read.n_skipped;
            totals.first_skipped = piece.read.first_skipped;
            visit(&sequences, &totals)
        })?;
        Ok(totals)
    }
}

/// What was read of the documents when a piece of text was complete.
#[derive(Debug, Default)]
struct Read {
    /// Documents of the piece.
    n_documents: u64,
    /// From the beginning.
    n_bytes_read: u64,
    n_skipped: u64,
    first_skipped: Option<String>,
}

/// Some of the documents of a batch, as texts that are tokenised one by one.
struct Piece {
    texts: Vec<String>,
    /// Number of its first document, from 0.
    first_document: u64,
    read: Read,
    ends_batch: bool,
}

/// The tokens of a piece.
struct EncodedPiece {
    token_ids: Vec<u32>,
    read: Read,
    ends_batch: bool,
}

impl Piece {
    fn encode(self, tokenizer: &Tokenizer) -> Result<EncodedPiece, TokensError> {
        let mut token_ids = Vec::new();
        for text in &self.texts {
            let ids = tokenizer.encode(text);
            token_ids.extend(ids.map_err(|source| {
                let (path, first) = (tokenizer.path().display(), self.first_document);
                Fault::input(format!(
                    "`{path}` fails on documents from number {first} on"
                ))
                .because(source)
            })?);
        }
        Ok(EncodedPiece {
            token_ids,
            read: self.read,
            ends_batch: self.ends_batch,
        })
    }
}

/// Documents in pieces. The last one holds no text: it tells what was read to the end.
struct Pieces<'a> {
    documents: Documents,
    tokenizer: &'a Tokenizer,
    /// Documents to leave out, which an earlier process has tokenised.
    n_to_skip: u64,
    n_documents: u64,
    has_ended: bool,
}

impl<'a> Pieces<'a> {
    fn new(documents: Documents, tokenizer: &'a Tokenizer, n_to_skip: u64) -> Self {
        Self {
            documents,
            tokenizer,
            n_to_skip,
            n_documents: 0,
            has_ended: false,
        }
    }

    fn skip_ahead(&mut self) -> Result<(), TokensError> {
        while self.n_documents < self.n_to_skip {
            if self.documents.next().transpose()?.is_none() {
                break;
            }
            self.n_documents += 1;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Piece, TokensError> {
        self.skip_ahead()?;
        let first_document = self.n_documents;
        let mut texts: Vec<String> = Vec::new();
        let mut n_bytes = 0;
        loop {
            let Some(document) = self.documents.next().transpose()? else {
                self.has_ended = true;
                return Ok(self.piece(texts, first_document, true));
            };
            self.n_documents += 1;
            let text = self.separated(document)?;
            n_bytes += text.len();
            match texts.last_mut() {
                Some(joined) if !self.tokenizer.is_separable() => joined.push_str(&text),
                _ => texts.push(text),
            }
            let ends_batch = self.n_documents.is_multiple_of(DOCUMENTS_PER_BATCH);
            let is_enough = self.tokenizer.is_separable() && n_bytes >= PIECE_BYTES;
            if ends_batch || is_enough {
                return Ok(self.piece(texts, first_document, ends_batch));
            }
        }
    }

    /// A document with the separator in front.
    fn separated(&self, document: Document) -> Result<String, TokensError> {
        match document {
            Document::Text(mut text) => {
                text.insert_str(0, self.tokenizer.eos_token());
                Ok(text)
            }
            Document::TokenIds(_) => {
                let name = self.documents.name();
                let message = format!("data set `{name}` has token ids, not text");
                Err(Fault::input(message).into())
            }
        }
    }

    fn piece(&self, texts: Vec<String>, first_document: u64, ends_batch: bool) -> Piece {
        Piece {
            texts,
            first_document,
            read: Read {
                n_documents: self.n_documents - first_document,
                n_bytes_read: self.documents.n_bytes_read(),
                n_skipped: self.documents.n_skipped(),
                first_skipped: self.documents.first_skipped().map(str::to_owned),
            },
            ends_batch,
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, TokensError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let piece = self.read();
        self.has_ended |= piece.is_err();
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{
        dataset_of, documents, fixture, folder_with, golden, many_documents, sha256,
    };
    use fault::Remedy;
    use serde_json::Value;
    use std::path::Path;

    fn sequences_of(
        dataset: &Path,
        tokenizer: &Tokenizer,
        ctx_len: usize,
    ) -> Result<Vec<Vec<u32>>, TokensError> {
        chunk_and_tokenize(documents(dataset), tokenizer, ctx_len)
    }

    fn tiny_tokenizer() -> Tokenizer {
        Tokenizer::from_dir(&fixture("tiny-llama")).unwrap()
    }

    fn assert_golden(sequences: &[Vec<u32>], golden: &Value) {
        let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        assert_eq!(sequences.len() as u64, golden["n_chunks"].as_u64().unwrap());
        assert_eq!(sequences[0], ids(&golden["first"]));
        assert_eq!(sequences[sequences.len() - 1], ids(&golden["last"]));
        let bytes = sequences.iter().flatten().flat_map(|id| id.to_le_bytes());
        assert_eq!(sha256(bytes), golden["sha256"].as_str().unwrap());
    }

    #[test]
    fn the_sequences_are_sparsifys() {
        let sequences = sequences_of(&fixture("tiny.jsonl"), &tiny_tokenizer(), 64).unwrap();
        assert_golden(&sequences, &golden()["tiny"]);
    }

    #[test]
    fn several_batches_are_sparsifys() {
        let folder = dataset_of(many_documents());
        let sequences = sequences_of(folder.path(), &tiny_tokenizer(), 48).unwrap();
        assert_golden(&sequences, &golden()["many_documents"]);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let folder = dataset_of(many_documents());
        let tokenizers = ["byte-bpe", "eos-lstrip"].map(|name| {
            let tokenizer = Tokenizer::from_dir(&fixture("data").join(name)).unwrap();
            (tokenizer.is_separable(), tokenizer)
        });
        assert!(tokenizers[0].0 && !tokenizers[1].0);
        for (_, tokenizer) in &tokenizers {
            let on = |n_threads| {
                let mut visits = (Vec::new(), Vec::new());
                let cutting = Cutting {
                    n_threads,
                    ..Cutting::new(tokenizer, 48)
                };
                let visit = &mut |ids: &[u32], totals: &Totals| {
                    visits.0.extend_from_slice(ids);
                    visits.1.push(totals.clone());
                    Ok(())
                };
                let documents = documents(folder.path());
                cutting.visit(documents, Totals::default(), visit).unwrap();
                visits
            };
            let one = on(1);
            assert!(one.1.len() > 2, "several pieces");
            for n_threads in [2, 7] {
                assert!(on(n_threads) == one, "{n_threads} threads");
            }
        }
    }

    #[test]
    fn a_post_processor_adds_to_every_sequence() {
        let golden = &golden()["with_bos"];
        let content = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
        let mut json: Value = serde_json::from_slice(&content).unwrap();
        json["post_processor"] = golden["post_processor"].clone();
        let folder = folder_with(&[("tokenizer.json", json.to_string().as_bytes())]);
        let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
        let sequences = sequences_of(&fixture("tiny.jsonl"), &tokenizer, 50).unwrap();
        assert_golden(&sequences, golden);
    }

    #[test]
    fn a_small_last_batch_adds_nothing() {
        let texts = |n: u64| (0..n).map(|_| "a whale".to_string());
        let full = dataset_of(texts(DOCUMENTS_PER_BATCH));
        let one_more = dataset_of(texts(DOCUMENTS_PER_BATCH + 1));
        let tokenizer = tiny_tokenizer();
        assert_eq!(
            sequences_of(full.path(), &tokenizer, 64).unwrap(),
            sequences_of(one_more.path(), &tokenizer, 64).unwrap(),
        );
    }

    #[test]
    fn no_documents_and_too_little_text_are_errors() {
        let empty = folder_with(&[("data.jsonl", b"\n\n")]);
        let error = sequences_of(empty.path(), &tiny_tokenizer(), 64).unwrap_err();
        assert!(error.to_string().ends_with("has no documents"), "{error}");

        // EOS and "a" twice, exactly one sequence of 4: the only piece is the last.
        let short = dataset_of(["a".to_string(), "a".to_string()]);
        let error = sequences_of(short.path(), &tiny_tokenizer(), 4).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(" has 2 documents with 4 tokens"),
            "{message}"
        );
        assert_eq!(error.hint().unwrap(), "add text, or lower ctx_len");
        assert_eq!(
            sequences_of(short.path(), &tiny_tokenizer(), 3)
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn a_bad_line_ends_it() {
        let folder = folder_with(&[("data.jsonl", b"{\"text\": \"a\"}\n{\"body\": \"b\"}\n")]);
        let error = sequences_of(folder.path(), &tiny_tokenizer(), 2).unwrap_err();
        assert!(
            error.to_string().ends_with(":2: no column `text`"),
            "{error}"
        );
    }
}
