//! Continues with smaller parts when memory runs out. The gradients of the parts add up to the same.

use crate::TrainError;
use sae::SaeError;
use tch::TchError;

/// Runs `work(first, n)` on parts of `n_rows` rows, `n_parts` of them to begin with. A part for which
/// memory runs out is halved, and `n_parts` stays doubled for later calls.
///
/// # Errors
/// The first error of `work` that is not about memory, or that occurs with a single row.
pub(crate) fn in_parts_that_fit(
    n_rows: i64,
    n_parts: &mut usize,
    mut work: impl FnMut(i64, i64) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut first = 0;
    while first < n_rows {
        let n_in_part = (n_rows as u64).div_ceil(*n_parts as u64) as i64;
        let n = n_in_part.clamp(1, n_rows - first);
        match work(first, n) {
            Ok(()) => first += n,
            Err(error) if n > 1 && is_out_of_memory(&error) => *n_parts *= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether libtorch could not allocate.
pub(crate) fn is_out_of_memory(error: &TrainError) -> bool {
    match error {
        TrainError::Torch(error) | TrainError::Sae(SaeError::Torch(error)) => {
            let message = message(error);
            // CUDA's message, and that of the allocator on the CPU.
            message.contains("out of memory") || message.contains("can't allocate memory")
        }
        _ => false,
    }
}

fn message(error: &TchError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_memory() -> TrainError {
        TchError::Torch("DefaultCPUAllocator: can't allocate memory: you tried".into()).into()
    }

    /// Parts of 10 rows if more than `n_fit` rows do not fit.
    fn parts(n_fit: i64, mut n_parts: usize) -> (Vec<(i64, i64)>, usize) {
        let mut done = Vec::new();
        in_parts_that_fit(10, &mut n_parts, |first, n| {
            if n > n_fit {
                return Err(no_memory());
            }
            done.push((first, n));
            Ok(())
        })
        .unwrap();
        (done, n_parts)
    }

    #[test]
    fn rows_are_cut_into_equal_parts() {
        assert_eq!(parts(10, 1), (vec![(0, 10)], 1));
        assert_eq!(parts(10, 3), (vec![(0, 4), (4, 4), (8, 2)], 3));
        assert_eq!(parts(10, 100).0.len(), 10);
    }

    #[test]
    fn parts_are_halved_until_they_fit_and_no_row_is_lost() {
        assert_eq!(parts(5, 1), (vec![(0, 5), (5, 5)], 2));
        assert_eq!(parts(3, 1), (vec![(0, 3), (3, 3), (6, 3), (9, 1)], 4));
        assert_eq!(parts(1, 1).0.len(), 10);
    }

    #[test]
    fn other_errors_and_a_row_that_does_not_fit_are_passed_on() {
        let mut n_parts = 1;
        let no_row_fits = in_parts_that_fit(10, &mut n_parts, |_, _| Err(no_memory()));
        assert!(is_out_of_memory(&no_row_fits.unwrap_err()));
        let other = |_, _| Err(TchError::Torch("shapes do not fit".into()).into());
        let error = in_parts_that_fit(10, &mut n_parts, other).unwrap_err();
        assert!(!is_out_of_memory(&error));
    }

    #[test]
    fn libtorchs_own_refusal_is_known() {
        let options = (tch::Kind::Float, tch::Device::Cpu);
        let error = tch::Tensor::f_empty([1 << 50], options).unwrap_err();
        assert!(is_out_of_memory(&error.into()));
    }
}
