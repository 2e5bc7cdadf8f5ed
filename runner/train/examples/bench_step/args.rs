//! What was typed.

use crate::Result;
use crate::measure::Case;
use lm::parse_device;
use plan::EncoderDtype;
use std::path::PathBuf;
use std::str::FromStr;
use tch::Device;

/// Width of SmolLM2-135M's residual stream.
const D_IN: i64 = 576;

/// The options.
pub(crate) struct Args {
    d_in: i64,
    n_tokens: Vec<i64>,
    num_latents: Vec<i64>,
    k: Vec<i64>,
    pub(crate) encoder_dtype: EncoderDtype,
    pub(crate) rounds: usize,
    pub(crate) threads: i32,
    pub(crate) device: Device,
    pub(crate) json: Option<PathBuf>,
    /// What is asked for.
    pub(crate) task: Task,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Measure, once the gate has passed and, if there is a folder, the updates agree with those in it.
    Measure { agree_with: Option<PathBuf> },
    /// Write the first updates of each case into a folder.
    Reference { folder: PathBuf },
    /// Say what the machine is, and that the device is there.
    Look,
    /// Answer requests.
    Serve,
}

impl Args {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut parsed = Self {
            d_in: D_IN,
            n_tokens: vec![1024, 8192],
            num_latents: vec![4608, 18432],
            k: vec![32, 128],
            encoder_dtype: EncoderDtype::default(),
            rounds: 5,
            threads: 2,
            device: Device::Cpu,
            json: None,
            task: Task::Measure { agree_with: None },
        };
        let mut args = args.iter();
        while let Some(option) = args.next() {
            let mut value = || args.next().ok_or(format!("`{option}` has no value"));
            match option.as_str() {
                "--serve" => parsed.task = Task::Serve,
                "--look" => parsed.task = Task::Look,
                "--reference" => {
                    parsed.task = Task::Reference {
                        folder: value()?.into(),
                    };
                }
                "--agree-with" => {
                    let agree_with = Some(value()?.into());
                    parsed.task = Task::Measure { agree_with };
                }
                "--device" => parsed.device = parse_device(value()?)?,
                "--smoke" => parsed.make_small(),
                "--d-in" => parsed.d_in = value()?.parse()?,
                "--n" => parsed.n_tokens = list(value()?)?,
                "--latents" => parsed.num_latents = list(value()?)?,
                "--k" => parsed.k = list(value()?)?,
                "--encoder-dtype" => {
                    parsed.encoder_dtype = serde_json::from_value(value()?.as_str().into())?;
                }
                "--rounds" => parsed.rounds = value()?.parse()?,
                "--threads" => parsed.threads = value()?.parse()?,
                "--json" => parsed.json = Some(value()?.into()),
                _ => return Err(format!("there is no option `{option}`").into()),
            }
        }
        match parsed.rounds {
            0 => Err("`--rounds` is at least 1".into()),
            _ => Ok(parsed),
        }
    }

    /// Seconds, to see that everything works.
    fn make_small(&mut self) {
        self.n_tokens = vec![1024];
        self.num_latents = vec![4608];
        self.k = vec![32];
        self.rounds = 3;
    }

    /// Every combination.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &n_tokens in &self.n_tokens {
            for &num_latents in &self.num_latents {
                cases.extend(self.k.iter().map(|&k| Case {
                    d_in: self.d_in,
                    n_tokens,
                    num_latents,
                    k,
                    encoder_dtype: self.encoder_dtype,
                }));
            }
        }
        cases
    }
}

fn list<T: FromStr<Err: std::error::Error + 'static>>(text: &str) -> Result<Vec<T>> {
    let parse = |part: &str| part.trim().parse::<T>().map_err(Into::into);
    text.split(',').map(parse).collect()
}
