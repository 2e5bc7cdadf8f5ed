//! One document.

/// A row of a data set, as far as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Text to be tokenised.
    Text(String),
    /// Ids of tokens.
    TokenIds(Vec<u32>),
}
