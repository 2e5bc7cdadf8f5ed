//! The kernels for NVIDIA GPUs (`kernels::cuda`), called with tensors.
//!
//! A GPU has none until they are opened on it (`check.rs`), and each can be left out: then libtorch's operations do
//! the same. Nothing here waits for the device.

#![expect(
    unsafe_code,
    reason = "starts kernels on the memory of tensors; `Opened::start` is all of it"
)]

use super::aten::ranges;
use super::kernel::Kernel;
use super::{Acts, NestedErrors, Rule, SquaredError};
use crate::Encoded;
use kernels::cuda::launches::{self, EntryTokens, NOTHING, OfToken, Products};
use kernels::cuda::{self as gpu, Address, Launch, Levels};
use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tch::{Device, Kind, TchError, Tensor};

/// A GPU with the kernels on it, for the rest of the process.
#[derive(Debug)]
pub(crate) struct Opened {
    device: gpu::Device,
    /// The bits of those that are in use.
    in_use: AtomicU32,
}

/// By number.
static OPENED: RwLock<BTreeMap<usize, &'static Opened>> = RwLock::new(BTreeMap::new());

/// The GPU that `device` is, if kernels were opened on it.
pub(super) fn on_device(device: Device) -> Option<&'static Opened> {
    let Device::Cuda(index) = device else {
        return None;
    };
    let opened = OPENED.read().ok()?;
    opened.get(&index).copied()
}

/// Opens the kernels, none of them in use yet.
pub(super) fn open(index: usize, folders: &gpu::Folders) -> Result<&'static Opened, gpu::Unusable> {
    if let Some(opened) = on_device(Device::Cuda(index)) {
        return Ok(opened);
    }
    let device = gpu::Device::open(index, folders)?;
    let opened: &'static Opened = Box::leak(Box::new(Opened {
        device,
        in_use: AtomicU32::new(0),
    }));
    if let Ok(mut all) = OPENED.write() {
        all.insert(index, opened);
    }
    Ok(opened)
}

/// The GPU that all `tensors` are on, if `kernel` is in use there and can read them.
pub(crate) fn opened(kernel: Kernel, tensors: &[&Tensor]) -> Option<&'static Opened> {
    let device = tensors.first()?.device();
    let opened = on_device(device)?;
    let fits = |tensor: &&Tensor| tensor.device() == device && tensor.is_contiguous();
    (opened.uses(kernel) && tensors.iter().all(fits)).then_some(opened)
}

/// Whether `kernel` changes these matrices without their gradients in memory.
pub(super) fn updates_rows(kernel: Kernel, matrices: &[&Tensor]) -> bool {
    opened(kernel, matrices).is_some_and(|opened| {
        let most = opened.device.card().shared_bytes as usize;
        let bytes = |matrix: &&Tensor| launches::update_bytes(width_of(matrix));
        let fits = |matrix| bytes(matrix).is_some_and(|bytes| bytes <= most);
        matrices.iter().all(fits)
    })
}

/// Latents of tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenLatents<'a> {
    /// `[n_tokens, k]`, or `[n_entries]` if tokens have any number; Int64.
    pub(crate) indices: &'a Tensor,
    /// In the latter case, where those of each token begin, and where the last ones end: `[n_tokens + 1]`, Int64.
    pub(crate) starts: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for TokenLatents<'a> {
    /// As many for each token.
    fn from(indices: &'a Tensor) -> Self {
        Self {
            indices,
            starts: None,
        }
    }
}

impl TokenLatents<'_> {
    fn n_tokens(self) -> i64 {
        match self.starts {
            None => self.indices.size()[0],
            Some(starts) => starts.size()[0] - 1,
        }
    }

    fn launched(self) -> launches::TokenLatents {
        launches::TokenLatents {
            indices: read(self.indices, Kind::Int64),
            of_token: match self.starts {
                None => OfToken::Every(width_of(self.indices)),
                Some(starts) => OfToken::Listed(self.starts_at(starts)),
            },
            n_tokens: self.n_tokens() as usize,
        }
    }

    fn starts_at(self, starts: &Tensor) -> launches::Starts {
        launches::Starts {
            starts: read(starts, Kind::Int64),
            n_entries: self.indices.numel(),
        }
    }
}

/// What the gradient of each row goes through before the optimizer, and what else is written.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    /// What it is divided by: scalar, Float.
    pub(crate) divisor: &'a Tensor,
    /// Whether it loses its part parallel to the row.
    pub(crate) is_projected: bool,
    /// A copy of the weights in bfloat16, written as well.
    pub(crate) rounded: Option<&'a Tensor>,
}

