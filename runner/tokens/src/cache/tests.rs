//! The cache: builds, kills, damage.

use super::*;
use crate::chunk_and_tokenize;
use crate::fixtures::{
    data_files, dataset_of, documents, fixture, folder_with, many_documents, text_rows, tiny_spec,
};
use fault::Remedy;
use plan::OnBadRow;
use plan::RowSpec;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

type Damage = fn(&mut Vec<u8>);

/// Opens or builds, and tells what was reported.
fn build(spec: &TokenSpec, cache_dir: &Path) -> (Tokens, Vec<BuildProgress>) {
    let mut reports = Vec::new();
    let tokens = Tokens::open_or_build(spec, cache_dir, &mut |r| {
        reports.push(r);
        ControlFlow::Continue(())
    })
    .unwrap();
    (tokens, reports)
}

fn files_ending(cache_dir: &Path, end: &str) -> Vec<PathBuf> {
    let paths = cache_dir
        .join("tokens")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect()
}

fn all_sequences(tokens: &Tokens) -> Vec<Vec<i64>> {
    (0..tokens.n_sequences())
        .map(|i| tokens.sequence(i))
        .collect()
}

fn expected_sequences() -> Vec<Vec<i64>> {
    let documents = documents(&fixture("tiny.jsonl"));
    let tokenizer = Tokenizer::from_dir(&fixture("tiny-llama")).unwrap();
    let sequences = chunk_and_tokenize(documents, &tokenizer, 64).unwrap();
    sequences
        .iter()
        .map(|ids| ids.iter().map(|id| i64::from(*id)).collect())
        .collect()
}

#[test]
fn tokens_are_made_once() {
    let cache = folder_with(&[]);
    let (tokens, reports) = build(&tiny_spec(), cache.path());
    assert_eq!((tokens.n_sequences(), tokens.ctx_len()), (1025, 64));
    assert_eq!(all_sequences(&tokens), expected_sequences());
    let n_bytes = fixture("tiny.jsonl").metadata().unwrap().len();
    assert!(
        matches!(reports.last(), Some(BuildProgress::Tokenised { n_documents: 584, n_bytes_read, n_bytes_total, .. })
            if *n_bytes_read == n_bytes && *n_bytes_total == n_bytes),
        "{reports:?}"
    );

    let (again, reports) = build(&tiny_spec(), cache.path());
    assert_eq!(reports, []);
    assert_eq!(all_sequences(&again), all_sequences(&tokens));
    assert_eq!(
        again.digest(),
        tiny_spec().digest(&DigestCache::new(cache.path())).unwrap()
    );
    assert!(files_ending(cache.path(), ".partial").is_empty());
}

#[test]
fn a_large_vocabulary_takes_four_bytes_an_id() {
    let cache = folder_with(&[]);
    let spec = TokenSpec {
        vocab_size: (1 << 16) + 1,
        ..tiny_spec()
    };
    let (tokens, _) = build(&spec, cache.path());
    assert_eq!(all_sequences(&tokens), expected_sequences());
    let n_bytes = files_ending(cache.path(), ".tokens")[0]
        .metadata()
        .unwrap()
        .len();
    assert_eq!(n_bytes, 128 + 1025 * 64 * 4);
}

