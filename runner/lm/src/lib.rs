//! Language models with hookpoints, on libtorch.
