//! `coracle-bench embedded`: what an in-process cluster commits through the embedding API.

pub mod baseline;
pub mod drive;
