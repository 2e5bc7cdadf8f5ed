//! What goes through the model at once.

use super::EncodeRequest;
use super::rows::{EncodedRows, TopLatents};
use crate::TrainError;
use std::fmt;
use std::iter::Peekable;
use tch::{Device, Kind, Tensor};
use tokens::{Tokenizer, Tokens};

/// What shall be encoded.
pub enum EncodeInput {
    /// Texts, each a sequence of its own: the tokenizer's, with what it adds to a text.
    Texts {
        /// The texts, as they come.
        texts: Box<dyn Iterator<Item = Result<String, TrainError>>>,
        /// Tokens that a text may have; `None`: as many as the model's positions were made for.
        ctx_len: Option<usize>,
    },
    /// The sequences of a data set, in their order.
    Sequences {
        /// All of them.
        tokens: Tokens,
        /// Only the first so many.
        most: Option<u64>,
    },
}

impl fmt::Debug for EncodeInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Texts { ctx_len, .. } => {
                f.debug_struct("Texts").field("ctx_len", ctx_len).finish()
            }
            Self::Sequences { tokens, most } => f
                .debug_struct("Sequences")
                .field("n_sequences", &tokens.n_sequences())
                .field("most", most)
                .finish(),
        }
    }
}

type TokenIds = Result<Vec<i64>, TrainError>;

/// Sequences in groups.
pub(super) struct Batches {
    sequences: Peekable<Box<dyn Iterator<Item = TokenIds>>>,
    /// Index of the next sequence.
    next: i64,
    batch_tokens: usize,
}

impl Batches {
    /// `max_ctx_len`: tokens that the model's positions were made for.
    pub(super) fn new(
        input: EncodeInput,
        request: &EncodeRequest,
        max_ctx_len: usize,
    ) -> Result<Self, TrainError> {
        let sequences: Box<dyn Iterator<Item = TokenIds>> = match input {
            EncodeInput::Texts { texts, ctx_len } => {
                let ctx_len = ctx_len.unwrap_or(max_ctx_len);
                let tokenizer = Tokenizer::of_class(&request.model_dir, request.tokenizer_class)?;
                let texts = texts.enumerate();
                Box::new(
                    texts.map(move |(index, text)| tokenized(&tokenizer, index, &text?, ctx_len)),
                )
            }
            EncodeInput::Sequences { tokens, most } => {
                let n_sequences = tokens.n_sequences();
                let most = most.map_or(n_sequences, |most| most.min(n_sequences as u64) as usize);
                Box::new((0..most).map(move |index| Ok(tokens.sequence(index))))
            }
        };
        Ok(Self {
            sequences: sequences.peekable(),
            next: 0,
            batch_tokens: request.batch_tokens,
        })
    }
}

fn tokenized(tokenizer: &Tokenizer, index: usize, text: &str, ctx_len: usize) -> TokenIds {
    let token_ids = tokenizer.tokenize(text)?;
    match token_ids.len() <= ctx_len {
        true => Ok(token_ids.into_iter().map(i64::from).collect()),
        false => Err(TrainError::LongText {
            index,
            n_tokens: token_ids.len(),
            ctx_len,
        }),
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, TrainError>;

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

    /// Positions in all sequences, those behind the shorter ones too.
    pub(super) fn n_positions(&self) -> usize {
        self.sequences.len() * self.width.max(1)
    }

    pub(super) fn token_ids(&self, place: usize) -> &[i64] {
        &self.sequences[place]
    }

    /// `[n_sequences, width]`, Int64, at least one wide. Shorter sequences end in token 0, which none of
    /// their own tokens sees: the models are causal.
    pub(super) fn input_ids(&self, device: Device) -> Result<Tensor, TrainError> {
        let width = self.width.max(1);
        let mut padded = Vec::with_capacity(width * self.sequences.len());
        for sequence in &self.sequences {
            padded.extend_from_slice(sequence);
            padded.resize(padded.len() + width - sequence.len(), 0);
        }
        let ids = Tensor::f_from_slice(&padded)?.f_view([-1, width as i64])?;
        Ok(ids.f_to_kind(Kind::Int64)?.f_to_device(device)?)
    }

    /// Adds the rows of an SAE for the sequence at `place`.
    pub(super) fn add_rows(
        &self,
        place: usize,
        sae_idx: usize,
        latents: &TopLatents,
        rows: &mut EncodedRows,
    ) {
        let first_token = place * self.width.max(1);
        for (position, &token_id) in self.sequences[place].iter().enumerate() {
            for &(latent, activation) in latents.of_token(first_token + position) {
                rows.sequence.push(self.first + place as i64);
                rows.position.push(position as i32);
                rows.token_id.push(token_id as i32);
                rows.sae.push(sae_idx as i32);
                rows.latent.push(latent);
                rows.activation.push(activation);
            }
        }
    }
}
