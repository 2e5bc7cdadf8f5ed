//! k-sparse autoencoders on libtorch: encode, decode, load, save and their gradients.