/// Entries in the order of their latents.
#[derive(Debug)]
pub(crate) struct Order {
    /// Where each is among all: `[n_entries]`, Int64. Those of one latent are in the order of their tokens.
    entries: Tensor,
    /// Where those of each latent begin, and the end of all: `[num_latents + 1]`, Int64.
    starts: Tensor,
    num_latents: i64,
    tokens: Tokens,
}

/// Which token an entry belongs to.
#[derive(Debug)]
enum Tokens {
    /// Each has as many.
    Every(i64),
    /// `[n_entries]`, Int64.
    Listed(Tensor),
}

/// Some latents: from the first number on, below the second one.
type Range = (i64, i64);

impl Order {
    /// `indices`: `[n_tokens, k]`.
    pub(crate) fn sort(indices: &Tensor, num_latents: i64) -> Result<Self, TchError> {
        Self::of(indices, Tokens::Every(indices.size2()?.1), num_latents)
    }

    /// `indices`, `tokens`: `[n_entries]`. Entries with the index `num_latents` belong to no latent.
    pub(crate) fn sort_listed(
        indices: &Tensor,
        tokens: &Tensor,
        num_latents: i64,
    ) -> Result<Self, TchError> {
        Self::of(indices, Tokens::Listed(tokens.shallow_clone()), num_latents)
    }

    fn of(indices: &Tensor, tokens: Tokens, num_latents: i64) -> Result<Self, TchError> {
        let options = (Kind::Int, indices.device());
        let latents = indices.f_reshape([-1])?.f_to_kind(Kind::Int)?;
        let (sorted, entries) = latents.f_sort_stable(true, 0, false)?;
        let bounds = Tensor::f_arange(num_latents + 1, options)?;
        let starts = bounds.f_searchsorted(&sorted, false, false, "left", None::<Tensor>)?;
        Ok(Self {
            entries,
            starts,
            num_latents,
            tokens,
        })
    }

    /// Those of some latents.
    fn entries(&self, range: Range) -> Result<launches::SortedEntries, TchError> {
        let starts = rows(&self.starts, (range.0, range.1 + 1))?;
        Ok(launches::SortedEntries {
            order: read(&self.entries, Kind::Int64),
            starts: read(&starts, Kind::Int64),
            n_latents: (range.1 - range.0) as usize,
            tokens: match &self.tokens {
                Tokens::Every(k) => EntryTokens::Every(*k as usize),
                Tokens::Listed(tokens) => EntryTokens::Listed(read(tokens, Kind::Int64)),
            },
        })
    }

    fn all(&self) -> Range {
        (0, self.num_latents)
    }

    /// Latents with the rows of tokens that they are multiplied with. `dense`: `[n_tokens, width]`, or of nested
    /// reconstructions, from the latents below each of `ends`, `[n_levels, n_tokens, width]`.
    fn parts(&self, dense: &Tensor, ends: &[usize]) -> Result<Vec<(Range, Tensor)>, TchError> {
        if dense.dim() == 2 {
            return Ok(vec![(self.all(), dense.shallow_clone())]);
        }
        let of_level = |(range, level)| Ok((range, dense.f_get(level)?));
        ranges(ends).zip(0..).map(of_level).collect()
    }
}

impl Steps<'_> {
    fn of(&self, weights: &Tensor) -> launches::Update {
        launches::Update {
            divisor: read(self.divisor, Kind::Float),
            is_projected: self.is_projected,
            weights: read(weights, Kind::Float),
            rounded: self
                .rounded
                .map_or(NOTHING, |rounded| read(rounded, Kind::BFloat16)),
        }
    }
}

impl Opened {
    pub(super) fn gpu(&self) -> &gpu::Device {
        &self.device
    }

    pub(super) fn uses(&self, kernel: Kernel) -> bool {
        self.in_use.load(Ordering::Relaxed) & kernel.bit() != 0
    }

    pub(super) fn set_used(&self, kernel: Kernel, is_used: bool) {
        if is_used {
            self.in_use.fetch_or(kernel.bit(), Ordering::Relaxed);
        } else {
            self.in_use.fetch_and(!kernel.bit(), Ordering::Relaxed);
        }
    }

