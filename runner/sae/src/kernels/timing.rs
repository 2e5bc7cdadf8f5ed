//! How long calls take on a device.

use std::time::{Duration, Instant};
use tch::{Device, TchError};

/// Seconds of the fastest of up to ten calls within about `most`, after one that is not counted; each between two
/// waits for the device.
///
/// # Errors
/// That of a call.
pub fn fastest(
    device: Device,
    most: Duration,
    mut call: impl FnMut() -> Result<(), TchError>,
) -> Result<f64, TchError> {
    let began = Instant::now();
    let (mut fastest, mut n_calls) = (f64::INFINITY, 0);
    call()?;
    while n_calls < 2 || (n_calls < 10 && began.elapsed() < most) {
        wait_for(device);
        let start = Instant::now();
        call()?;
        wait_for(device);
        fastest = fastest.min(start.elapsed().as_secs_f64());
        n_calls += 1;
    }
    Ok(fastest)
}

/// Sync: what was asked for is measured to its end.
fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}
