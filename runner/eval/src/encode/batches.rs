//! What goes through the model at once.

use super::rows::{EncodedRows, TopLatents};
use crate::EvalError;
use fault::Fault;
use plan::{EncodeInput, EncodeTask, Texts};
use std::io::{self, BufRead, BufReader};
use std::iter::Peekable;
use std::path::Path;
use tch::{Kind, Tensor};
use tokens::{Tokenizer, Tokens};

type Lines = Box<dyn Iterator<Item = Result<String, EvalError>>>;

type TokenIds = Result<Vec<i64>, EvalError>;

/// Sequences in groups.
pub(super) struct Batches {
    sequences: Peekable<Box<dyn Iterator<Item = TokenIds>>>,
    /// Index of the next sequence.
    next: i64,
    batch_tokens: usize,
}

impl Batches {
    /// `max_ctx_len`: tokens that the model's positions were made for.
    pub(super) fn new(task: &EncodeTask, max_ctx_len: usize) -> Result<Self, EvalError> {
        let sequences: Box<dyn Iterator<Item = TokenIds>> = match &task.input {
            EncodeInput::Texts {
                texts,
                tokenizer_class,
                ctx_len,
            } => {
                let ctx_len = ctx_len.unwrap_or(max_ctx_len);
                let tokenizer = Tokenizer::of_class(&task.model.dir, *tokenizer_class)?;
                let texts = read_texts(texts)?.enumerate();
                Box::new(
                    texts.map(move |(index, text)| tokenized(&tokenizer, index, &text?, ctx_len)),
                )
            }
            EncodeInput::Sequences { tokens, most } => {
                let tokens = Tokens::find(&tokens.cache_dir, &tokens.digest)?;
                let n_sequences = tokens.n_sequences();
                let most = most.map_or(n_sequences, |most| most.min(n_sequences as u64) as usize);
                Box::new((0..most).map(move |index| Ok(tokens.sequence(index))))
            }
        };
        Ok(Self {
            sequences: sequences.peekable(),
            next: 0,
            batch_tokens: task.batch_tokens,
        })
    }
}

/// The texts, as they are read.
fn read_texts(texts: &Texts) -> Result<Lines, Fault> {
    Ok(match texts {
        Texts::Given(texts) => Box::new(texts.clone().into_iter().map(Ok)),
        Texts::File(path) => {
            let file = files::open(path).map_err(Fault::io("read", path))?;
            lines(BufReader::new(file), path)
        }
        Texts::StandardInput => lines(BufReader::new(io::stdin()), Path::new("-")),
    })
}

fn lines(reader: impl BufRead + 'static, path: &Path) -> Lines {
    let path = path.to_owned();
    Box::new(
        reader
            .lines()
            .map(move |line| line.map_err(EvalError::io("read", &path))),
    )
}

fn tokenized(tokenizer: &Tokenizer, index: usize, text: &str, ctx_len: usize) -> TokenIds {
    let token_ids = tokenizer.tokenize(text)?;
    if token_ids.len() <= ctx_len {
        Ok(token_ids.into_iter().map(i64::from).collect())
    } else {
        let n_tokens = token_ids.len();
        let message =
            format!("text {index} has {n_tokens} tokens, and a sequence at most {ctx_len}");
        let fault = Fault::input(message).with_hint(
                "shorten it, or pass it as a data set, which is cut into sequences; `ctx_len` can be raised as far as \
                 the model's positions go",
            );
        Err(fault.into())
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, EvalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.sequences.next()? {
            Ok(sequence) => sequence,
            Err(error) => return Some(Err(error)),
        };
        let mut batch = Batch {
            first: self.next,
            width: first.len(),
            sequences: vec![first],
        };
        // An error is left for the next call: what came before it is worth its turn.
        while let Some(Ok(sequence)) = self.sequences.peek() {
            let width = batch.width.max(sequence.len());
            if width * (batch.sequences.len() + 1) > self.batch_tokens {
                break;
            }
            batch.width = width;
            let sequence = self.sequences.next().expect("it was peeked at");
            batch.sequences.extend(sequence);
        }
        self.next += batch.sequences.len() as i64;
        Some(Ok(batch))
    }
}

/// Sequences that go through the model at once.
#[derive(Debug)]
pub(super) struct Batch {
    /// Index of the first sequence.
    first: i64,
    /// Length of the longest.
    width: usize,
    sequences: Vec<Vec<i64>>,
}

impl Batch {
    pub(super) fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Positions in all sequences, including those that fill up shorter ones.
    pub(super) fn n_positions(&self) -> usize {
        self.sequences.len() * self.width.max(1)
    }

    pub(super) fn n_tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// `[n_sequences, width]`, Int64, on the CPU, at least one wide. Shorter sequences are filled up with token 0, which
    /// has no effect on the tokens before it: the models are causal.
    pub(super) fn input_ids(&self) -> Result<Tensor, EvalError> {
        let width = self.width.max(1);
        let mut padded = Vec::with_capacity(width * self.sequences.len());
        for sequence in &self.sequences {
            padded.extend_from_slice(sequence);
            padded.resize(padded.len() + width - sequence.len(), 0);
        }
        let ids = Tensor::f_from_slice(&padded)?.f_view([-1, width as i64])?;
        Ok(ids.f_to_kind(Kind::Int64)?)
    }

    /// Adds the rows of an SAE for the sequence `sequence_idx` of the batch.
    pub(super) fn add_rows(
        &self,
        sequence_idx: usize,
        sae_idx: usize,
        latents: &TopLatents,
        rows: &mut EncodedRows,
    ) {
        let first_token = sequence_idx * self.width.max(1);
        for (position, &token_id) in self.sequences[sequence_idx].iter().enumerate() {
            for &(latent, activation) in latents.of_token(first_token + position) {
                rows.sequence.push(self.first + sequence_idx as i64);
                rows.position.push(position as i32);
                rows.token_id.push(token_id as i32);
                rows.sae.push(sae_idx as i32);
                rows.latent.push(latent);
                rows.activation.push(activation);
            }
        }
    }
}