    /// The `k` largest of `numbers`: `[n_rows, n]`, Float or BFloat16, by row, the largest first.
    pub(super) fn topk(&self, numbers: &Tensor, k: i64) -> Result<Option<Encoded>, TchError> {
        let (n_rows, n) = numbers.size2()?;
        let products = match numbers.kind() {
            Kind::Float => Products::Float32(read(numbers, Kind::Float)),
            Kind::BFloat16 => Products::BFloat16(read(numbers, Kind::BFloat16)),
            _ => return Ok(None),
        };
        let out = latents(n_rows, k, numbers.device())?;
        let from = launches::TopK {
            products,
            bias: NOTHING,
            n_rows: n_rows as usize,
            n_latents: n as usize,
        };
        self.finish(n_rows, launches::topk(&from, &selected(&out, k)), out)
    }

    /// The `k` latents with the largest pre-activations among `candidates`: `[n_tokens, n]`, the largest first.
    pub(super) fn rescore(
        &self,
        centred: &Tensor,
        (weight, bias): (&Tensor, &Tensor),
        candidates: &Tensor,
        k: i64,
    ) -> Result<Option<Encoded>, TchError> {
        let (n_tokens, n_candidates) = candidates.size2()?;
        let out = latents(n_tokens, k, candidates.device())?;
        let from = launches::Rescore {
            x: read(centred, Kind::Float),
            weight: read(weight, Kind::Float),
            bias: read(bias, Kind::Float),
            candidates: read(candidates, Kind::Int64),
            n_tokens: n_tokens as usize,
            width: width_of(weight),
            n_candidates: n_candidates as usize,
        };
        let launch = launches::rescore_topk(&from, &selected(&out, k));
        self.finish(n_tokens, launch, out)
    }

    /// `dense[token] . rows[index]`, with `bias[index]`: as the indices.
    pub(super) fn dots_at_entries(
        &self,
        dense: &Tensor,
        (rows, bias): (&Tensor, Option<&Tensor>),
        latents: TokenLatents<'_>,
    ) -> Result<Option<Tensor>, TchError> {
        let shape = latents.indices.size();
        // Nothing is written where entries are free.
        let out = Tensor::f_zeros(shape, (Kind::Float, dense.device()))?;
        let from = launches::Dots {
            dense: read(dense, Kind::Float),
            rows: read(rows, Kind::Float),
            bias: bias.map_or(NOTHING, |bias| read(bias, Kind::Float)),
            latents: latents.launched(),
            width: width_of(rows),
        };
        let launch = launches::dots_at_entries(&from, read(&out, Kind::Float));
        self.finish(out.numel() as i64, launch, out)
    }

    /// `sum_i values_i rows[index_i]`: `[n_tokens, width]`.
    pub(super) fn sparse_times_rows(
        &self,
        values: &Tensor,
        latents: TokenLatents<'_>,
        rows: &Tensor,
    ) -> Result<Option<Tensor>, TchError> {
        let (n_tokens, width) = (latents.n_tokens(), rows.size2()?.1);
        let out = Tensor::f_empty([n_tokens, width], (Kind::Float, rows.device()))?;
        let from = launches::SparseProduct {
            values: read(values, Kind::Float),
            latents: latents.launched(),
            rows: read(rows, Kind::Float),
            bias: NOTHING,
            width: width as usize,
        };
        let launch = launches::sparse_times_rows(&from, read(&out, Kind::Float));
        self.finish(n_tokens, launch, out)
    }

    /// A reconstruction's squared error, and its gradients.
    pub(super) fn squared_error(
        &self,
        encoded: &Encoded,
        (w_dec, b_dec): (&Tensor, &Tensor),
        target: &Tensor,
    ) -> Result<Option<SquaredError>, TchError> {
        let (n_tokens, k) = encoded.latent_indices.size2()?;
        let grad_out = target.f_empty_like()?;
        let grad_pre = encoded.latent_acts.f_empty_like()?;
        let sums = Tensor::f_empty([n_tokens], (Kind::Double, target.device()))?;
        let from = launches::Decoding {
            acts: read(&encoded.latent_acts, Kind::Float),
            indices: read(&encoded.latent_indices, Kind::Int64),
            w_dec: read(w_dec, Kind::Float),
            b_dec: read(b_dec, Kind::Float),
            target: read(target, Kind::Float),
            n_tokens: n_tokens as usize,
            width: width_of(w_dec),
            k: k as usize,
        };
        let out = launches::ErrorGradients {
            grad_out: read(&grad_out, Kind::Float),
            grad_pre: read(&grad_pre, Kind::Float),
            sums: read(&sums, Kind::Double),
        };
        let launch = launches::squared_error(&from, &out);
        let done = self.finish(n_tokens, launch, (grad_out, grad_pre))?;
        let Some((grad_out, grad_pre)) = done else {
            return Ok(None);
        };
        Ok(Some(SquaredError {
            sum: sums.f_sum(Kind::Double)?,
            grad_out,
            grad_pre,
        }))
    }

