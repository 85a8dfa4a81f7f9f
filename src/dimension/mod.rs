//! Tables of attributes: load, epochs, lookup.
