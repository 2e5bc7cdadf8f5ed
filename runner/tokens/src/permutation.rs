//! numpy's shuffle, number for number.
//!
//! `numpy.random.default_rng(seed).permutation(n)` is a `SeedSequence`, which turns the seed into
//! the state of a PCG64 (XSL-RR 128/64) generator, and a Fisher-Yates shuffle from the end, whose
//! indices are drawn by masking and rejection. numpy promises that seeding and generator stay as
//! they are; the shuffle is that of numpy 1.17 to 2.4.

use rand_core::Rng;
use rand_pcg::Lcg128Xsl64;

/// The numbers 0 to `n` - 1 in the order of `numpy.random.default_rng(seed).permutation(n)`,
/// which is also that of `datasets.Dataset.shuffle(seed)`.
pub fn permutation(n: u64, seed: u64) -> Vec<u64> {
    permutation_of(n, words_of(seed))
}

/// The numbers 0 to `n` - 1 in the order of `numpy.random.default_rng([seed, number]).permutation(n)`: another for each
/// `number`.
pub(crate) fn numbered_permutation(n: u64, seed: u64, number: u32) -> Vec<u64> {
    let words = match words_of(seed) {
        // numpy takes no word for an upper half of zeros.
        [low, 0, ..] => [low, number, 0, 0],
        [low, high, ..] => [low, high, number, 0],
    };
    permutation_of(n, words)
}

/// The two halves of a seed, and zeros, as numpy fills up.
fn words_of(seed: u64) -> [u32; POOL_WORDS] {
    [seed as u32, (seed >> 32) as u32, 0, 0]
}

fn permutation_of(n: u64, entropy: [u32; POOL_WORDS]) -> Vec<u64> {
    let mut order: Vec<u64> = (0..n).collect();
    let mut generator = Pcg64::new(entropy);
    for i in (1..order.len()).rev() {
        let j = generator.up_to(i as u64);
        order.swap(i, j as usize);
    }
    order
}

/// numpy's PCG64 with its buffer of half a word.
struct Pcg64 {
    words: Lcg128Xsl64,
    high_half: Option<u32>,
}

impl Pcg64 {
    fn new(entropy: [u32; POOL_WORDS]) -> Self {
        let [a, b, c, d] = seed_sequence(entropy);
        let join = |high: u64, low: u64| (u128::from(high) << 64) | u128::from(low);
        Self {
            words: Lcg128Xsl64::new(join(a, b), join(c, d)),
            high_half: None,
        }
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(half) = self.high_half.take() {
            return half;
        }
        let word = self.words.next_u64();
        self.high_half = Some((word >> 32) as u32);
        word as u32
    }

    /// A uniform number in 0 to `max` inclusive; `max` > 0.
    fn up_to(&mut self, max: u64) -> u64 {
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            // Small numbers take half a word each; the rare large ones a fresh word.
            let word = match u32::try_from(max) {
                Ok(_) => u64::from(self.next_u32()),
                Err(_) => self.words.next_u64(),
            };
            if word & mask <= max {
                return word & mask;
            }
        }
    }
}

const POOL_WORDS: usize = 4;

/// `numpy.random.SeedSequence(seed).generate_state(4, numpy.uint64)`, for a seed of these words.
fn seed_sequence(entropy: [u32; POOL_WORDS]) -> [u64; 4] {
    let pool = entropy_pool(entropy);
    let mut constant: u32 = 0x8b51_f9dd;
    let mut next_word = |i: usize| {
        let word = pool[i % POOL_WORDS] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        let word = word.wrapping_mul(constant);
        u64::from(word ^ (word >> 16))
    };
    std::array::from_fn(|i| {
        let low = next_word(2 * i);
        low | (next_word(2 * i + 1) << 32)
    })
}

fn entropy_pool(entropy: [u32; POOL_WORDS]) -> [u32; POOL_WORDS] {
    let mut constant: u32 = 0x43b0_d7e5;
    let mut hash = |word: u32| {
        let word = word ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let word = word.wrapping_mul(constant);
        word ^ (word >> 16)
    };
    let mut pool = entropy.map(&mut hash);
    for source in 0..POOL_WORDS {
        for target in (0..POOL_WORDS).filter(|target| *target != source) {
            pool[target] = mix(pool[target], hash(pool[source]));
        }
    }
    pool
}

fn mix(x: u32, y: u32) -> u32 {
    let word = x
        .wrapping_mul(0xca01_f9dd)
        .wrapping_sub(y.wrapping_mul(0x4973_f715));
    word ^ (word >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{golden, sha256};
    use proptest::prelude::*;

    #[test]
    fn the_order_is_numpys() {
        for (key, n_cases) in [("permutations", 25), ("numbered_permutations", 18)] {
            let golden = golden();
            let cases = golden[key].as_array().unwrap();
            assert_eq!(cases.len(), n_cases);
            for case in cases {
                let number = |key: &str| case[key].as_u64();
                let (n, seed) = (number("n").unwrap(), number("seed").unwrap());
                let order = match number("number") {
                    None => permutation(n, seed),
                    Some(number) => numbered_permutation(n, seed, number as u32),
                };
                let first = case["first"].as_array().unwrap().iter();
                let first: Vec<u64> = first.map(|x| x.as_u64().unwrap()).collect();
                assert_eq!(order[..first.len()], first, "{case}");
                let digest = sha256(order.iter().flat_map(|i| i.to_le_bytes()));
                assert_eq!(digest, case["sha256"].as_str().unwrap(), "{case}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_number_occurs_once(n in 0_u64..5000, seed: u64) {
            let mut order = permutation(n, seed);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }
}