    /// Nested reconstructions from listed latents: see [`super::nested_errors`].
    pub(super) fn nested_errors(
        &self,
        latents: TokenLatents<'_>,
        acts: Acts<'_>,
        (w_dec, b_dec): (&Tensor, &Tensor),
        (target, levels): (&Tensor, &[(usize, f32)]),
    ) -> Result<Option<NestedErrors>, TchError> {
        let (Some(of_levels), Some(starts)) = (Levels::new(levels), latents.starts) else {
            return Ok(None);
        };
        let (n_levels, (n_tokens, d_out)) = (levels.len() as i64, target.size2()?);
        let empty = |shape: &[i64], kind| Tensor::f_empty(shape, (kind, target.device()));
        let grad_out = empty(&[n_levels, n_tokens, d_out], Kind::Float)?;
        let sums = empty(&[n_levels, n_tokens], Kind::Double)?;
        // Nothing is written where entries are free.
        let grad_acts = acts.numbers.f_zeros_like()?;
        let from = launches::NestedDecoding {
            acts: read(acts.numbers, Kind::Float),
            indices: read(latents.indices, Kind::Int64),
            starts: latents.starts_at(starts),
            w_dec: read(w_dec, Kind::Float),
            b_dec: read(b_dec, Kind::Float),
            target: read(target, Kind::Float),
            levels: of_levels,
            reaches_idle: acts.reaches_idle,
            n_tokens: n_tokens as usize,
            width: width_of(w_dec),
        };
        let out = launches::NestedGradients {
            grad_out: read(&grad_out, Kind::Float),
            grad_acts: read(&grad_acts, Kind::Float),
            sums: read(&sums, Kind::Double),
        };
        let launch = launches::nested_errors(&from, &out);
        let done = self.finish(n_tokens, launch, (grad_out, grad_acts))?;
        let Some((grad_out, grad_acts)) = done else {
            return Ok(None);
        };
        Ok(Some(NestedErrors {
            errors: sums.f_sum_dim_intlist(1, false, None)?,
            grad_out,
            grad_acts,
        }))
    }

    /// `sum values[e] dense[token of e]` of the entries of each latent: `[num_latents, width]`. `dense`: with the ends of
    /// nested reconstructions, see [`Order::parts`].
    pub(super) fn rows_gradient(
        &self,
        order: &Order,
        values: &Tensor,
        (dense, ends): (&Tensor, &[usize]),
    ) -> Result<Option<Tensor>, TchError> {
        let shape = [order.num_latents, width_of(dense) as i64];
        let gradient = Tensor::f_empty(shape, (Kind::Float, dense.device()))?;
        for (range, dense) in order.parts(dense, ends)? {
            let out = read(&rows(&gradient, range)?, Kind::Float);
            let entries = order.entries(range)?;
            let launch = launches::rows_gradient(&entries, &row_sums(values, &dense), out);
            if self.finish(range.1 - range.0, launch, ())?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(gradient))
    }

    /// Sums of the entries of each latent: `[num_latents]`.
    pub(super) fn latent_sums(&self, order: &Order, values: &Tensor) -> Result<Tensor, TchError> {
        self.by_latent(order, values, launches::latent_sums)
    }

    /// How many entries of each latent are above 0: `[num_latents]`, Float.
    pub(super) fn fire_counts(&self, order: &Order, acts: &Tensor) -> Result<Tensor, TchError> {
        self.by_latent(order, acts, launches::fire_counts)
    }

    fn by_latent(
        &self,
        order: &Order,
        values: &Tensor,
        launch: impl Fn(&launches::SortedEntries, Address, Address) -> Option<Launch>,
    ) -> Result<Tensor, TchError> {
        let out = Tensor::f_empty([order.num_latents], (Kind::Float, values.device()))?;
        let addresses = [values, &out].map(|tensor| read(tensor, Kind::Float));
        let entries = order.entries(order.all())?;
        if let Some(launch) = launch(&entries, addresses[0], addresses[1]) {
            self.start(&launch)?;
        }
        Ok(out)
    }

