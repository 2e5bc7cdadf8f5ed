//! With how many processes a stream continues when a GPU is gone.
//!
//! The jobs stay the same: the tokens of an update are part of them, and any number of processes shares these. What may
//! be lacking is memory, as fewer processes have more of the SAEs each with `distribute_modules`.

use crate::quantity::bytes;
use fault::Fault;

/// What a process of a stream is predicted to take, and may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Predicted, in bytes.
    pub predicted: u64,
    /// At most, in bytes; `None`: not known.
    pub most: Option<u64>,
}

/// The number of processes for a stream that was planned for `n_planned`, each with a GPU, when there are `n_gpus` now.
/// `fit` tells of a number of processes what each takes. Never more than were planned.
///
/// # Errors
/// No GPU is left, or the stream does not fit on those that are.
pub fn fewer_ranks(
    n_planned: usize,
    n_gpus: usize,
    fit: impl FnOnce(usize) -> Fit,
) -> Result<usize, Fault> {
    if n_gpus >= n_planned {
        return Ok(n_planned);
    }
    if n_gpus == 0 {
        let message = format!("of {n_planned} GPUs none is left");
        return Err(Fault::internal(message)
            .with_hint("see `nvidia-smi`; when they are back, the same command continues"));
    }
    let Fit { predicted, most } = fit(n_gpus);
    match most {
        Some(most) if predicted > most => {
            let (predicted, most) = (bytes(predicted), bytes(most));
            let message = format!(
                "of {n_planned} GPUs {n_gpus} are left, and on so few the stream is predicted to take {predicted} of each, \
                 which may have {most}"
            );
            let hint = "when they are all back, the same command continues";
            Err(Fault::internal(message).with_hint(hint))
        }
        _ => Ok(n_gpus),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    /// 80 GB for all SAEs, which are spread over the processes, on GPUs of 30 GB.
    fn fit(n_ranks: usize) -> Fit {
        Fit {
            predicted: 80_000_000_000 / n_ranks as u64,
            most: Some(30_000_000_000),
        }
    }

    #[test]
    fn a_stream_continues_on_what_is_left_if_it_fits() {
        let unused = |_| unreachable!("nothing is lost");
        assert_eq!(fewer_ranks(4, 4, unused).unwrap(), 4);
        assert_eq!(fewer_ranks(4, 9, unused).unwrap(), 4, "not on more");
        assert_eq!(fewer_ranks(4, 3, fit).unwrap(), 3);
        let unknown = |n_ranks| Fit {
            most: None,
            ..fit(n_ranks)
        };
        assert_eq!(fewer_ranks(4, 1, unknown).unwrap(), 1);
    }

    #[test]
    fn what_does_not_fit_is_told_with_numbers() {
        let error = fewer_ranks(4, 2, fit).unwrap_err();
        let text = error.to_string();
        let needs =
            "on so few the stream is predicted to take 40.0 GB of each, which may have 30.0 GB";
        assert_eq!(text, format!("of 4 GPUs 2 are left, and {needs}"));
        assert!(error.hint().unwrap().contains("the same command continues"));
        let error = fewer_ranks(4, 0, fit).unwrap_err();
        assert_eq!(error.to_string(), "of 4 GPUs none is left");
    }
}