#[test]
fn a_damaged_file_is_replaced() {
    let damages: [(&str, Damage); 5] = [
        ("not a token file", |bytes| bytes.clear()),
        ("should be", |bytes| bytes.truncate(1000)),
        ("should be", |bytes| bytes.push(0)),
        ("header is damaged", |bytes| bytes[17] ^= 1),
        ("not a token file", |bytes| bytes[..128].fill(0)),
    ];
    let cache = folder_with(&[]);
    build(&tiny_spec(), cache.path());
    let path = files_ending(cache.path(), ".tokens").remove(0);
    let whole = std::fs::read(&path).unwrap();
    for (expected, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let (tokens, reports) = build(&tiny_spec(), cache.path());
        let BuildProgress::Discarded {
            problem,
            path: named,
        } = &reports[0]
        else {
            panic!("{reports:?}");
        };
        assert!(problem.contains(expected), "{problem}");
        assert_eq!(*named, path);
        assert_eq!(tokens.n_sequences(), 1025);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn what_a_killed_process_left_unsaid_counts_for_nothing() {
    let cache = folder_with(&[]);
    let digest = tiny_spec().digest(&DigestCache::new(cache.path())).unwrap();
    let token_file = TokenFile::new(cache.path(), &digest);
    std::fs::create_dir_all(&token_file.folder).unwrap();
    std::fs::write(token_file.partial(true), vec![7; 1 << 20]).unwrap();
    let (tokens, reports) = build(&tiny_spec(), cache.path());
    assert!(
        matches!(reports[0], BuildProgress::Tokenised { .. }),
        "{reports:?}"
    );
    assert_eq!(all_sequences(&tokens), expected_sequences());
    assert!(files_ending(cache.path(), ".partial").is_empty());
}

/// Three batches of documents.
fn many_spec(folder: &Path) -> TokenSpec {
    TokenSpec {
        files: data_files(folder),
        rows: text_rows(48),
        ..tiny_spec()
    }
}

#[test]
fn stopped_work_is_taken_up_where_it_ended() {
    let folder = dataset_of(many_documents());
    let spec = many_spec(folder.path());
    let (expected, _) = build(&spec, folder_with(&[]).path());
    for n_reports in 1..4 {
        let cache = folder_with(&[]);
        let mut n_left = n_reports;
        let error = Tokens::open_or_build(&spec, cache.path(), &mut |_| {
            n_left -= 1;
            match n_left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        assert!(matches!(error, Err(TokensError::Stopped)), "{error:?}");
        assert!(files_ending(cache.path(), ".tokens").is_empty());
        let (tokens, reports) = build(&spec, cache.path());
        let n_documents = [2048, 4096, 4500][n_reports - 1];
        assert_eq!(reports[0], BuildProgress::Resumed { n_documents });
        assert_eq!(all_sequences(&tokens), all_sequences(&expected));
        assert_eq!(tokens.counts(), expected.counts());
        assert_eq!(files_ending(cache.path(), "").len(), 2, "tokens and lock");
    }
}

#[test]
fn several_threads_at_once_make_it_once() {
    let cache = folder_with(&[]);
    let n_built = AtomicUsize::new(0);
    let work = || {
        let (tokens, reports) = build(&tiny_spec(), cache.path());
        let built = |report| matches!(report, &BuildProgress::Tokenised { .. });
        n_built.fetch_add(usize::from(reports.iter().any(built)), Ordering::SeqCst);
        assert_eq!(all_sequences(&tokens), expected_sequences());
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    assert_eq!(n_built.load(Ordering::SeqCst), 1);
}

#[test]
fn a_waiting_process_says_so_and_takes_the_result() {
    let cache = folder_with(&[]);
    let digest = tiny_spec().digest(&DigestCache::new(cache.path())).unwrap();
    let token_file = TokenFile::new(cache.path(), &digest);
    std::fs::create_dir_all(&token_file.folder).unwrap();
    let mut lock = token_file
        .lock(&mut |_| panic!("nobody else has it"))
        .unwrap();
    let files = DigestCache::new(cache.path());
    let stopped = Tokens::open_or_build(&tiny_spec(), cache.path(), &mut |report| {
        assert_eq!(report, BuildProgress::Waiting);
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(TokensError::Stopped)), "{stopped:?}");
    let mut reports = Vec::new();
    let tokens = Tokens::open_or_build(&tiny_spec(), cache.path(), &mut |report| {
        reports.push(report);
        if reports.len() == 2 {
            let go_on = &mut |_| ControlFlow::Continue(());
            token_file.build(&tiny_spec(), &files, true, go_on).unwrap();
            lock.take();
        }
        ControlFlow::Continue(())
    });
    assert_eq!(tokens.unwrap().n_sequences(), 1025);
    assert_eq!(reports, [BuildProgress::Waiting, BuildProgress::Waiting]);
}

#[test]
fn a_token_past_the_vocabulary_is_an_error_and_leaves_no_file() {
    let cache = folder_with(&[]);
    let spec = TokenSpec {
        vocab_size: 260,
        ..tiny_spec()
    };
    let error =
        Tokens::open_or_build(&spec, cache.path(), &mut |_| ControlFlow::Continue(())).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("gives token 299 (") && message.ends_with("vocab_size is 260"),
        "{message}"
    );
    assert!(files_ending(cache.path(), ".tokens").is_empty());
    assert!(files_ending(cache.path(), ".partial").is_empty());
}

#[test]
fn data_that_changes_meanwhile_is_an_error() {
    let cache = folder_with(&[]);
    let folder = dataset_of((0..50).map(|i| format!("document {i} of a growing file")));
    let spec = TokenSpec {
        files: data_files(folder.path()),
        ..tiny_spec()
    };
    let error = Tokens::open_or_build(&spec, cache.path(), &mut |_| {
        let path = folder.path().join("data.jsonl");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"text\": \"more\"}");
        std::fs::write(path, text).unwrap();
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("changed while it was tokenised"), "{error}");
    assert!(files_ending(cache.path(), ".tokens").is_empty());
    assert!(files_ending(cache.path(), ".partial").is_empty());
    let (_, reports) = build(&spec, cache.path());
    let is_fresh = |report| matches!(report, &BuildProgress::Tokenised { .. });
    assert!(reports.iter().all(is_fresh), "{reports:?}");
}

/// Rows of token ids, of which some are not a sequence of three.
fn tokenised_spec(rows: &str, on_bad_row: OnBadRow) -> (tempfile::TempDir, TokenSpec) {
    let folder = folder_with(&[("data.jsonl", rows.as_bytes())]);
    let spec = TokenSpec {
        files: data_files(folder.path()),
        rows: RowSpec {
            on_bad_row,
            ..text_rows(3)
        },
        // No tokenizer is needed.
        tokenizer_dir: folder.path().into(),
        vocab_size: 300,
    };
    (folder, spec)
}

#[test]
fn token_ids_are_taken_as_they_are() {
    let rows = "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5, 299]}\n";
    let (_folder, spec) = tokenised_spec(rows, OnBadRow::Fail);
    let (tokens, _) = build(&spec, folder_with(&[]).path());
    assert_eq!(all_sequences(&tokens), [[1, 2, 3], [4, 5, 299]]);
    assert_eq!(tokens.counts().n_tokens, 6);
}

#[test]
fn rows_of_another_length_are_bad_rows() {
    let rows = "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4]}\n{\"input_ids\": [5, 6, 7]}";
    let (_folder, spec) = tokenised_spec(rows, OnBadRow::Fail);
    let go_on = &mut |_| ControlFlow::Continue(());
    let error = Tokens::open_or_build(&spec, folder_with(&[]).path(), go_on).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("row 2 of data set"), "{text}");
    assert!(text.ends_with("has 1 token ids; ctx_len is 3"), "{text}");
    assert!(error.hint().unwrap().contains("set ctx_len to 1"));

    let (_folder, spec) = tokenised_spec(rows, OnBadRow::Skip);
    let cache = folder_with(&[]);
    let (tokens, reports) = build(&spec, cache.path());
    assert_eq!(all_sequences(&tokens), [[1, 2, 3], [5, 6, 7]]);
    assert_eq!(tokens.counts().n_skipped, 1);
    let text = reports.last().unwrap().to_string();
    assert!(
        text.starts_with("skipped 1 bad row; the first one: row 2"),
        "{text}"
    );
    assert!(text.ends_with("has 1 token ids; ctx_len is 3"), "{text}");

    let (_, reports) = build(&spec, cache.path());
    let (n_rows, first) = (1, None);
    assert_eq!(reports, [BuildProgress::Skipped { n_rows, first }]);
    assert_eq!(reports[0].to_string(), "skipped 1 bad row");
}

#[test]
fn token_ids_past_the_vocabulary_are_an_error() {
    let (_folder, spec) = tokenised_spec("{\"input_ids\": [1, 300, 3]}", OnBadRow::Skip);
    let go_on = &mut |_| ControlFlow::Continue(());
    let error = Tokens::open_or_build(&spec, folder_with(&[]).path(), go_on).unwrap_err();
    assert!(
        error.to_string().contains("has token 300, but"),
        "{error:?}"
    );
}

#[test]
fn only_bad_rows_are_no_documents() {
    let folder = folder_with(&[("data.jsonl", b"{\"body\": \"a\"}\n{\"body\": \"b\"}\n")]);
    let spec = TokenSpec {
        files: data_files(folder.path()),
        rows: RowSpec {
            on_bad_row: OnBadRow::Skip,
            ..text_rows(3)
        },
        ..tiny_spec()
    };
    let go_on = &mut |_| ControlFlow::Continue(());
    let error = Tokens::open_or_build(&spec, folder_with(&[]).path(), go_on).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("no documents, but 2 bad rows, the first one because"),
        "{text}"
    );
    assert!(text.ends_with("no column `text`"), "{text}");
}

#[test]
fn tokens_that_were_not_made_are_told() {
    let cache = folder_with(&[]);
    let digest = tiny_spec().digest(&DigestCache::new(cache.path())).unwrap();
    let error = Tokens::find(cache.path(), &digest).unwrap_err();
    assert!(error.to_string().ends_with("it is not there"), "{error}");
    build(&tiny_spec(), cache.path());
    assert_eq!(
        Tokens::find(cache.path(), &digest).unwrap().n_sequences(),
        1025
    );
}

#[test]
fn a_cache_folder_that_is_a_file_is_named() {
    let folder = folder_with(&[("cache", b"")]);
    let path = folder.path().join("cache");
    let error =
        Tokens::open_or_build(&tiny_spec(), &path, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot create `"),
        "{error:?}"
    );
}