    /// One update of a matrix, by the gradient that [`Opened::rows_gradient`] gives. `None`: its rows are too wide:
    /// [`updates_rows`] says so before.
    pub(super) fn step_rows(
        &self,
        order: &Order,
        (values, (dense, ends)): (&Tensor, (&Tensor, &[usize])),
        (weights, rule): (&mut Tensor, &mut Rule<'_>),
        steps: &Steps<'_>,
    ) -> Result<Option<()>, TchError> {
        for (range, dense) in order.parts(dense, ends)? {
            let own = |tensor: &Tensor| rows(tensor, range);
            let rounded = steps.rounded.map(own).transpose()?;
            let steps = Steps {
                rounded: rounded.as_ref(),
                ..*steps
            };
            let (entries, sums) = (order.entries(range)?, row_sums(values, &dense));
            let update = steps.of(&own(weights)?);
            let launch = match rule {
                Rule::Signum(constants, z) => {
                    let rule = (*constants, read(&own(z)?, Kind::Float));
                    launches::rows_signum(&entries, &sums, &update, rule)
                }
                Rule::Adam(constants, [first, second]) => {
                    let means = [own(first)?, own(second)?];
                    launches::rows_adam(&entries, &sums, &update, (*constants, moments(&means)))
                }
            };
            if self.finish(range.1 - range.0, launch, ())?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// One update of a matrix; a vector is left to libtorch: it would be one block's work.
    pub(super) fn step(
        &self,
        (weights, rule): (&mut Tensor, &mut Rule<'_>),
        gradient: &Tensor,
    ) -> Result<Option<()>, TchError> {
        if weights.dim() < 2 {
            return Ok(None);
        }
        let one = Tensor::f_ones([0i64; 0], (Kind::Float, weights.device()))?;
        let steps = Steps {
            divisor: &one,
            is_projected: false,
            rounded: None,
        };
        let (gradient, update) = (dense(gradient), steps.of(weights));
        let launch = match rule {
            Rule::Signum(constants, z) => {
                launches::dense_signum(&gradient, &update, (*constants, read(z, Kind::Float)))
            }
            Rule::Adam(constants, means) => {
                launches::dense_adam(&gradient, &update, (*constants, moments(means)))
            }
        };
        self.finish(weights.size()[0], launch, ())
    }

    /// Starts it, if there is anything to do; `None`: it is not made for these sizes.
    fn finish<T>(&self, n: i64, launch: Option<Launch>, out: T) -> Result<Option<T>, TchError> {
        match launch {
            None => Ok((n == 0).then_some(out)),
            Some(launch) if !self.device.has_memory_for(&launch) => Ok(None),
            Some(launch) => {
                self.start(&launch)?;
                Ok(Some(out))
            }
        }
    }

    fn start(&self, launch: &Launch) -> Result<(), TchError> {
        // SAFETY: every address is that of a tensor whose kind and contiguity were looked at, with the shape that
        // the sizes say. libtorch's allocator gives a freed tensor's memory only to work that is started later on
        // the same stream.
        unsafe { self.device.start(launch) }.map_err(|error| TchError::Torch(error.0))
    }
}

/// Where a tensor's numbers are.
fn read(tensor: &Tensor, kind: Kind) -> Address {
    assert!(
        tensor.kind() == kind && tensor.is_contiguous(),
        "{tensor:?} is not {kind:?} one after the other"
    );
    Address(tensor.data_ptr() as u64)
}

/// The rows of some latents, which share its memory.
fn rows(tensor: &Tensor, (begin, end): Range) -> Result<Tensor, TchError> {
    tensor.f_narrow(0, begin, end - begin)
}

fn width_of(rows: &Tensor) -> usize {
    rows.size().last().map_or(0, |width| *width as usize)
}

fn dense(gradient: &Tensor) -> launches::DenseGradient {
    launches::DenseGradient {
        gradient: read(gradient, Kind::Float),
        n_rows: gradient.size()[0] as usize,
        width: width_of(gradient),
    }
}

fn moments([exp_avg, exp_avg_sq]: &[Tensor; 2]) -> launches::Moments {
    launches::Moments {
        exp_avg: read(exp_avg, Kind::Float),
        exp_avg_sq: read(exp_avg_sq, Kind::Float),
    }
}

fn row_sums(values: &Tensor, dense: &Tensor) -> launches::RowSums {
    launches::RowSums {
        values: read(values, Kind::Float),
        dense: read(dense, Kind::Float),
        width: width_of(dense),
    }
}

fn selected(out: &Encoded, k: i64) -> launches::Selected {
    launches::Selected {
        acts: read(&out.latent_acts, Kind::Float),
        indices: read(&out.latent_indices, Kind::Int64),
        k: k as usize,
        with_relu: false,
    }
}

/// Room for the latents of tokens.
fn latents(n_tokens: i64, k: i64, device: Device) -> Result<Encoded, TchError> {
    Ok(Encoded {
        latent_acts: Tensor::f_empty([n_tokens, k], (Kind::Float, device))?,
        latent_indices: Tensor::f_empty([n_tokens, k], (Kind::Int64, device))?,
    })
}
