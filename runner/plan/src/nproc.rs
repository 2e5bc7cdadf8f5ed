//! How many processes a launcher starts on a machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Processes on one machine, at most: above any use.
const MOST_PROCESSES: usize = 4096;

/// Processes on one machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "NprocValue", into = "NprocValue")]
#[schemars(with = "NprocValue")]
pub enum Nproc {
    /// `gpu`: one for each GPU.
    #[default]
    Gpu,
    /// This number, from 1 to 4096.
    Count(usize),
}

/// How it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum NprocValue {
    Count(usize),
    Word(String),
}

impl TryFrom<NprocValue> for Nproc {
    type Error = String;

    fn try_from(value: NprocValue) -> Result<Self, String> {
        match value {
            NprocValue::Count(count @ 1..=MOST_PROCESSES) => Ok(Self::Count(count)),
            NprocValue::Word(word) if word == "gpu" => Ok(Self::Gpu),
            NprocValue::Count(0) => Err("0 processes are too few".into()),
            NprocValue::Count(count) => Err(format!(
                "{count} processes are too many: at most {MOST_PROCESSES}"
            )),
            NprocValue::Word(word) => Err(format!(
                "`{word}` is neither a number of processes nor `gpu`"
            )),
        }
    }
}

impl From<Nproc> for NprocValue {
    fn from(nproc: Nproc) -> Self {
        match nproc {
            Nproc::Gpu => Self::Word("gpu".into()),
            Nproc::Count(count) => Self::Count(count),
        }
    }
}
