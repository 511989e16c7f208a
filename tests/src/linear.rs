//! Linearizability on recorded histories: what clients asked and heard, and whether it could have happened one after the
//! other, each thing at some moment between its call and its answer.

mod calls;
pub mod check;
pub mod client;
pub mod pair;
pub mod shrink;
