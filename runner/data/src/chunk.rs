//! Cutting documents into sequences of tokens, as sparsify does with one process.

use crate::{DataError, Documents, Tokenizer};

/// Documents that are tokenised as one text.
pub const DOCUMENTS_PER_BATCH: usize = 2048;

/// Batches tokenised side by side at most: each needs some hundred bytes a token.
const MAX_PARALLEL_BATCHES: usize = 8;

/// The whole data set as sequences of exactly `ctx_len` tokens.
///
/// Every [`DOCUMENTS_PER_BATCH`] documents become one text, with the EOS token in front of each
/// document. The text's tokens are cut into pieces of `ctx_len`, counting what the tokenizer's
/// post-processor adds to each, and the last piece is dropped. This is sparsify 1.3.3's
/// `chunk_and_tokenize` with `num_proc=1`; the result depends neither on the machine nor on the
/// number of threads. One difference: a batch that gives no sequence adds nothing, and only a data
/// set that gives none is an error.
///
/// # Errors
/// A document that cannot be read, a `ctx_len` the tokenizer does not allow, or a data set without
/// documents or with too few for one sequence.
pub fn chunk_and_tokenize(
    mut documents: Documents,
    tokenizer: &Tokenizer,
    ctx_len: usize,
) -> Result<Vec<Vec<u32>>, DataError> {
    let mut sequences = Vec::new();
    visit_batches(&mut documents, tokenizer, ctx_len, &mut |batch, _| {
        sequences.extend(batch);
        Ok(())
    })?;
    Ok(sequences)
}

/// How far a data set has been tokenised.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) n_documents: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_sequences: u64,
    pub(crate) n_bytes_read: u64,
}

/// Receives the sequences of a batch, and the totals with this batch included.
pub(crate) type VisitBatch<'a> = &'a mut dyn FnMut(Vec<Vec<u32>>, &Totals) -> Result<(), DataError>;

/// [`chunk_and_tokenize`], batch by batch in order.
pub(crate) fn visit_batches(
    documents: &mut Documents,
    tokenizer: &Tokenizer,
    ctx_len: usize,
    visit: VisitBatch<'_>,
) -> Result<Totals, DataError> {
    tokenizer.check_ctx_len(ctx_len)?;
    let n_parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let mut totals = Totals::default();
    loop {
        let batches = read_batches(documents, tokenizer, n_parallel.min(MAX_PARALLEL_BATCHES))?;
        if batches.is_empty() {
            break;
        }
        let (counts, texts): (Vec<u64>, Vec<String>) = batches.into_iter().unzip();
        let token_ids = tokenizer
            .encode(texts)
            .map_err(|source| DataError::Tokenize {
                path: tokenizer.path().to_path_buf(),
                first_document: totals.n_documents,
                source,
            })?;
        for (n_documents, ids) in counts.into_iter().zip(token_ids) {
            let sequences = tokenizer.cut(&ids, ctx_len);
            totals.n_documents += n_documents;
            totals.n_tokens += ids.len() as u64;
            totals.n_sequences += sequences.len() as u64;
            totals.n_bytes_read = documents.n_bytes_read();
            visit(sequences, &totals)?;
        }
    }
    check_totals(documents, ctx_len, totals)
}

/// Up to `n_batches` joined texts, each with its number of documents.
fn read_batches(
    documents: &mut Documents,
    tokenizer: &Tokenizer,
    n_batches: usize,
) -> Result<Vec<(u64, String)>, DataError> {
    let mut batches = Vec::with_capacity(n_batches);
    while batches.len() < n_batches {
        let (mut n_documents, mut text) = (0, String::new());
        for document in documents.by_ref().take(DOCUMENTS_PER_BATCH) {
            text.push_str(tokenizer.eos_token());
            text.push_str(&document?);
            n_documents += 1;
        }
        if n_documents == 0 {
            break;
        }
        batches.push((n_documents, text));
    }
    Ok(batches)
}

fn check_totals(
    documents: &Documents,
    ctx_len: usize,
    totals: Totals,
) -> Result<Totals, DataError> {
    let path = documents.path().to_path_buf();
    let Totals {
        n_documents,
        n_tokens,
        n_sequences,
        ..
    } = totals;
    if n_documents == 0 {
        return Err(DataError::NoDocuments { path });
    }
    if n_sequences == 0 {
        return Err(DataError::TooLittleText {
            path,
            n_documents,
            n_tokens,
            ctx_len,
        });
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{dataset_of, fixture, folder_with, golden, many_documents, sha256};
    use serde_json::Value;
    use std::path::Path;

    fn sequences_of(
        dataset: &Path,
        tokenizer: &Tokenizer,
        ctx_len: usize,
    ) -> Result<Vec<Vec<u32>>, DataError> {
        chunk_and_tokenize(Documents::open(dataset, "text")?, tokenizer, ctx_len)
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
        let texts = |n: usize| (0..n).map(|_| "a whale".to_string());
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
        assert!(matches!(error, DataError::NoDocuments { .. }), "{error:?}");

        // EOS and "a" twice, exactly one sequence of 4: the only piece is the last.
        let short = dataset_of(["a".to_string(), "a".to_string()]);
        let error = sequences_of(short.path(), &tiny_tokenizer(), 4).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::TooLittleText {
                    n_documents: 2,
                    n_tokens: 4,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(error.hint().unwrap(), "give more text, or lower ctx_len");
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
            matches!(error, DataError::MissingColumn { line: 2, .. }),
            "{error:?}"
        );
    }
}
