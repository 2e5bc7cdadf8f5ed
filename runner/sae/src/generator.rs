//! libtorch's generator of random numbers, of which a process has one.

use std::sync::{Mutex, PoisonError};

/// Seeds libtorch's generator and draws from it. Of those who draw through this function, one does at a time:
/// what is drawn depends on the seed alone, whatever other threads draw.
pub fn with_seed<T>(seed: i64, draw: impl FnOnce() -> T) -> T {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    draw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::ScopedJoinHandle;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn threads_do_not_disturb_each_other() {
        let draw = |seed| {
            with_seed(seed, || {
                let options = (Kind::Float, Device::Cpu);
                [0; 20].map(|_| Tensor::randn([7], options).double_value(&[6]))
            })
        };
        let alone = draw(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|seed| scope.spawn(move || draw(seed))).collect();
            let drawn: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
            assert_eq!(drawn[1].as_ref().unwrap(), &alone);
            assert_ne!(drawn[2].as_ref().unwrap(), &alone);
        });
    }
}
