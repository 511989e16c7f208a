//! The contract's records are put together while the module is compiled, so that they cost it no code.

use core::marker::PhantomData;

use crate::Message;

/// Finds out at compile time whether a type is a message: `<Probe<T>>::NAME` is its name if so, else empty.
pub struct Probe<T>(PhantomData<T>);

/// The answer for types that are no messages; an inherent constant goes before a trait's.
pub trait Unknown {
    /// No name.
    const NAME: &'static str = "";
}

impl<T> Unknown for Probe<T> {}

impl<T: Message> Probe<T> {
    /// The message's name.
    pub const NAME: &'static str = T::NAME;
}

/// A reference to a message's schema, in three parts; anything goes (`{}`) when it has no name.
pub const fn reference(name: &'static str) -> [&'static str; 3] {
    if name.is_empty() { ["{}", "", ""] } else { ["{\"$ref\":\"#/$defs/", name, "\"}"] }
}

/// How many bytes the parts have together.
pub const fn length(parts: &[[&str; 3]]) -> usize {
    let mut total = 0;
    let mut at = 0;
    while at < parts.len() {
        total += parts[at][0].len() + parts[at][1].len() + parts[at][2].len();
        at += 1;
    }
    total
}

/// The parts, one after the other; `N` is their [`length`].
pub const fn concat<const N: usize>(parts: &[[&str; 3]]) -> [u8; N] {
    let mut all = [0; N];
    let mut end = 0;
    let mut at = 0;
    while at < parts.len() {
        let mut part = 0;
        while part < 3 {
            let bytes = parts[at][part].as_bytes();
            let mut byte = 0;
            while byte < bytes.len() {
                all[end] = bytes[byte];
                end += 1;
                byte += 1;
            }
            part += 1;
        }
        at += 1;
    }
    all
}

/// What was put together, as text.
pub const fn text(bytes: &[u8]) -> &str {
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("parts that are text make a text"),
    }
}
